"""Augmentation on the device, per sample, with torchvision's semantics.

For given parameters each function equals `torchvision.transforms.v2.functional` on
float tensors. The `random_*` functions draw the parameters of every sample from the
distributions of torchvision's classes; they take one key for the batch, and compile
once per shape and options. Images are floating NHWC in `[0, 1]`, angles in degrees.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxvision.preprocess import center_crop, crop, resized_crop, sample
from jaxvision.typing import Array, Float, Images, Int, PRNGKey, Shaped

GRAY = (0.2989, 0.587, 0.114)
"""What torchvision weighs red, green and blue with."""
_, CONTRAST, SATURATION, HUE = range(4)
"""Numbers in the orders of `color_jitter`, as in torchvision; brightness is 0."""

Flags = Shaped[Array, "n"]
Scalars = Float[Array, "n"]
Pairs = Float[Array, "n 2"]
Orders = Int[Array, "n 4"]


def horizontal_flip(images: Images, flip: Flags) -> Images:
    """Images mirrored left to right where `flip` is true."""
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def vertical_flip(images: Images, flip: Flags) -> Images:
    """Images mirrored top to bottom where `flip` is true."""
    return jnp.where(flip[:, None, None, None], images[:, ::-1], images)


def rotate(images: Images, angle: Scalars, *, interpolation: str = "nearest") -> Images:
    """Images turned counter-clockwise about their centre; black outside."""
    zero = jnp.zeros_like(angle)
    pair = jnp.stack((zero, zero), axis=1)
    # torchvision's affine turns clockwise, its rotate the other way.
    return affine(images, -angle, pair, zero + 1, pair, interpolation=interpolation)


def affine(
    images: Images,
    angle: Scalars,
    translate: Pairs,
    scale: Scalars,
    shear: Pairs,
    *,
    interpolation: str = "nearest",
) -> Images:
    """Images sheared, scaled and turned about their centre, then moved; black outside.

    Outside is zero before interpolation, as in torchvision's functional form without a
    fill; its classes, with `fill=0` and `bilinear`, darken the border a second time.

    `angle` is clockwise, `translate` in pixels to the right and down, `shear` along x
    and along y; `interpolation` is `nearest` or `bilinear`.

    Raises:
      ValueError: the interpolation is unknown.
    """
    # Coordinates in 16 bits would miss by pixels.
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    parameters = (x.astype(dtype) for x in (angle, translate, scale, shear))
    return jax.vmap(partial(_warp, interpolation))(images, *parameters)


def _warp(interpolation, image, angle, translate, scale, shear):
    """One image through the inverse of torchvision's affine matrix."""
    height, width, _ = image.shape
    turn, skew = jnp.radians(angle), jnp.radians(shear)
    # rotation @ shear: [[a, b], [c, d]], of determinant one.
    a = jnp.cos(turn - skew[1]) / jnp.cos(skew[1])
    c = jnp.sin(turn - skew[1]) / jnp.cos(skew[1])
    b = -(a * jnp.tan(skew[0]) + jnp.sin(turn))
    d = jnp.cos(turn) - c * jnp.tan(skew[0])
    # Pixel centres, counted from the centre of the image.
    middle = jnp.array([width - 1, height - 1], angle.dtype) / 2
    x = (jnp.arange(width, dtype=angle.dtype) - middle[0] - translate[0])[None, :]
    y = (jnp.arange(height, dtype=angle.dtype) - middle[1] - translate[1])[:, None]
    source_x = (d * x - b * y) / scale + middle[0]
    source_y = (a * y - c * x) / scale + middle[1]
    return sample(image, source_x, source_y, interpolation=interpolation)


# Colours are adjusted in the three planes of a batch, (n, h, w) each: a last axis of
# three leaves vector units idle, and every channel would compute the gray value anew.


def adjust_brightness(images: Images, factor: Scalars) -> Images:
    """Images times `factor`, clipped to `[0, 1]`."""
    return jnp.clip(images * factor[:, None, None, None], 0, 1)


def adjust_contrast(images: Images, factor: Scalars) -> Images:
    """Images blended with the mean of their gray version; 0 is flat, 1 the original."""
    planes = _planes(images)
    mean = _gray(planes).mean((1, 2), keepdims=True)
    return jnp.stack(_blend(planes, factor[:, None, None], mean), axis=-1)


def adjust_saturation(images: Images, factor: Scalars) -> Images:
    """Images blended with their gray version; 0 is gray, 1 the original."""
    planes = _planes(images)
    return jnp.stack(_blend(planes, factor[:, None, None], _gray(planes)), axis=-1)


def adjust_hue(images: Images, shift: Scalars) -> Images:
    """Images with the hue of HSV turned by `shift` of a full turn, -0.5 .. 0.5."""
    return jnp.stack(_turn_hue(_planes(images), shift[:, None, None]), axis=-1)


def color_jitter(
    images: Images,
    brightness: Scalars,
    contrast: Scalars,
    saturation: Scalars,
    hue: Scalars | None,
    order: Orders,
) -> Images:
    """Brightness, contrast, saturation and hue adjusted in each sample's own order.

    Images must be in `[0, 1]`: there a factor of 1 changes nothing, which is how an
    adjustment that is not due is left out. Each row of `order` is a permutation of
    0 .. 3. A hue of None leaves out the hue, and the time that it takes.
    """
    # Every adjustment but the hue is a blend towards a target: black, the mean, the
    # gray image. So any order is three blends with factors picked per sample, and a
    # turn of the hue before, between or after them.
    rank = jnp.argsort(order, axis=1)
    blends = jnp.argsort(rank[:, :HUE], axis=1)
    factors = jnp.stack((brightness, contrast, saturation), axis=1)
    factors = jnp.take_along_axis(factors, blends, axis=1)
    ranks = jnp.take_along_axis(rank, blends, axis=1)

    def blend_between(planes, mean, first, last):
        for kind, factor, at in zip(blends.T, factors.T, ranks.T, strict=True):
            factor = jnp.where((first <= at) & (at < last), factor, 1)
            to_mean = (kind == CONTRAST) * mean
            to_gray = (kind == SATURATION)[:, None, None] * _gray(planes)
            target = to_mean[:, None, None] + to_gray
            planes = _blend(planes, factor[:, None, None], target)
        return planes

    def adjust_until(last, mean):
        planes = _planes(images)
        if hue is None:
            return blend_between(planes, mean, 0, last)
        turn = rank[:, HUE]
        planes = blend_between(planes, mean, 0, jnp.minimum(turn, last))
        shift = jnp.where(turn < last, hue, 0)
        planes = _turn_hue(planes, shift[:, None, None])
        return blend_between(planes, mean, turn, last)

    # The contrast needs the mean of the image as it is by then. To compute that image
    # twice costs less than to keep it: nothing is written but the result.
    due = rank[:, CONTRAST]
    mean = _gray(adjust_until(due, jnp.zeros_like(contrast))).mean((1, 2))
    return jnp.stack(adjust_until(len(order.T), mean), axis=-1)


def _planes(images):
    if images.shape[3] != 3:
        raise ValueError(
            f"colours are adjusted in RGB images, got {images.shape[3]} channels"
        )
    return tuple(images[..., channel] for channel in range(3))


def _gray(planes):
    red, green, blue = planes
    return GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue


def _blend(planes, factor, target):
    rest = (1 - factor) * target
    return tuple(jnp.clip(factor * plane + rest, 0, 1) for plane in planes)


def _turn_hue(planes, shift):
    """RGB to HSV, the turn, and back, in one formula without cases by sector."""
    red, green, blue = planes
    high = jnp.maximum(jnp.maximum(red, green), blue)
    span = high - jnp.minimum(jnp.minimum(red, green), blue)
    slope = 1 / jnp.where(span == 0, 1, span)
    hue = jnp.where(
        high == red,
        (green - blue) * slope,
        jnp.where(high == green, 2 + (blue - red) * slope, 4 + (red - green) * slope),
    )
    hue = hue + 6 * shift

    def channel(offset):
        t = hue + offset
        t = t - 6 * jnp.floor(t / 6)
        return high - span * jnp.clip(jnp.minimum(t, 4 - t), 0, 1)

    return channel(5), channel(3), channel(1)


@partial(jax.jit, static_argnames="p")
def random_horizontal_flip(key: PRNGKey, images: Images, *, p: float = 0.5) -> Images:
    """Each image mirrored left to right with probability `p`."""
    return horizontal_flip(images, jax.random.bernoulli(key, p, images.shape[:1]))


@partial(jax.jit, static_argnames="p")
def random_vertical_flip(key: PRNGKey, images: Images, *, p: float = 0.5) -> Images:
    """Each image mirrored top to bottom with probability `p`."""
    return vertical_flip(images, jax.random.bernoulli(key, p, images.shape[:1]))


@partial(jax.jit, static_argnames=("size", "padding"))
def random_crop(key: PRNGKey, images: Images, *, size: int, padding: int = 0) -> Images:
    """A square of `size` pixels a side, anywhere in each padded image."""
    n, *sides, _ = images.shape
    places = [side + 2 * padding - size + 1 for side in sides]
    top, left = _draw(key, n, *((0, count) for count in places)).astype(jnp.int32)
    return crop(images, top, left, size=size, padding=padding)


@partial(jax.jit, static_argnames=("size", "scale", "ratio"))
def random_resized_crop(
    key: PRNGKey,
    images: Images,
    *,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Images:
    """A rectangle of random area and shape of each image, resized to `size` pixels.

    `scale` is the range of its share of the area, `ratio` of its width / height. The
    first of ten draws that fits in the image is taken, or else the largest centred
    rectangle of an allowed shape.

    Raises:
      ValueError: a range is not positive and increasing.
    """
    _check_range("scale", scale)
    _check_range("ratio", ratio)
    n, height, width, _ = images.shape
    tries = [scale] * 10 + [(math.log(ratio[0]), math.log(ratio[1]))] * 10
    draws = _draw(key, n, *tries, (0, 1), (0, 1))
    area, shape = height * width * draws[:10], jnp.exp(draws[10:20])
    sides = jnp.stack((jnp.sqrt(area / shape), jnp.sqrt(area * shape)), axis=1)
    sides = jnp.round(sides).astype(jnp.int32)
    whole = jnp.array([height, width], jnp.int32)[:, None]
    fits = jnp.all((sides > 0) & (sides <= whole[None]), axis=1)
    drawn = jnp.take_along_axis(sides, fits.argmax(axis=0)[None, None], axis=0)[0]
    any_fits = fits.any(axis=0)[None]
    largest = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    side = jnp.where(any_fits, drawn, jnp.array(largest, jnp.int32)[:, None])
    room = whole - side
    anywhere = (draws[20:] * (room + 1)).astype(jnp.int32)
    corner = jnp.where(any_fits, anywhere, room // 2)
    return resized_crop(images, corner[0], corner[1], side[0], side[1], size=size)


@partial(jax.jit, static_argnames=("degrees", "interpolation"))
def random_rotation(
    key: PRNGKey,
    images: Images,
    *,
    degrees: float | tuple[float, float],
    interpolation: str = "nearest",
) -> Images:
    """Each image turned by an angle from `-degrees .. degrees`, or from the pair."""
    (angle,) = _draw(key, images.shape[0], _symmetric(degrees))
    return rotate(images, angle, interpolation=interpolation)


@partial(
    jax.jit, static_argnames=("degrees", "translate", "scale", "shear", "interpolation")
)
def random_affine(
    key: PRNGKey,
    images: Images,
    *,
    degrees: float | tuple[float, float],
    translate: tuple[float, float] = (0, 0),
    scale: tuple[float, float] = (1, 1),
    shear: float | tuple[float, ...] = 0,
    interpolation: str = "nearest",
) -> Images:
    """Each image turned, sheared, scaled and moved at random.

    `degrees` and `shear` (along x; four numbers: also along y) are a range or, as one
    number, the ends of a symmetric one. `translate` has the largest moves as fractions
    of width and height; moves are whole pixels. `scale` is a range.

    Raises:
      ValueError: an option is out of its range.
    """
    if not all(0 <= x <= 1 for x in translate):
        raise ValueError(f"translate must be in 0 .. 1, got {translate}")
    _check_range("scale", scale)
    n, height, width, _ = images.shape
    dx, dy = translate[0] * width, translate[1] * height
    skews = (*_symmetric(shear), 0, 0)
    ranges = (_symmetric(degrees), (-dx, dx), (-dy, dy), scale, skews[:2], skews[2:4])
    draws = _draw(key, n, *ranges)
    translate_by, shear_by = jnp.round(draws[1:3]).T, draws[4:].T
    return affine(
        images, draws[0], translate_by, draws[3], shear_by, interpolation=interpolation
    )


@partial(jax.jit, static_argnames=("brightness", "contrast", "saturation", "hue"))
def random_color_jitter(
    key: PRNGKey,
    images: Images,
    *,
    brightness: float = 0,
    contrast: float = 0,
    saturation: float = 0,
    hue: float = 0,
) -> Images:
    """Colours adjusted in random order, each image in its own.

    Factors are from `max(0, 1 - x) .. 1 + x`, the hue's shift from `-hue .. hue`.

    Raises:
      ValueError: an option is negative, or the hue above 0.5.
    """
    amounts = (brightness, contrast, saturation, hue)
    if min(amounts) < 0 or hue > 0.5:
        raise ValueError(
            "brightness, contrast and saturation must be at least 0 and hue in "
            f"0 .. 0.5, got {amounts}"
        )
    ranges = [(max(0, 1 - x), 1 + x) for x in amounts[:HUE]]
    draws = _draw(key, images.shape[0], *ranges, (-hue, hue), *[(0, 1)] * 4)
    order = jnp.argsort(draws[4:].T, axis=1)
    shift = draws[HUE] if hue else None
    return color_jitter(images, draws[0], draws[1], draws[2], shift, order)


def _draw(key, n, *ranges):
    """A uniform number from each range for each of `n` samples, (ranges, n).

    One call for all the ranges: each call adds its generator to the program.
    """
    low, high = jnp.array(ranges, jnp.float32).T
    unit = jax.random.uniform(key, (n, len(ranges)), jnp.float32)
    return (low[None] + (high - low)[None] * unit).T


def _symmetric(bounds):
    return (-bounds, bounds) if isinstance(bounds, int | float) else bounds


def _check_range(name, bounds):
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"{name} must be positive and increasing, got {bounds}")


def no_augmentation(key: PRNGKey, images: Images, *, size: int) -> Images:
    """The centre crop; the key is not used."""
    return center_crop(images, size=size)


def flips(key: PRNGKey, images: Images, *, size: int) -> Images:
    """Random crop to `size`, horizontal flip."""
    crop_key, flip_key = jax.random.split(key)
    images = random_crop(crop_key, images, size=size)
    return random_horizontal_flip(flip_key, images)


def full(key: PRNGKey, images: Images, *, size: int) -> Images:
    """Random crop to `size`, horizontal flip, rotation up to 15 degrees, jitter 0.2."""
    flips_key, turn_key, color_key = jax.random.split(key, 3)
    images = flips(flips_key, images, size=size)
    images = random_rotation(turn_key, images, degrees=15)
    return random_color_jitter(
        color_key, images, brightness=0.2, contrast=0.2, saturation=0.2
    )


PIPELINES = {"none": no_augmentation, "flips": flips, "full": full}


def make_pipeline(name: str, *, size: int) -> Callable[[PRNGKey, Images], Images]:
    """The compiled `fn(key, images)` of a row of `PIPELINES`, to `size` pixels a side.

    Raises:
      ValueError: there is no such row.
    """
    if name not in PIPELINES:
        raise ValueError(f"unknown pipeline {name!r}; use one of {list(PIPELINES)}")
    return jax.jit(partial(PIPELINES[name], size=size))
