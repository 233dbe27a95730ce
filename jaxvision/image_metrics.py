"""PSNR and SSIM of images, with the protocol as arguments.

Published figures differ by tenths of a decibel with what is compared: super-resolution
papers take the luma, cut off as many border pixels as the scale, and round to 8 bits
(`luma=True, border=2, quantize=True` for a scale of two).

Each size of image is a program to compile, which takes longer than to run it. Images of
many sizes are therefore padded to a few, and their own sizes given: the figures are
those of the images without the padding.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.resize import to_uint8_levels
from jaxvision.typing import AnyArray, Array, Float, Images, Int

WINDOW, SIGMA = 11, 1.5
"""SSIM's Gaussian, in pixels."""
C1, C2 = 0.01**2, 0.03**2
"""SSIM's constants `(K L)^2`, for a range L of 1."""
LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
LUMA_OFFSET = 16 / 255

Sizes = Int[AnyArray, "n 2"]

_PROTOCOL = ("border", "luma", "quantize")


@partial(jax.jit, static_argnames=_PROTOCOL)
def psnr(
    a: Images,
    b: Images,
    *,
    sizes: Sizes | None = None,
    border: int = 0,
    luma: bool = False,
    quantize: bool = False,
) -> Float[Array, " n"]:
    """Peak signal-to-noise ratio per image, in decibels, for a peak of 1.

    The mean squared error is that of all channels together; of equal images the ratio
    is `inf`.

    Args:
      a: images in `[0, 1]`.
      b: likewise.
      sizes: rows and columns of each pair, in the upper left corner of its arrays; the
        rest counts for nothing. Where nothing is left inside the border, the figure is
        nan.
      border: pixels to leave out at each side.
      luma: compares `to_luma` of the images.
      quantize: rounds the images to the 256 levels of a file, and the luma once more,
        as MATLAB's `rgb2ycbcr` does for images of 8 bits.

    Raises:
      ValueError: the shapes differ, the images are no floats, or nothing is left of
        them inside the border.
    """
    a, b = _prepared(a, b, border=border, luma=luma, quantize=quantize, least=1)
    return -10 * jnp.log10(_mean(jnp.square(a - b), sizes, less=2 * border))


@partial(jax.jit, static_argnames=_PROTOCOL)
def ssim(
    a: Images,
    b: Images,
    *,
    sizes: Sizes | None = None,
    border: int = 0,
    luma: bool = False,
    quantize: bool = False,
) -> Float[Array, " n"]:
    """Mean structural similarity per image, 1 where the images are equal.

    A Gaussian of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, at all places where the
    window lies inside the image, and the mean over the channels. As in the paper, and
    as `skimage.metrics.structural_similarity(..., gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1)`, whose mean leaves out the padded rim as
    well. The image is not reduced first, as later MATLAB code of the authors does.

    Args:
      a: images in `[0, 1]`.
      b: likewise.
      sizes: as for `psnr`.
      border: pixels to leave out at each side.
      luma: compares `to_luma` of the images.
      quantize: as for `psnr`.

    Raises:
      ValueError: the shapes differ, the images are no floats, or the window does not
        fit into what is left inside the border.

    Reference: Wang et al., 2004, doi:10.1109/TIP.2003.819861.
    """
    a, b = _prepared(a, b, border=border, luma=luma, quantize=quantize, least=WINDOW)
    # (2xy + c) / (x^2 + y^2 + c) as 1 - (x - y)^2 / (x^2 + y^2 + c), and around the
    # middle of the range: in float32 flat areas would else lose their last digits.
    x, y = a - 0.5, b - 0.5
    channels = a.shape[-1]
    means = _blur(jnp.concatenate([x, y, x * x + y * y, (x - y) ** 2], axis=-1))
    mean_x, mean_y, squares, distance = (
        means[..., i * channels : (i + 1) * channels] for i in range(4)
    )
    shift = (mean_x - mean_y) ** 2
    variances = squares - mean_x**2 - mean_y**2
    luminance = 1 - shift / ((mean_x + 0.5) ** 2 + (mean_y + 0.5) ** 2 + C1)
    structure = 1 - (distance - shift) / (variances + C2)
    return _mean(luminance * structure, sizes, less=2 * border + WINDOW - 1)


def to_luma(images: Images) -> Float[Array, "n h w 1"]:
    """Y of BT.601 in studio range, from 16/255 to 235/255, one channel.

    What MATLAB's `rgb2ycbcr` and super-resolution papers take. Images of one channel
    come back as they are: the papers compare grey files, such as Set14's `bridge`, at
    their own levels.

    Raises:
      ValueError: the images have neither three channels nor one.
    """
    channels = images.shape[-1]
    if channels == 1:
        return images
    if channels != 3:
        raise ValueError(f"luma needs images of 3 channels or 1, got {channels}")
    # Sums and no matrix product, which some devices round to 8 bits or so.
    red, green, blue = (images[..., i : i + 1] * LUMA[i] for i in range(3))
    return red + green + blue + LUMA_OFFSET


def _prepared(a, b, *, border, luma, quantize, least):
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"expected two batches of images of one shape (n, h, w, c), got {a.shape} "
            f"and {b.shape}"
        )
    for images in (a, b):
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"expected floating images in [0, 1], got {images.dtype}: "
                "call to_float first"
            )
    height, width = a.shape[1:3]
    if border < 0 or min(height, width) < 2 * border + least:
        raise ValueError(
            f"images of {height} x {width} have no window of {least} x {least} pixels "
            f"inside a border of {border}: give larger images or a smaller border"
        )
    inside = (slice(border, height - border), slice(border, width - border))

    def prepare(images):
        x = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        x = x[:, *inside]
        if quantize:
            x = to_uint8_levels(x)
        if luma:
            x = to_luma(x)
            x = to_uint8_levels(x) if quantize else x
        return x

    return prepare(a), prepare(b)


def _mean(x, sizes, *, less):
    """The mean per image, of as much of it as `sizes` hold without `less` pixels."""
    if sizes is None:
        return x.mean((1, 2, 3))
    left = jnp.maximum(jnp.asarray(sizes) - less, 0)
    rows, columns = (
        jnp.arange(x.shape[1 + axis])[None] < left[:, axis, None] for axis in (0, 1)
    )
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, x, 0).sum((1, 2, 3)) / (left.prod(axis=1) * x.shape[3])


def _blur(x):
    """The Gaussian means of all windows inside the image."""
    offset = np.arange(WINDOW) - WINDOW // 2
    weight = np.exp(-(offset**2) / (2 * SIGMA**2))
    weight /= weight.sum()
    for axis in (1, 2):
        places = x.shape[axis] - WINDOW + 1
        x = sum(
            float(weight[k]) * jax.lax.slice_in_dim(x, k, k + places, axis=axis)
            for k in range(WINDOW)
        )
        # Unless held apart, XLA computes the rows anew for every tap of the columns.
        x = jax.lax.optimization_barrier(x)
    return x
