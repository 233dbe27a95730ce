"""The geometry of one 2-D convolution, NHWC by HWIO, and its plain XLA form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """Strides, padding, kernel dilation (each height, then width) and groups."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int

    def extent(self, kernel: tuple[int, ...]) -> tuple[int, int]:
        """The pixels that a kernel of shape HWIO spans, dilation included."""
        return (
            (kernel[0] - 1) * self.dilation[0] + 1,
            (kernel[1] - 1) * self.dilation[1] + 1,
        )

    def is_overpadded(self, kernel: tuple[int, ...]) -> bool:
        """Whether a kernel of shape HWIO can lie in the padding alone."""
        extents = zip(self.extent(kernel), self.padding, strict=True)
        return any(max(pads) >= extent for extent, pads in extents)

    def output(self, image: tuple[Any, ...], kernel: tuple[int, ...]) -> tuple:
        """The shape that comes out of an NHWC `image`; sizes may be zero.

        The number of images may be a symbol, as in an export.
        """
        sizes = (
            max(0, (size + sum(pads) - extent) // stride + 1)
            for size, pads, extent, stride in zip(
                image[1:3],
                self.padding,
                self.extent(kernel),
                self.strides,
                strict=True,
            )
        )
        return (image[0], *sizes, kernel[3])


def plain(x: Array, w: Array, geometry: Geometry, *, precision=None) -> Array:
    """The convolution as XLA has it, gradients included."""
    if geometry.is_overpadded(w.shape) or is_larger(w, x):
        # What the last stride leaves over is cut off: it would be negative padding of
        # the kernel's gradient.
        padding = [
            (low, high - (size + low + high - extent) % stride)
            for size, (low, high), extent, stride in zip(
                x.shape[1:3],
                geometry.padding,
                geometry.extent(w.shape),
                geometry.strides,
                strict=True,
            )
        ]
        x, geometry = apart(x, padding), geometry._replace(padding=((0, 0), (0, 0)))
    return jax.lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT,
        feature_group_count=geometry.groups,
        precision=precision,
    )


# XLA for CPU (jaxlib 0.10.2) is wrong, up to NaN, in some convolutions with negative
# padding, and may end the process over one. It makes such padding itself where it lets
# image and kernel change places, because the kernel has more pixels than the image.


def is_larger(w: Array, x: Array) -> bool:
    """Whether kernel `w` has more pixels than image `x`."""
    return w.shape[0] * w.shape[1] > x.shape[1] * x.shape[2]


def apart(x: Array, padding, *, dilation: tuple[int, int] = (1, 1)) -> Array:
    """`x` dilated and padded, or cut, as an array that no convolution makes its own."""
    edges = [(*pads, step - 1) for pads, step in zip(padding, dilation, strict=True)]
    zero = jnp.zeros((), x.dtype)
    x = jax.lax.pad(x, zero, [(0, 0, 0), *edges, (0, 0, 0)])
    return jax.lax.optimization_barrier(x)
