"""Resizing on the device: the taps of PIL's filters, and PIL's bicubic.

A resized pixel is a weighted sum of a few source pixels, its taps. `interpolation_taps`
is the one place where their weights come from: for the bilinear crops of
`jaxvision.preprocess`, where the corners are traced, and for `bicubic`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.typing import AnyArray, Array, Float, Images, Int, Shaped

Integers = Int[AnyArray, "n"]

PRECISION = 22
"""Bits behind the point of PIL's weights for images of 8 bits."""


class Kernel(NamedTuple):
    """An interpolation filter: its weight at a distance in pixels, `reach` at most."""

    weight: Callable[[Any, Any], Any]
    reach: int


def _triangle(xp, x):
    return xp.maximum(1 - abs(x), 0)


def _keys(xp, x):
    x = abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((5 - x) * x - 8) * x / 2 + 2
    return xp.where(x < 1, near, xp.where(x < 2, far, 0))


TRIANGLE = Kernel(_triangle, 1)
CUBIC = Kernel(_keys, 2)
"""The cubic with a = -0.5. Reference: Keys, 1981, doi:10.1109/TASSP.1981.1163711."""


class Taps(NamedTuple):
    """The pixels that make each pixel of a resized row, and their weights.

    An index outside the row comes with a weight of zero.
    """

    index: Int[AnyArray, "n out taps"]
    weight: Float[AnyArray, "n out taps"]


def interpolation_taps(
    start: Integers,
    length: Integers,
    *,
    size: int,
    out_size: int,
    dtype: Any = jnp.float32,
    kernel: Kernel = TRIANGLE,
) -> Taps:
    """What resizes pixels `start .. start + length` of a row to `out_size` pixels.

    With antialiasing, as PIL and `torch.nn.functional.interpolate(antialias=True)` on
    the cropped row: the filter widens with the reduction, and no pixel outside the crop
    weighs in. `start` and `length` may be traced; of numpy's arrays the taps are
    numpy's, in whatever precision `dtype` names.

    Args:
      start: first pixel of the crop, per sample.
      length: pixels in the crop, per sample.
      size: pixels in the whole row.
      out_size: pixels in the result.
      dtype: of the weights.
      kernel: the filter.
    """
    xp = length.__array_namespace__()
    length = length.astype(dtype)[:, None, None]
    scale = length / out_size
    stretch = xp.maximum(scale, 1)
    center = (xp.arange(out_size, dtype=dtype)[None, :, None] + 0.5) * scale
    # A filter of this width covers no more pixels than this.
    taps = math.ceil(2 * kernel.reach * max(size / out_size, 1))
    first = xp.floor(center - kernel.reach * stretch + 0.5)
    pixel = first + xp.arange(taps, dtype=dtype)[None, None, :]
    weight = kernel.weight(xp, (pixel + 0.5 - center) / stretch)
    weight = xp.where((pixel >= 0) & (pixel < length), weight, 0)
    index = pixel.astype(np.int32) + start[:, None, None]
    return Taps(index, weight / weight.sum(axis=2, keepdims=True))


def resample(
    images: Images, rows: Taps, columns: Taps
) -> Float[Array, "n height width c"]:
    """Images resized by the taps of each sample: rows first, then columns."""
    # Unless held apart, XLA computes the rows anew for every tap of the columns.
    x = jax.vmap(partial(_along, -3))(images, *rows)
    x = jax.lax.optimization_barrier(x)
    return jax.vmap(partial(_along, -2))(x, *columns)


@partial(jax.jit, static_argnames="size")
def bicubic(
    images: Shaped[Array, "*n h w c"], *, size: tuple[int, int]
) -> Shaped[Array, "*n height width c"]:
    """The images in `size = (height, width)`, by PIL's bicubic with antialiasing.

    uint8 images come back as uint8, with the bits of `Image.resize(..., BICUBIC)`,
    columns first. (Pillow from 13 on takes the rows first where the height shrinks by
    far more than the width, and rounds otherwise there.)

    Floating images come back floating, neither rounded nor clipped: they overshoot at
    edges, and equal torch's `interpolate(mode="bicubic", antialias=True)`. PIL rounds
    and clips after each of its two passes, so its uint8 result is up to 1.13 levels
    away, and one in five pixels of a photograph by one level once rounded. Where the
    first pass overshoots 0..255, what PIL cuts off comes on top: at black print on
    white (Set14's `ppt3`) up to 11 levels.

    Raises:
      ValueError: a size is not positive, or the images are neither uint8 nor floating.
    """
    images = jnp.asarray(images)
    if images.ndim < 3 or 0 in (*images.shape[-3:], *size) or min(size) < 0:
        raise ValueError(
            f"cannot resize images of shape {images.shape} to {size[0]} x {size[1]}: "
            "images are (n, h, w, c), and every side has at least one pixel"
        )
    if images.dtype == jnp.uint8:
        resize, x = _pass_8bit, images.astype(jnp.int32)
    elif jnp.issubdtype(images.dtype, jnp.floating):
        resize = _pass_float
        x = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    else:
        raise ValueError(f"expected uint8 or floating images, got {images.dtype}")
    # Columns first, as in PIL; and a side that stays as it is costs nothing.
    for axis, out_size in ((-2, size[1]), (-3, size[0])):
        if x.shape[axis] != out_size:
            x = jax.lax.optimization_barrier(resize(x, axis, out_size))
    return x.astype(images.dtype)


def to_uint8_levels(images: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """Images in `[0, 1]` as a file of 8 bits would hold them, still floating.

    Clipped, and each value rounded to the nearest of `k / 255`, the bits of which are
    those of `preprocess.to_float`.
    """
    level = jnp.round(jnp.clip(images, 0, 1) * 255)
    # For the two products see `preprocess.to_float`.
    return level * (1 / 256) + level * (1 / 65280)


def _pass_float(x, axis, out_size):
    index, weight = _static_taps(x.shape[axis], out_size)
    return _along(axis, x, index, weight.astype(x.dtype))


def _pass_8bit(x, axis, out_size):
    """PIL's fixed point. The sums stay below 2**31, for which it has these bits."""
    index, weight = _static_taps(x.shape[axis], out_size)
    fixed = np.trunc(weight * 2**PRECISION + np.copysign(0.5, weight))
    total = _along(axis, x, index, fixed.astype(np.int32))
    return jnp.clip((total + 2 ** (PRECISION - 1)) >> PRECISION, 0, 255)


def _static_taps(size, out_size):
    """The cubic's taps in numpy, when the program is traced: `(out, taps)` each."""
    taps = interpolation_taps(
        np.zeros(1, np.int32),
        np.full(1, size),
        size=size,
        out_size=out_size,
        dtype=np.float64,
        kernel=CUBIC,
    )
    return taps.index[0], taps.weight[0]


def _along(axis, x, index, weight):
    """Weighted sums of the pixels along one axis.

    Gathers and sums, not products with the (mostly empty) interpolation matrices: ten
    times faster on a CPU, and exact where matrix units round their inputs.
    """
    shape = tuple(-1 if i == x.ndim + axis else 1 for i in range(x.ndim))
    total = jnp.zeros((), x.dtype)
    for k in range(index.shape[1]):
        pixels = jnp.take(x, index[:, k], axis, mode="clip")
        total = total + pixels * weight[:, k].reshape(shape)
    return total
