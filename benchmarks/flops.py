"""The FLOPs that PyTorch's operations need at least: two for each multiply-add.

torch's own counter serves, put right for convolutions: it multiplies the kernel
gradient of grouped ones by the number of groups, and counts what is multiplied by the
padding's noughts, which no program has to compute.
"""

from math import prod

from torch import ops
from torch.utils.flop_counter import FlopCounterMode


def counter() -> FlopCounterMode:
    """A context manager; afterwards it has `get_total_flops()`."""
    return FlopCounterMode(
        display=False,
        custom_mapping={
            ops.aten.convolution: _forward,
            ops.aten.convolution_backward: _backward,
        },
    )


def convolution(x, w, out, *, stride, padding, dilation) -> int:
    """FLOPs of a convolution of `x` (n, c, h, w) by `w` (o, c / groups, h, w)."""
    pairs = (_pairs(*axis) for axis in _axes(x, w, out, stride, padding, dilation))
    return 2 * x[0] * w[0] * w[1] * prod(pairs)


def _axes(x, w, out, stride, padding, dilation):
    return zip(x[2:], out[2:], w[2:], stride, padding, dilation, strict=True)


def _pairs(size, out, kernel, stride, padding, dilation) -> int:
    """Along one axis: how often a tap of the kernel lies on a pixel."""
    return sum(
        0 <= i * stride - padding + k * dilation < size
        for i in range(out)
        for k in range(kernel)
    )


def _forward(x, w, _bias, stride, padding, dilation, transposed, *_, out_shape) -> int:
    _refuse(transposed)
    return convolution(
        x, w, out_shape, stride=stride, padding=padding, dilation=dilation
    )


def _backward(
    g, x, w, _bias, stride, padding, dilation, transposed, _output, _groups, mask, **_
) -> int:
    """Each gradient multiplies the pairs of the forward pass, whatever the groups."""
    _refuse(transposed)
    once = convolution(x, w, g, stride=stride, padding=padding, dilation=dilation)
    return sum(mask[:2]) * once


def _refuse(transposed: bool) -> None:
    if transposed:
        raise NotImplementedError("FLOPs of a transposed convolution")
