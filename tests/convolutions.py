"""Cases and checks that the convolution tests share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxvision.ops.geometry import LAYOUT, Geometry
from tests.double import x64


class Case(NamedTuple):
    """One convolution: image (n, h, w, c), kernel (h, w, i, o) and its geometry."""

    image: tuple
    kernel: tuple
    geometry: Geometry


def case(
    size, cin, cout, kernel, *, stride=1, padding=0, dilation=1, groups=1, batch=2
) -> Case:
    """A square case, its image one pixel wider than high."""
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    return Case(
        (batch, size, size + 1, cin),
        (kernel, kernel, cin // groups, cout),
        Geometry((stride, stride), padding, (dilation, dilation), groups),
    )


TABLE = {
    "1x1": case(9, 16, 24, 1),
    "1x1 strided": case(9, 16, 24, 1, stride=2),
    "1x1 padded": case(6, 4, 4, 1, padding=1),
    "3x3": case(10, 16, 24, 3, padding=1),
    "3x3 strided": case(10, 16, 24, 3, stride=2, padding=1),
    "3x3 without padding": case(9, 5, 7, 3),
    "asymmetric, dilated, strided": case(
        11, 4, 6, 3, stride=2, padding=((0, 1), (2, 1)), dilation=2
    ),
    "padding wider than the kernel": case(5, 3, 4, 2, padding=((3, 0), (0, 5))),
    "stride over the kernel": case(11, 8, 8, 2, stride=3),
    "stem 7x7": case(23, 3, 16, 7, stride=2, padding=3),
    "few outputs 5x5": case(12, 16, 3, 5, padding=2),
    "depthwise": case(9, 16, 16, 3, padding=1, groups=16),
    "depthwise strided": case(10, 16, 16, 3, stride=2, padding=1, groups=16),
    "depthwise 5x5 dilated": case(13, 8, 8, 5, padding=4, dilation=2, groups=8),
    "depthwise, two outputs a channel": case(9, 8, 16, 3, padding=1, groups=8),
    "grouped": case(8, 64, 64, 3, padding=1, groups=16),
    "grouped strided": case(9, 32, 64, 3, stride=2, padding=1, groups=4),
    "grouped 1x1": case(6, 24, 12, 1, groups=3),
}


@st.composite
def cases(draw) -> Case:
    """Any small convolution whose output has at least one pixel."""
    pair = lambda low, high: st.tuples(*[st.integers(low, high)] * 2)  # noqa: E731
    kernel, dilation = draw(pair(1, 4)), draw(pair(1, 2))
    padding = draw(st.tuples(pair(0, 4), pair(0, 4)))
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    inputs = draw(st.integers(1, 9))
    outputs = draw(st.integers(1, 9))
    if groups > 1 and draw(st.booleans()):
        inputs = outputs = 1
    least = [
        max(1, (k - 1) * d + 1 - sum(p))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    size = [draw(st.integers(n, n + 8)) for n in least]
    return Case(
        (draw(st.integers(1, 3)), *size, inputs * groups),
        (*kernel, inputs, outputs * groups),
        Geometry(draw(pair(1, 3)), padding, dilation, groups),
    )


def call(function, x, w, geometry: Geometry):
    """`function`, which takes `lax.conv_general_dilated`'s arguments, on a geometry."""
    return function(
        x,
        w,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUT,
        feature_group_count=geometry.groups,
    )


def operands(case: Case, seed: int = 0) -> tuple:
    """Image, kernel and output gradient as float64 numpy arrays."""
    rng = np.random.default_rng(seed)
    shapes = (
        case.image,
        case.kernel,
        case.geometry.output(case.image, case.kernel),
    )
    return tuple(rng.standard_normal(shape) for shape in shapes)


def value_and_gradients(function, case: Case, x, w, g, dtype) -> tuple:
    """Output, input gradient and kernel gradient, as float64 numpy arrays."""
    with x64(dtype == jnp.float64):

        @jax.jit
        def run(x, w, g):
            y, pull = jax.vjp(lambda x, w: call(function, x, w, case.geometry), x, w)
            return (y, *pull(g))

        out = run(*(jnp.asarray(a, dtype) for a in (x, w, g)))
        assert all(a.dtype == dtype for a in out)
        return tuple(np.asarray(a, np.float64) for a in out)


def assert_within_rounding(ours: tuple, case: Case, x, w, g, dtype) -> None:
    """Each value as near to float64's as `dtype` can be.

    A sum of k products, in any order, is off by about sqrt(k) roundings of the sum of
    their magnitudes; the limit is that, with a factor of two. bfloat16 is summed in
    float32 and rounded once, which is half a unit in the last place.
    """
    summed = jnp.promote_types(dtype, jnp.float32)
    truth = value_and_gradients(jax.lax.conv_general_dilated, case, x, w, g, np.float64)
    size = value_and_gradients(
        jax.lax.conv_general_dilated, case, *map(np.abs, (x, w, g)), np.float64
    )
    taps = np.prod(case.kernel[:2])
    terms = (
        taps * case.kernel[2],
        taps * case.kernel[3] // case.geometry.groups,
        np.prod(g.shape[:3]),
    )
    for name, a, b, magnitude, count in zip(
        ("output", "input gradient", "kernel gradient"),
        ours,
        truth,
        size,
        terms,
        strict=True,
    ):
        limit = 2 * jnp.finfo(summed).eps * (1 + np.sqrt(count)) * magnitude
        if dtype != summed:
            limit = limit * (1 + jnp.finfo(dtype).eps)
            limit = limit + jnp.finfo(dtype).eps / 2 * np.abs(b)
        assert (np.abs(a - b) <= limit).all(), f"{name} off by {np.abs(a - b).max()}"
