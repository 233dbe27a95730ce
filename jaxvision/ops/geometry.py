"""The geometry of one 2-D convolution, NHWC by HWIO, and its plain XLA form."""

from typing import NamedTuple

import jax
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

    def output(self, image: tuple[int, ...], kernel: tuple[int, ...]) -> tuple:
        """The shape that comes out of an NHWC `image`; sizes may be zero."""
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
