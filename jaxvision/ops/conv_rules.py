"""Convolutions rewritten for XLA on CPU: the fallback where oneDNN is absent.

XLA's CPU compiler is fast for dot products, for plain NHWC/HWIO convolutions and for
element-wise loops; each rule states a convolution, and its gradients, in those alone.
The ratios below are to PyTorch's time on two cores, forward and backward.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxvision.ops.geometry import LAYOUT, Geometry, apart, is_larger, plain

NARROW = 16
"""Output channels up to which the narrow kernel gradient is worth it."""
BLOCK = 32
"""Channels that merged groups aim at: wide enough for a dot product to be fast."""


def _padded(
    x: Array,
    w: Array,
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
    *,
    lhs_dilation: tuple[int, int] = (1, 1),
    rhs_dilation: tuple[int, int] = (1, 1),
    precision=None,
) -> Array:
    """The plain convolution, where padding may be negative: see `geometry.apart`."""
    if min(map(min, padding)) < 0 or is_larger(w, x):
        x = apart(x, padding, dilation=lhs_dilation)
        padding, lhs_dilation = [(0, 0), (0, 0)], (1, 1)
    return jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=LAYOUT,
        precision=precision,
    )


def input_gradient(
    g: Array, w: Array, geometry: Geometry, shape: tuple, *, precision=None
) -> Array:
    """The gradient with respect to an input of `shape`, for one group."""
    turned = jax.lax.optimization_barrier(w[::-1, ::-1].swapaxes(2, 3))
    padding = [
        (extent - 1 - low, size + low - (out - 1) * stride - 1)
        for extent, (low, _), size, out, stride in zip(
            geometry.extent(w.shape),
            geometry.padding,
            shape[1:3],
            g.shape[1:3],
            geometry.strides,
            strict=True,
        )
    ]
    return _padded(
        g,
        turned,
        (1, 1),
        padding,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        precision=precision,
    )


def kernel_gradient(
    x: Array, g: Array, geometry: Geometry, shape: tuple, *, precision=None
) -> Array:
    """The gradient with respect to a kernel of `shape`, for one group."""
    x, g = jax.lax.optimization_barrier(
        (x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3))
    )
    padding = [
        (low, extent - 1 + (out - 1) * stride + 1 - size - low)
        for extent, (low, _), size, out, stride in zip(
            geometry.extent(shape),
            geometry.padding,
            x.shape[1:3],
            g.shape[:2],
            geometry.strides,
            strict=True,
        )
    ]
    gradient = _padded(
        x,
        g,
        geometry.dilation,
        padding,
        rhs_dilation=geometry.strides,
        precision=precision,
    )
    return gradient.transpose(1, 2, 0, 3)


def narrow_kernel_gradient(
    x: Array, g: Array, geometry: Geometry, shape: tuple, *, precision=None
) -> Array:
    """The same for stride 1 without dilation: images and gradients change places.

    The dot product inside then has the many input channels as its columns.
    """
    g, x = jax.lax.optimization_barrier(
        (g.transpose(3, 1, 2, 0), x.transpose(1, 2, 0, 3))
    )
    padding = [
        (k - 1 - low, size + low - out)
        for k, (low, _), size, out in zip(
            shape, geometry.padding, x.shape[:2], g.shape[1:3], strict=False
        )
    ]
    gradient = _padded(g, x, (1, 1), padding, precision=precision)
    return gradient[:, ::-1, ::-1].transpose(1, 2, 3, 0)


def _stated(kernel_gradient: Callable[..., Array]) -> Callable[..., Array]:
    """The plain convolution with both gradients stated as plain ones too.

    Autodiff writes them with permuted dimension numbers, which XLA does not turn into
    its fast convolution inside a loop. The barriers keep it from folding the
    transposes back into the dimension numbers.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    def convolve(x: Array, w: Array, geometry: Geometry, precision) -> Array:
        return plain(x, w, geometry, precision=precision)

    def forward(x, w, geometry, precision):
        return plain(x, w, geometry, precision=precision), (x, w)

    def backward(geometry, precision, saved, g):
        x, w = saved
        return (
            input_gradient(g, w, geometry, x.shape, precision=precision),
            kernel_gradient(x, g, geometry, w.shape, precision=precision),
        )

    convolve.defvjp(forward, backward)
    return cast(Callable[..., Array], convolve)


canonical = _stated(kernel_gradient)
narrow = _stated(narrow_kernel_gradient)


def pointwise(x: Array, w: Array, geometry: Geometry, precision) -> Array:
    """A 1x1 convolution without padding as a dot product."""
    x = x[:, :: geometry.strides[0], :: geometry.strides[1]]
    return jnp.tensordot(x, w[0, 0], 1, precision=precision)


def depthwise(x: Array, w: Array, geometry: Geometry, precision) -> Array:
    """One kernel a channel: shifted slices multiplied and added."""
    del precision  # no dot product in it
    return _shifted(x, w, geometry)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x, w, geometry):
    _, height, width, channels = geometry.output(x.shape, w.shape)
    padded = jnp.pad(x, ((0, 0), *geometry.padding, (0, 0)))
    total = jnp.zeros((), x.dtype)
    for part, i, j in _windows(padded, w.shape, geometry, (height, width)):
        total = total + part * w[i, j, 0].reshape(1, 1, 1, channels)
    return total


def _windows(padded, kernel, geometry, size):
    """The strided view of `padded` that meets kernel tap (i, j), for every tap."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = i * geometry.dilation[0]
            cols = j * geometry.dilation[1]
            yield (
                padded[
                    :,
                    rows : rows
                    + (size[0] - 1) * geometry.strides[0]
                    + 1 : geometry.strides[0],
                    cols : cols
                    + (size[1] - 1) * geometry.strides[1]
                    + 1 : geometry.strides[1],
                ],
                i,
                j,
            )


def _shifted_backward(geometry, saved, g):
    x, w = saved
    padded = jnp.pad(x, ((0, 0), *geometry.padding, (0, 0)))
    kernel = [
        (part * g).sum((0, 1, 2))
        for part, _, _ in _windows(padded, w.shape, geometry, g.shape[1:3])
    ]
    extent = geometry.extent(w.shape)
    pads = [
        (e - 1 - low, size + low - (out - 1) * stride - 1, stride - 1)
        for e, (low, _), size, out, stride in zip(
            extent,
            geometry.padding,
            x.shape[1:3],
            g.shape[1:3],
            geometry.strides,
            strict=True,
        )
    ]
    spread = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    turned = Geometry((1, 1), ((0, 0), (0, 0)), geometry.dilation, geometry.groups)
    return _shifted(spread, w[::-1, ::-1], turned), jnp.stack(kernel).reshape(w.shape)


_shifted.defvjp(
    lambda x, w, geometry: (_shifted(x, w, geometry), (x, w)), _shifted_backward
)


def grouped(x: Array, w: Array, geometry: Geometry, precision) -> Array:
    """Groups merged into blocks, each dense with a block-diagonal kernel."""
    groups, inputs, outputs = geometry.groups, w.shape[2], w.shape[3]
    merged = max(
        n
        for n in range(1, groups + 1)
        if groups % n == 0 and n * inputs <= max(BLOCK, inputs)
    )
    blocks = groups // merged
    split = w.reshape(*w.shape[:3], blocks, merged, outputs // groups)
    diagonal = jnp.eye(merged, dtype=w.dtype)
    # (h, w, i, block, m, o) -> (block, h, w, m', i, m, o), zero unless m' = m
    dense = jnp.einsum("hwibmo,km->bhwkimo", split, diagonal, precision="highest")
    dense = dense.reshape(blocks, *w.shape[:2], merged * inputs, outputs // blocks)
    single = geometry._replace(groups=1)
    parts = jnp.split(x, blocks, axis=3)
    return jnp.concatenate(
        [canonical(part, dense[b], single, precision) for b, part in enumerate(parts)],
        3,
    )


class Rule(NamedTuple):
    """One row: the convolutions it is for, how they are computed, and why."""

    name: str
    applies: Callable[[tuple, tuple, Geometry], bool]
    run: Callable[..., Array]
    reason: str


RULES = (
    Rule(
        "pointwise",
        lambda x, w, g: (
            w[:2] == (1, 1) and not any(map(sum, g.padding)) and g.groups == 1
        ),
        pointwise,
        "native 3.6 to 7.4, as a dot product 1.0 to 1.3",
    ),
    Rule(
        "depthwise",
        lambda x, w, g: g.groups > 1 and w[2] == 1 and w[3] == g.groups,
        depthwise,
        "native over 100, as shifted slices 1.3 to 1.7",
    ),
    Rule(
        "grouped",
        lambda x, w, g: g.groups > 1,
        grouped,
        "native about 11, merged into dense blocks 1.4 to 3.9",
    ),
    Rule(
        "few outputs",
        lambda x, w, g: (
            w[3] <= NARROW and w[3] < w[2] and g.strides == g.dilation == (1, 1)
        ),
        narrow,
        "kernel gradient 3 to 10 times PyTorch's, with the roles swapped 0.3 to 1.1",
    ),
    Rule(
        "canonical",
        lambda x, w, g: True,
        canonical,
        "native gradients are 25 times slower inside a loop than outside",
    ),
)


def choose(x: tuple, w: tuple, geometry: Geometry) -> Rule:
    """The first row of `RULES` that applies to these shapes."""
    return next(rule for rule in RULES if rule.applies(x, w, geometry))
