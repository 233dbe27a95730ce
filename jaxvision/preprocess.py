"""Resize, crop and normalise, as the evaluation transforms of torchvision's weights.

Two paths. The PIL path (`eval_image`) gives the bits of `weights.transforms()`; it is
what accuracies are reported on. The path on the device (`resize_center_crop`) is for
images that are already there, and differs by the rounding of PIL's two passes, at most
1/255.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxvision.resize import interpolation_taps, resample
from jaxvision.typing import AnyArray, Array, Float, Images, Int, Shaped, Squares, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MEAN_COLOUR = tuple(round(255 * share) for share in IMAGENET_MEAN)
"""(124, 116, 104): ImageNet's mean, which normalisation brings to nearly 0."""

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[str, ...] = get_args(Fit)
"""How a photo becomes a square; see `eval_image`."""

Integers = Int[Array, "n"]


@dataclass(frozen=True)
class Preprocessing:
    """What a set of weights expects of its images.

    `resize` is the short side in pixels, `crop` the side of the centre square, `mean`
    and `std` are per channel for images in `[0, 1]`. With `mirror` a prediction is the
    mean over the image and its mirror image, and with a `shift` over both moved by so
    many pixels too; see `functional.mirrored`. `fit` says how a photo becomes a square;
    unless it is crop, `resize` is not used. The defaults are those of torchvision's
    `ImageClassification` preset (bilinear, antialiased).
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    mirror: bool = False
    shift: int = 0
    fit: str = "crop"


def resized_shape(height: int, width: int, *, resize: int) -> tuple[int, int]:
    """Height and width once the short side has `resize` pixels, by torchvision's rule.

    The long side is truncated, not rounded.

    Raises:
      ValueError: a side is not positive.
    """
    if min(height, width, resize) < 1:
        raise ValueError(
            f"cannot resize a {height} x {width} image to a short side of {resize}: "
            "every side must have at least one pixel"
        )
    if width <= height:
        return int(resize * height / width), resize
    return resize, int(resize * width / height)


def eval_image(
    image: Image.Image, *, resize: int, crop: int, fit: str = "crop"
) -> UInt8[np.ndarray, "{crop} {crop} 3"]:
    """The evaluation copy of one photo: uint8, `crop` pixels a side.

    By `crop` it is bit for bit torchvision's `ImageClassification` preset on a PIL
    image, short of the conversion to float: the short side becomes `resize` pixels, and
    where the result is smaller than the crop it is padded with black. The others show
    all of the photo: by `pad` its long side becomes `crop` pixels, and `MEAN_COLOUR`
    fills the rest, as Pillow's `ImageOps.pad` does it; by `stretch` both sides do,
    whatever its shape.

    Raises:
      ValueError: the image is not RGB, a size is not positive, or there is no such fit.
    """
    if image.mode != "RGB":
        raise ValueError(
            f"expected an RGB image, got mode {image.mode!r}: "
            'call image.convert("RGB") first'
        )
    _check_crop(crop)
    _check_fit(fit)
    if fit == "pad":
        return np.array(_pad(image, crop))
    if fit == "stretch":
        return np.array(_resized(image, crop, crop))
    height, width = resized_shape(image.height, image.width, resize=resize)
    image = _resized(image, height, width)
    if (height, width) == (crop, crop):
        return np.array(image)
    padding, (top, left) = _center(height, width, crop)
    if padding == ((0, 0), (0, 0)):
        # Cropping before the conversion copies the square alone.
        return np.array(image.crop((left, top, left + crop, top + crop)))
    pixels = np.pad(np.asarray(image), (*padding, (0, 0)))
    return pixels[top : top + crop, left : left + crop].copy()


def square_image(
    image: Image.Image, *, size: int, crop: int | None = None, fit: str = "crop"
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The training copy of one photo, uint8, `size` pixels a side.

    By `crop` it is the centre square, the short side being `size`. By the other fits it
    is the evaluation copy of `crop` pixels (by default `size`, which is also the most)
    with a margin of `MEAN_COLOUR`: the centre of it is what evaluation sees, and a
    random crop of it is moved, not enlarged.

    Raises:
      ValueError: the image is not RGB, a size is not positive, or there is no such fit.
    """
    if fit == "crop":
        return eval_image(image, resize=size, crop=size)
    inner = min(size if crop is None else crop, size)
    pixels = eval_image(image, resize=inner, crop=inner, fit=fit)
    if inner == size:
        return pixels
    square = np.full((size, size, 3), MEAN_COLOUR, np.uint8)
    _, (top, left) = _center(size, size, inner)
    square[top : top + inner, left : left + inner] = pixels
    return square


def visible_share(
    height: int, width: int, *, resize: int, crop: int, fit: str = "crop"
) -> float:
    """How much of a photo's area its evaluation copy shows, in (0, 1].

    Raises:
      ValueError: a side is not positive, or there is no such fit.
    """
    _check_fit(fit)
    if fit != "crop":
        return 1.0
    _check_crop(crop)
    sides = resized_shape(height, width, resize=resize)
    return float(np.prod([min(crop, side) / side for side in sides]))


def to_float(images: Shaped[AnyArray, "*dims"]) -> Float[Array, "*dims"]:
    """Images in `[0, 1]`, float32, from uint8; floating images come back unchanged.

    The bits are those of torchvision's `convert_image_dtype`.

    Raises:
      ValueError: the images are neither uint8 nor floating.
    """
    images = jnp.asarray(images)
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    if images.dtype != jnp.uint8:
        raise ValueError(
            f"expected uint8 or floating images, got {images.dtype}: "
            "scale them to uint8 0..255 or to floats in [0, 1]"
        )
    x = images.astype(jnp.float32)
    # XLA turns x / 255 into a product with the rounded reciprocal, one bit off for half
    # the values. Since 1/255 = 1/256 + 1/65280 and x/256 is exact, this sum is x / 255.
    return x * (1 / 256) + x * (1 / 65280)


def normalize(
    images: Float[AnyArray, "*dims c"],
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Float[Array, "*dims c"]:
    """Images in `[0, 1]` minus the channel means, divided by the standard deviations.

    Within one unit in the last place of torchvision's `normalize` (a test says so).

    Raises:
      ValueError: the images are not floating, as `to_float` leaves them.
    """
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"expected floating images in [0, 1], got {images.dtype}: "
            "call to_float first"
        )
    shape = (1,) * (images.ndim - 1) + (-1,)
    center = jnp.asarray(mean, images.dtype).reshape(shape)
    scale = jnp.asarray(std, images.dtype).reshape(shape)
    return (images - center) / scale


@partial(jax.jit, static_argnames=("resize", "crop"))
def resize_center_crop(
    images: Shaped[AnyArray, "n h w c"], *, resize: int, crop: int
) -> Shaped[Array, "n {crop} {crop} c"]:
    """`eval_image` on the device, for images of one size, in their own dtype.

    Equal to torchvision's antialiased resize of float tensors; at most 1/255 away from
    the PIL path. uint8 images are rounded once, at the end.

    Raises:
      ValueError: a size is not positive, or the images are neither uint8 nor floating.
    """
    images = jnp.asarray(images)
    floating = jnp.issubdtype(images.dtype, jnp.floating)
    if not floating and images.dtype != jnp.uint8:
        raise ValueError(f"expected uint8 or floating images, got {images.dtype}")
    _check_crop(crop)
    height, width = images.shape[1:3]
    new_height, new_width = resized_shape(height, width, resize=resize)
    padding, (top, left) = _center(new_height, new_width, crop)
    x = images if floating else images.astype(jnp.float32)
    # Only the rows and columns that the crop keeps are computed.
    rows = _crop_taps(height, new_height, padding[0], top, crop, x)
    columns = _crop_taps(width, new_width, padding[1], left, crop, x)
    x = resample(x, rows, columns)
    return x if floating else jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def center_crop(images: Images, *, size: int) -> Squares:
    """The centre squares, `size` pixels a side.

    Raises:
      ValueError: the images are smaller than the square.
    """
    check_crop(images, size=size, padding=0)
    _, height, width, _ = images.shape
    _, (top, left) = _center(height, width, size)
    return images[:, top : top + size, left : left + size]


def crop(
    images: Images, top: Integers, left: Integers, *, size: int, padding: int = 0
) -> Squares:
    """Squares of `size` pixels a side, cut from the images after padding.

    Args:
      images: the batch.
      top: first row, in the padded image; the square must lie in it.
      left: first column, likewise.
      size: pixels a side.
      padding: black pixels to put around the image first.

    Raises:
      ValueError: the padded images are smaller than the square.
    """
    check_crop(images, size=size, padding=padding)
    if padding:
        border = (padding, padding)
        images = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    shape = (size, size, images.shape[3])

    def cut(image, i, j):
        # All of one type: a plain 0 is an int64 where JAX computes in 64 bits.
        return jax.lax.dynamic_slice(image, (i, j, jnp.zeros_like(i)), shape)

    return jax.vmap(cut)(images, top, left)


def resized_crop(
    images: Images,
    top: Integers,
    left: Integers,
    height: Integers,
    width: Integers,
    *,
    size: int,
) -> Squares:
    """Rectangles of the images, resized to `size` pixels a side.

    Bilinear with antialiasing; each rectangle must lie in its image.
    """
    _, full_height, full_width, _ = images.shape
    # Coordinates in 16 bits would miss by pixels.
    common = {"out_size": size, "dtype": jnp.promote_types(images.dtype, jnp.float32)}
    rows = interpolation_taps(top, height, size=full_height, **common)
    columns = interpolation_taps(left, width, size=full_width, **common)
    return resample(images, rows, columns).astype(images.dtype)


def check_crop(images: Images, *, size: int, padding: int) -> None:
    """Raises ValueError unless the padded images hold a square of `size` pixels."""
    height, width = (side + 2 * padding for side in images.shape[1:3])
    if not 0 < size <= min(height, width):
        raise ValueError(
            f"cannot cut {size} x {size} pixels from images of {height} x {width}: "
            "give larger images, a smaller size, or more padding"
        )


def sample(
    image: Float[Array, "h w c"],
    x: Float[Array, "out_h out_w"],
    y: Float[Array, "out_h out_w"],
    *,
    interpolation: str,
) -> Float[Array, "out_h out_w c"]:
    """One image at the pixel coordinates `x`, `y`; black outside, as `grid_sample`.

    Raises:
      ValueError: the interpolation is neither `nearest` nor `bilinear`.
    """
    if interpolation not in _SAMPLERS:
        raise ValueError(
            f"unknown interpolation {interpolation!r}; use one of {list(_SAMPLERS)}"
        )
    return _SAMPLERS[interpolation](image, x, y)


def _pixels(image, x, y):
    """The pixels at whole coordinates, black outside the image."""
    height, width, channels = image.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    row = jnp.clip(y, 0, height - 1).astype(jnp.int32)
    column = jnp.clip(x, 0, width - 1).astype(jnp.int32)
    # One index a pixel, whole pixels as slices: twice as fast as channel by channel.
    flat = image.reshape(-1, channels)
    pixels = flat.at[row * width + column].get(mode="promise_in_bounds")
    return jnp.where(inside[:, :, None], pixels, 0)


def _nearest(image, x, y):
    return _pixels(image, jnp.round(x), jnp.round(y))


def _bilinear(image, x, y):
    left, top = jnp.floor(x), jnp.floor(y)
    right, bottom = (x - left)[:, :, None], (y - top)[:, :, None]
    upper = _pixels(image, left, top) * (1 - right)
    upper += _pixels(image, left + 1, top) * right
    lower = _pixels(image, left, top + 1) * (1 - right)
    lower += _pixels(image, left + 1, top + 1) * right
    return (upper * (1 - bottom) + lower * bottom).astype(image.dtype)


_SAMPLERS = {"nearest": _nearest, "bilinear": _bilinear}


def _crop_taps(size, new_size, padding, first, crop, images):
    """The taps of a resize, padded with weights of zero, that a crop keeps."""
    taps = interpolation_taps(
        jnp.zeros(1, jnp.int32),
        jnp.full(1, size),
        size=size,
        out_size=new_size,
        dtype=images.dtype,
    )

    def keep(x):
        x = jnp.pad(x, ((0, 0), padding, (0, 0)))[:, first : first + crop]
        return jnp.broadcast_to(x, (len(images), *x.shape[1:]))

    return jax.tree.map(keep, taps)


def _center(height, width, crop):
    """Centre crop by torchvision's rule: padding of each side, then the corner."""
    short = [max(crop - side, 0) for side in (height, width)]
    padding = tuple((pad // 2, (pad + 1) // 2) for pad in short)
    # Python's round, as in torchvision: halves go to the even pixel.
    corner = tuple(round((max(side, crop) - crop) / 2.0) for side in (height, width))
    return padding, corner


def _resized(image, height, width):
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _pad(image, side):
    """Pillow's `ImageOps.pad`, save that a thin strip keeps a pixel."""
    longest = max(image.size)
    width, height = (max(1, round(x / longest * side)) for x in image.size)
    square = Image.new("RGB", (side, side), MEAN_COLOUR)
    corner = round((side - width) * 0.5), round((side - height) * 0.5)
    square.paste(_resized(image, height, width), corner)
    return square


def _check_fit(fit):
    if fit not in FITS:
        raise ValueError(f"unknown fit {fit!r}; use one of {', '.join(FITS)}")


def _check_crop(crop):
    if crop < 1:
        raise ValueError(f"crop must be at least one pixel, got {crop}")
