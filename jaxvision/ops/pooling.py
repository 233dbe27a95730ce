"""Pooling over NHWC images with PyTorch's padding, ceil and adaptive rules."""

from functools import partial, reduce
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Windows(NamedTuple):
    """Where `rows` x `cols` windows lie on images of `height` x `width`."""

    window: int
    stride: int
    padding: int
    height: int
    width: int
    rows: int
    cols: int


def max_pool(
    x: Array, window: int, stride: int, *, padding: int = 0, ceil_mode: bool = False
) -> Array:
    """The maximum of each window, as `torch.nn.MaxPool2d`.

    The border is minus infinity. A tie's gradient goes to the first of its pixels, in
    row order, as in PyTorch.

    Args:
      x: images `(n, h, w, c)`.
      window: pixels, both ways.
      stride: pixels, both ways.
      padding: pixels on each side, at most half the window.
      ceil_mode: lets a last window hang over the far edge, as long as it starts
        inside the image or its near padding.

    Raises:
      ValueError: for padding over half the window, or an image smaller than it.
    """
    if not 0 <= padding <= window // 2:
        raise ValueError(
            f"max_pool: padding {padding} must be from 0 to half the window {window}"
        )
    height, width = x.shape[1:3]
    rows, cols = (
        _count(size, window, stride, padding, ceil_mode) for size in (height, width)
    )
    if min(rows, cols) < 1:
        raise ValueError(
            f"max_pool: images of {height}x{width} are smaller than the window of "
            f"{window}x{window}; give larger images"
        )
    return _max_pool(x, Windows(window, stride, padding, height, width, rows, cols))


def _count(size: int, window: int, stride: int, padding: int, ceil_mode: bool) -> int:
    steps = size + 2 * padding - window
    out = (-(-steps // stride) if ceil_mode else steps // stride) + 1
    # The last window must start inside the image or its near padding.
    return out - 1 if ceil_mode and (out - 1) * stride >= size + padding else out


def _parts(x: Array, at: Windows) -> list[Array]:
    """The strided view of `x` at each place of the window, in row order."""
    rows, cols = (at.rows - 1) * at.stride + 1, (at.cols - 1) * at.stride + 1
    far = at.window - 1 - at.padding
    below, right = max(0, rows + far - at.height), max(0, cols + far - at.width)
    pads = ((0, 0), (at.padding, below), (at.padding, right), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    count, _, _, channels = x.shape
    # Indexing would gather where the number of images is a symbol, as in an export.
    return [
        jax.lax.slice(
            x,
            (0, i, j, 0),
            (count, i + rows, j + cols, channels),
            (1, at.stride, at.stride, 1),
        )
        for i in range(at.window)
        for j in range(at.window)
    ]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x, at):
    return reduce(jnp.maximum, _parts(x, at))


def _forward(x, at):
    """Also where each window's maximum is, one byte a window."""
    top, *parts = _parts(x, at)
    place = jnp.zeros(top.shape, jnp.uint8 if at.window < 16 else jnp.int32)
    for k, part in enumerate(parts, 1):
        better = (part > top) | jnp.isnan(part)
        top = jnp.where(better, part, top)
        place = jnp.where(better, k, place).astype(place.dtype)
    return top, place


def _backward(at, place, g):
    """Each pixel's gradient: that of the windows whose maximum it is.

    The pixels fall into stride x stride classes. A class meets the same places of the
    window everywhere, so that it is a sum of whole shifted arrays.
    """
    reach = (at.window - 1) // at.stride
    rows, cols = at.rows + reach, at.cols + reach
    pads = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    place, g = jnp.pad(place, pads), jnp.pad(g, pads)
    classes = []
    for a, b in product(range(at.stride), repeat=2):
        total = jnp.zeros((g.shape[0], rows, cols, g.shape[3]), g.dtype)
        for i in range(a, at.window, at.stride):
            for j in range(b, at.window, at.stride):
                row, col = reach - i // at.stride, reach - j // at.stride
                cut = (slice(None), slice(row, row + rows), slice(col, col + cols))
                hit = place[cut] == i * at.window + j
                total += jnp.where(hit, g[cut], jnp.zeros((), g.dtype))
        classes.append(total)
    spread = jnp.stack(classes).reshape(at.stride, at.stride, *classes[0].shape)
    spread = spread.transpose(2, 3, 0, 4, 1, 5)
    spread = spread.reshape(g.shape[0], rows * at.stride, cols * at.stride, g.shape[3])
    # Pixels past the last window met none: they are padded back as zeros.
    ends = at.padding + at.height, at.padding + at.width
    spread = spread[:, at.padding : ends[0], at.padding : ends[1]]
    below, right = at.height - spread.shape[1], at.width - spread.shape[2]
    return (jnp.pad(spread, ((0, 0), (0, below), (0, right), (0, 0))),)


_max_pool.defvjp(_forward, _backward)


def avg_pool(x: Array, window: int, stride: int) -> Array:
    """The mean of each whole window, as `torch.nn.AvgPool2d` without padding.

    Raises:
      ValueError: for an image smaller than the window.
    """
    height, width = x.shape[1:3]
    if min(height, width) < window:
        raise ValueError(
            f"avg_pool: images of {height}x{width} are smaller than the window of "
            f"{window}x{window}; give larger images"
        )
    total = jax.lax.reduce_window(
        x,
        # A numpy zero: traced, it would make the sum a generic one without a gradient.
        np.zeros((), x.dtype),
        jax.lax.add,
        (1, window, window, 1),
        (1, stride, stride, 1),
        "VALID",
    )
    return total / window**2


def adaptive_avg_pool(x: Array, size: tuple[int, int]) -> Array:
    """Means over `size` windows of nearly equal extent: `(n, *size, c)`.

    Window `i` of `out` spans pixels floor(i n / out) to ceil((i + 1) n / out), so
    that windows may overlap, and a map smaller than `size` is repeated: the rule of
    `torch.nn.AdaptiveAvgPool2d`.
    """
    if x.shape[1:3] == tuple(size):
        return x
    for axis, out in zip((1, 2), size, strict=True):
        n = x.shape[axis]
        if n % out == 0:
            split = (*x.shape[:axis], out, n // out, *x.shape[axis + 1 :])
            x = x.reshape(split).mean(axis + 1)
            continue
        windows = [
            jax.lax.slice_in_dim(
                x, i * n // out, -(-(i + 1) * n // out), axis=axis
            ).mean(axis, keepdims=True)
            for i in range(out)
        ]
        x = jnp.concatenate(windows, axis)
    return x


def global_avg_pool(x: Array) -> Array:
    """The mean over height and width, `(n, h, w, c)` to `(n, c)`, taken in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide.mean((1, 2)).astype(x.dtype)
