"""oneDNN's convolutions against XLA's in float64, and all that a caller may do."""

import ctypes
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision import ops
from jaxvision.ops import onednn
from jaxvision.ops.geometry import Geometry
from tests.convolutions import (
    TABLE,
    assert_within_rounding,
    call,
    case,
    cases,
    operands,
    value_and_gradients,
)

pytestmark = pytest.mark.skipif(not onednn.available(), reason=onednn.problem())

multiplied = pytest.mark.skipif(
    not onednn.multiplies("bfloat16"), reason="this processor multiplies no bfloat16"
)

GEOMETRY = Geometry((1, 1), ((1, 1), (1, 1)), (1, 1), 1)


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setenv("JAXVISION_CONV", "onednn")


def forbidden(*args, **kwargs):
    raise AssertionError("XLA's convolution was called")


def check(chosen, dtype="float32", *, batch=None):
    if batch is not None:
        chosen = chosen._replace(image=(batch, *chosen.image[1:]))
    dtype = jnp.dtype(dtype)
    x, w, g = (a.astype(dtype).astype(np.float64) for a in operands(chosen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXVISION_CONV", "onednn")
        patch.setattr(onednn, "FEW", 0)
        patch.setattr(jax.lax, "conv_general_dilated", forbidden)
        ours = value_and_gradients(ops.conv_general_dilated, chosen, x, w, g, dtype)
    assert_within_rounding(ours, chosen, x, w, g, dtype)


@pytest.mark.floor
@pytest.mark.parametrize("name", TABLE)
def test_value_and_gradients_match_float64(name):
    check(TABLE[name])


def threads() -> int:
    """Of oneDNN, which has loaded this library."""
    return ctypes.CDLL("libgomp.so.1").omp_get_max_threads()


@multiplied
@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("name", TABLE)
def test_bfloat16_is_float64_rounded_once(name, more):
    """A batch of which all threads take equal parts, and one of unequal parts."""
    check(TABLE[name], "bfloat16", batch=threads() + more)


@pytest.mark.parametrize("channels", [(24, 3), (3, 24), (3, 5), (5, 3)])
def test_few_channels_by_xla_match_float64(channels):
    table_case = case(9, *channels, 3, padding=((0, 1), (2, 1)))
    x, w, g = operands(table_case)
    float32 = np.dtype("float32")
    ours = value_and_gradients(ops.conv_general_dilated, table_case, x, w, g, float32)
    assert_within_rounding(ours, table_case, x, w, g, float32)


@settings(max_examples=10, deadline=None)
@given(chosen=cases())
def test_any_geometry_matches_float64(chosen):
    check(chosen)


@multiplied
@settings(max_examples=10, deadline=None)
@given(chosen=cases(), more=st.integers(-1, 2))
def test_any_geometry_in_bfloat16_is_float64_rounded_once(chosen, more):
    check(chosen, "bfloat16", batch=max(1, threads() + more))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(chosen=cases())
def test_many_geometries_match_float64(chosen):
    check(chosen)


def small():
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.standard_normal((2, 5, 6, 9)), jnp.float32),
        jnp.asarray(rng.standard_normal((3, 3, 9, 9)) / 9, jnp.float32),
    )


def convolve(x, w):
    return call(ops.conv_general_dilated, x, w, GEOMETRY)


def test_scan_remat_and_grad_equal_the_unrolled_loop():
    x, w = small()

    def unrolled(w, x):
        for _ in range(3):
            x = jnp.tanh(convolve(x, w))
        return x.sum()

    def scanned(w, x):
        body = jax.checkpoint(lambda x, _: (jnp.tanh(convolve(x, w)), None))
        return jax.lax.scan(body, x, length=3)[0].sum()

    expected = jax.value_and_grad(unrolled, (0, 1))(w, x)
    actual = jax.jit(jax.value_and_grad(scanned, (0, 1)))(w, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        actual,
        expected,
    )


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_equals_a_python_loop(axes):
    x, w = small()
    x = jnp.stack([x, 2 * x, x[::-1]]) if axes[0] == 0 else x
    w = jnp.stack([w, w[::-1], -w]) if axes[1] == 0 else w

    def gradients(x, w):
        return jax.grad(lambda x, w: jnp.sin(convolve(x, w)).sum(), (0, 1))(x, w)

    actual = jax.jit(jax.vmap(gradients, axes))(x, w)
    loop = [
        gradients(x[i] if axes[0] == 0 else x, w[i] if axes[1] == 0 else w)
        for i in range(3)
    ]
    for ours, theirs in zip(actual, zip(*loop, strict=True), strict=True):
        np.testing.assert_allclose(ours, jnp.stack(theirs), rtol=1e-5, atol=1e-5)


def test_vmap_over_images_alone_is_one_call():
    x, w = small()
    text = str(jax.make_jaxpr(jax.vmap(convolve, (0, None)))(jnp.stack([x, x]), w))
    assert "f32[4,5,6,9]" in text and "scan" not in text


def test_second_derivative_matches_xla():
    x, w = small()

    def penalty(function):
        def inner(x, w):
            return jnp.sin(call(function, x, w, GEOMETRY)).sum()

        return lambda x, w: sum(
            jnp.square(g).sum() for g in jax.grad(inner, (0, 1))(x, w)
        )

    ours = jax.grad(penalty(ops.conv_general_dilated), (0, 1))(x, w)
    theirs = jax.grad(penalty(jax.lax.conv_general_dilated), (0, 1))(x, w)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(abs(b).max()))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float16, jnp.bfloat16])
def test_other_dtypes_fall_back(dtype, float64, monkeypatch):
    monkeypatch.setattr(onednn, "_native", {"float32"})
    monkeypatch.setattr(onednn, "_call", forbidden)
    x, w = (jnp.asarray(a, dtype) for a in small())
    y = convolve(x, w)
    expected = call(jax.lax.conv_general_dilated, x, w, GEOMETRY)
    assert y.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(y, np.float64),
        np.asarray(expected, np.float64),
        rtol=4 * float(jnp.finfo(dtype).eps),
        atol=4 * float(jnp.finfo(dtype).eps),
    )


@pytest.mark.parametrize(
    ("target", "out", "geometry", "message"),
    [
        ("forward", (2, 5, 7, 9), GEOMETRY, "size of this convolution"),
        ("forward", (8, 5, 6, 9), GEOMETRY, "batch size"),
        ("forward", (2, 5, 6, 10), GEOMETRY, "channels"),
        ("forward", (2, 5, 6), GEOMETRY, "four axes"),
        ("forward", (2, 5, 6, 9), GEOMETRY._replace(groups=2), "channels"),
        ("forward", (2, 5, 6, 9), GEOMETRY._replace(groups=0), "positive"),
        ("forward", (2, 5, 6, 9), GEOMETRY._replace(strides=(0, 1)), "positive"),
        (
            "forward",
            (2, 5, 6, 9),
            GEOMETRY._replace(padding=((-1, 3), (1, 1))),
            "negative",
        ),
        ("forward", (2, 5, 6, 9), GEOMETRY._replace(dilation=(9, 1)), "size of this"),
        ("input_gradient", (2, 50, 6, 9), GEOMETRY, "size of this convolution"),
        ("kernel_gradient", (3, 3, 30, 9), GEOMETRY, "channels"),
    ],
)
def test_wrong_shape_is_an_error(target, out, geometry, message):
    x, w = small()
    second = x if target == "kernel_gradient" else w
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(
            onednn._call(f"jaxvision_{target}", out, geometry, x, second)
        )


def test_wrong_dtype_is_an_error():
    x, w = small()
    with pytest.raises(ValueError, match="float32"):
        onednn.convolve(x.astype(jnp.float16), w.astype(jnp.float16), GEOMETRY)
    with pytest.raises(ValueError, match="not float32 by bfloat16"):
        onednn.convolve(x, w.astype(jnp.bfloat16), GEOMETRY)
    for a, b, message in (
        (x.astype(jnp.float16), w.astype(jnp.float16), "computes in float32"),
        (x, w.astype(jnp.bfloat16), "differ in dtype"),
    ):
        with pytest.raises(Exception, match=message):
            jax.block_until_ready(
                onednn._call("jaxvision_forward", x.shape, GEOMETRY, a, b)
            )


@pytest.mark.parametrize(
    "rounds", [10, pytest.param(300, marks=pytest.mark.slow, id="evicting")]
)
def test_several_threads_with_many_shapes(rounds):
    """Four threads; 300 rounds are more shapes than are kept prepared."""
    w = jnp.ones((1, 1, 1, 1))
    geometry = GEOMETRY._replace(padding=((0, 0), (0, 0)))
    right = []

    def work(offset):
        for i in [*range(rounds), *range(rounds)]:
            n = 1 + 4 * i + offset
            x = jnp.asarray(np.full((1, 1, n, 1), n, np.float32))
            y = onednn._call("jaxvision_forward", x.shape, geometry, x, w)
            right.append(bool((np.asarray(y) == n).all()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * (8 * rounds)


sizes = st.lists(st.integers(1, 6), min_size=3, max_size=5).map(tuple)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    target=st.sampled_from(sorted(onednn.TARGETS)),
    shapes=st.tuples(sizes, sizes, sizes),
    numbers=st.tuples(*[st.integers(-1, 3)] * 9),
)
def test_any_nonsense_is_an_error_and_no_crash(target, shapes, numbers):
    a, b, out = shapes
    strides, top, left, dilation = (numbers[i : i + 2] for i in range(0, 8, 2))
    geometry = Geometry(strides, (top, left), dilation, numbers[8])
    args = jnp.ones(a), jnp.ones(b)
    try:
        result = jax.block_until_ready(onednn._call(target, out, geometry, *args))
    except jax.errors.JaxRuntimeError as error:
        assert "convolution: " in str(error)
    else:
        assert np.isfinite(np.asarray(result)).all()


def run_python(code: str, **environment) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxvision import ops
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6, 6, 4)), jnp.float32)
w = jnp.asarray(np.random.default_rng(1).standard_normal((3, 3, 4, 4)), jnp.float32)
def loss(conv):
    def run(w, x):
        y = conv(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sin(y).sum()
    return run
split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
ours = jax.jit(jax.grad(loss(ops.conv_general_dilated)))(w, split)
theirs = jax.grad(loss(jax.lax.conv_general_dilated))(w, x)
np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
print(ops.backend())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "used"), [("auto", "jax"), ("onednn", "onednn")])
def test_sharded_over_four_devices_is_right(choice, used):
    out = run_python(
        SHARDED,
        JAXVISION_CONV=choice,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert out.split() == [used]


TORCH = """
import numpy as np
{first}
import jax, jax.numpy as jnp
from jaxvision import ops
def ours():
    y = ops.conv_general_dilated(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2)), (1, 1),
        "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return float(y.sum())
before = ours()
import torch
def theirs():
    return float(torch.nn.functional.conv2d(
        torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3), padding=1).sum())
assert before == theirs() == ours() == theirs()
print(ops.backend())
"""


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("first", ["", "import torch"])
def test_torch_in_the_same_process(first):
    pytest.importorskip("torch")
    assert run_python(TORCH.format(first=first)).split() == ["onednn"]


def test_environment_is_left_as_it_was():
    code = (
        "import os; from jaxvision.ops import onednn; assert onednn.available();"
        "assert 'GOMP_SPINCOUNT' not in os.environ"
    )
    run_python(code)
