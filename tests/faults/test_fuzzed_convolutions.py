"""Random convolutions, their padding wider than the kernel at times, against numpy."""

import jax
import numpy as np
import pytest

from jaxvision.ops import conv_general_dilated, onednn
from jaxvision.ops.geometry import Geometry
from tests.convolutions import Case, call, operands

BACKENDS = ("onednn", "jax", "xla")
TOGETHER = 10
"""Cases in one program, which takes less time to compile than ten."""
WIDE = Case((1, 8, 1, 2), (1, 3, 2, 7), Geometry((1, 1), ((1, 2), (3, 1)), (1, 1), 1))
"""Its input gradient was off by 2 with XLA's negative padding."""


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    if request.param == "onednn" and not onednn.available():
        pytest.skip(onednn.problem())
    monkeypatch.setenv("JAXVISION_CONV", request.param)


def drawn(rng) -> Case:
    """Any small convolution whose output has at least one pixel."""
    while True:
        kernel, dilation, stride, size = (
            tuple(int(n) for n in rng.integers(low, high, 2))
            for low, high in ((1, 6), (1, 3), (1, 4), (1, 13))
        )
        padding = tuple(tuple(int(n) for n in rng.integers(0, 8, 2)) for _ in "hw")
        groups = int(rng.choice([1, 1, 2, 3]))
        count, inputs, outputs = (int(n) for n in rng.integers(1, (4, 10, 10)))
        geometry = Geometry(stride, padding, dilation, groups)
        image = (count, *size, inputs * groups)
        weight = (*kernel, inputs, outputs * groups)
        if 0 not in geometry.output(image, weight):
            return Case(image, weight, geometry)


def expected(case: Case, x, w, g) -> tuple:
    """Output and both gradients, tap by tap, in float64."""
    (rows, columns), padding, dilation, groups = case.geometry
    high, wide, inputs, outputs = w.shape
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    taps = w.reshape(high, wide, inputs, groups, -1)
    image = padded.reshape(*padded.shape[:3], groups, inputs)
    out_gradient = g.reshape(*g.shape[:3], groups, -1)
    out, of_image = np.zeros_like(out_gradient), np.zeros_like(image)
    of_taps = np.zeros_like(taps)
    for i in range(high):
        for j in range(wide):
            top, left = i * dilation[0], j * dilation[1]
            seen = (
                slice(None),
                slice(top, top + (g.shape[1] - 1) * rows + 1, rows),
                slice(left, left + (g.shape[2] - 1) * columns + 1, columns),
            )
            out += np.einsum("nhwgi,igo->nhwgo", image[seen], taps[i, j])
            of_image[seen] += np.einsum("nhwgo,igo->nhwgi", out_gradient, taps[i, j])
            of_taps[i, j] = np.einsum("nhwgi,nhwgo->igo", image[seen], out_gradient)
    (top, _), (left, _) = padding
    of_image = of_image.reshape(padded.shape)
    of_image = of_image[:, top : top + x.shape[1], left : left + x.shape[2]]
    return out.reshape(g.shape), of_image, of_taps.reshape(w.shape)


def check(cases: list[Case], seed: int) -> None:
    arrays = [operands(case, seed + i) for i, case in enumerate(cases)]

    @jax.jit
    def run(arrays):
        found = []
        for case, (x, w, g) in zip(cases, arrays, strict=True):
            y, pull = jax.vjp(
                lambda x, w, case=case: call(conv_general_dilated, x, w, case.geometry),
                x,
                w,
            )
            found.append((y, *pull(g)))
        return found

    # By numpy: of each new shape, JAX would compile the conversion.
    singles = jax.tree.map(np.float32, arrays)
    for case, given, ours in zip(cases, singles, run(singles), strict=True):
        given = [np.asarray(a, np.float64) for a in given]
        truth = expected(case, *given)
        size = expected(case, *map(np.abs, given))
        for name, a, b, terms in zip(
            ("output", "input gradient", "kernel gradient"),
            ours,
            truth,
            size,
            strict=True,
        ):
            # A sum is off by a few roundings of the sum of its terms' magnitudes.
            limit = 64 * np.finfo(np.float32).eps * terms
            off = np.abs(np.asarray(a, np.float64) - b)
            assert (off <= limit).all(), f"{name} off by {off.max()}: {case}"


def fuzz(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    for begin in range(0, count, TOGETHER):
        check([drawn(rng) for _ in range(TOGETHER)], begin)


def test_padding_beside_a_short_image_is_right(backend):
    wider = WIDE._replace(kernel=(1, 3, 2, 20))
    pixelless = Case(
        (2, 1, 1, 9), (1, 1, 9, 4), Geometry((3, 3), ((1, 4), (1, 4)), (1, 1), 1)
    )
    check([WIDE, wider, pixelless], 0)


# Most of oneDNN, which compiles nothing: XLA takes a sixth of a second for each case.
@pytest.mark.parametrize(
    ("backend", "seed", "count"),
    [("onednn", 0, 200), ("jax", 1, 50), ("xla", 2, 50)],
    indirect=["backend"],
)
def test_three_hundred_random_convolutions(backend, seed, count):
    fuzz(seed, count)


@pytest.mark.slow
def test_five_thousand_random_convolutions(backend):
    fuzz(10, 5000)
