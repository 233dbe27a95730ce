"""Convolution rules against XLA in float64; pooling and BatchNorm against PyTorch."""

import os
import platform
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision import ops
from jaxvision.ops import conv_rules, onednn
from tests.convolutions import (
    TABLE,
    assert_within_rounding,
    call,
    cases,
    operands,
    value_and_gradients,
)
from tests.double import x64


def check(case, dtype):
    x, w, g = operands(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXVISION_CONV", "jax")
        ours = value_and_gradients(ops.conv_general_dilated, case, x, w, g, dtype)
    assert_within_rounding(ours, case, x, w, g, dtype)


@pytest.mark.parametrize("name", TABLE)
def test_rules_match_float64(name):
    check(TABLE[name], np.dtype("float64"))


@pytest.mark.parametrize("name", ["1x1 strided", "3x3", "depthwise", "grouped"])
def test_rules_in_float32_round_alike(name):
    check(TABLE[name], np.dtype("float32"))


@settings(max_examples=10, deadline=None)
@given(case=cases())
def test_rules_match_on_any_geometry(case):
    check(case, np.dtype("float64"))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_rules_match_on_many_geometries(case):
    check(case, np.dtype("float64"))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("1x1 strided", "pointwise"),
        ("1x1 padded", "canonical"),
        ("3x3", "canonical"),
        ("few outputs 5x5", "few outputs"),
        ("depthwise", "depthwise"),
        ("grouped", "grouped"),
    ],
)
def test_table_chooses_by_shape(name, rule):
    assert conv_rules.choose(*TABLE[name]).name == rule


def test_rules_work_under_vmap_scan_and_remat(monkeypatch, float64):
    monkeypatch.setenv("JAXVISION_CONV", "jax")
    case = TABLE["3x3"]._replace(kernel=(3, 3, 16, 16))
    x, w, _ = (jnp.asarray(a) for a in operands(case))

    def loss(function, w, x):
        def body(x, _):
            return jnp.tanh(call(function, x, w, case.geometry)), None

        return jax.lax.scan(jax.checkpoint(body), x, length=2)[0].sum()

    def gradients(function):
        run = jax.grad(lambda w, x: loss(function, w, x))
        return jax.jit(jax.vmap(run, (None, 0)))(w, jnp.stack([x, 2 * x]))

    np.testing.assert_allclose(
        gradients(ops.conv_general_dilated),
        gradients(jax.lax.conv_general_dilated),
        rtol=1e-9,
        atol=1e-9,
    )


def compiled(function, case) -> str:
    x, w, _ = (jnp.asarray(a, jnp.float32) for a in operands(case))

    def body(w, _):
        grads = jax.grad(lambda w: call(function, x, w, case.geometry).sum())(w)
        return w - grads, None

    run = jax.jit(lambda w: jax.lax.scan(body, w, length=2)[0])
    return run.lower(w).compile().as_text()


def test_gradients_in_a_loop_stay_plain_convolutions(monkeypatch):
    """Permuted dimension numbers, which XLA runs slowly in a loop, appear nowhere."""
    monkeypatch.setenv("JAXVISION_CONV", "jax")
    labels = re.findall(
        r"dim_labels=(\S+?)[,\s]", compiled(ops.conv_general_dilated, TABLE["3x3"])
    )
    assert labels and set(labels) <= {"b01f_01io->b01f"}


def test_unknown_backend_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("JAXVISION_CONV", "mkl")
    with pytest.raises(
        ValueError, match="JAXVISION_CONV='mkl'.*auto, onednn, jax, xla"
    ):
        ops.backend()


@pytest.mark.parametrize("choice", ["jax", "xla"])
def test_backend_says_what_was_chosen(choice, monkeypatch):
    monkeypatch.setenv("JAXVISION_CONV", choice)
    assert ops.backend() == choice


def test_without_the_extension_the_rules_serve(monkeypatch):
    monkeypatch.setattr(onednn, "problem", lambda: "the extension was not built")
    monkeypatch.setattr(onednn, "available", lambda: False)
    monkeypatch.setenv("JAXVISION_CONV", "auto")
    if jax.default_backend() == "cpu":
        assert ops.backend() == "jax"
    monkeypatch.setenv("JAXVISION_CONV", "onednn")
    with pytest.raises(ValueError, match="the extension was not built"):
        ops.backend()


def test_xla_choice_is_the_plain_convolution(monkeypatch):
    """Forward-mode differentiation works there alone."""
    monkeypatch.setenv("JAXVISION_CONV", "xla")
    case = TABLE["depthwise"]
    x, w, _ = (jnp.asarray(a, jnp.float32) for a in operands(case))

    def ours(x):
        return call(ops.conv_general_dilated, x, w, case.geometry)

    assert str(jax.make_jaxpr(ours)(x)).count("conv_general_dilated[") == 1
    jax.jvp(ours, (x,), (x,))


@pytest.mark.parametrize("choice", ["auto", "jax", "xla"])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")},
        {"padding": "VALID", "dimension_numbers": ("NHWC", "HWIO", "NHWC")},
        {
            "padding": ((-1, 0), (2, 1)),
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        },
        {
            "padding": ((1, 1), (1, 1)),
            "lhs_dilation": (2, 2),
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        },
        {"padding": "SAME", "dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    ],
)
def test_other_calls_are_xlas(options, choice, monkeypatch, float64):
    monkeypatch.setenv("JAXVISION_CONV", choice)
    x, w, _ = (jnp.asarray(a) for a in operands(TABLE["3x3"]))
    if options["dimension_numbers"][0] == "NCHW":
        x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    args = (x, w, (2, 2))
    np.testing.assert_allclose(
        ops.conv_general_dilated(*args, **options),
        jax.lax.conv_general_dilated(*args, **options),
        rtol=1e-9,
        atol=1e-9,
    )


def test_wrong_channels_are_an_error():
    x, w = jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 4, 2))
    with pytest.raises(ValueError, match="feature"):
        ops.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def nchw(x):
    torch = pytest.importorskip("torch")
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1), requires_grad=True)


def nhwc(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


@pytest.mark.torch
@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    window=st.integers(1, 4),
    stride=st.integers(1, 4),
    fraction=st.integers(0, 2),
    ceil_mode=st.booleans(),
)
def test_max_pool_and_its_ties_match_torch(size, window, stride, fraction, ceil_mode):
    torch = pytest.importorskip("torch")
    padding = min(fraction, window // 2)
    rng = np.random.default_rng(0)
    # Few values, so that most windows hold a tie.
    x = rng.integers(0, 4, (2, *size, 3)).astype(np.float64)
    theirs = nchw(x)
    y = torch.nn.functional.max_pool2d(
        theirs, window, stride, padding, ceil_mode=ceil_mode
    )
    g = rng.standard_normal(y.shape)
    y.backward(torch.tensor(g))
    with x64():

        @jax.jit
        def run(x, g):
            options = {"padding": padding, "ceil_mode": ceil_mode}
            out, pull = jax.vjp(lambda x: ops.max_pool(x, window, stride, **options), x)
            return out, *pull(g)

        ours, gradient = run(jnp.asarray(x), jnp.asarray(np.moveaxis(g, 1, -1)))
    np.testing.assert_array_equal(ours, nhwc(y))
    np.testing.assert_allclose(gradient, nhwc(theirs.grad), rtol=0, atol=1e-12)


def test_max_pool_of_bfloat16_under_vmap_and_jit():
    x = jnp.arange(2 * 3 * 4 * 4 * 2, dtype=jnp.bfloat16).reshape(2, 3, 4, 4, 2)
    pool = jax.jit(jax.vmap(lambda x: ops.max_pool(x, 2, 2)))
    assert pool(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(pool(x), x[:, :, 1::2, 1::2])


def test_max_pool_keeps_nan():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    np.testing.assert_array_equal(
        ops.max_pool(x, 2, 2)[0, :, :, 0], [[np.nan, 0], [0, 0]]
    )


@pytest.mark.parametrize(
    ("size", "padding", "message"), [(2, 0, "smaller than"), (8, 2, "half the window")]
)
def test_max_pool_rejects(size, padding, message):
    with pytest.raises(ValueError, match=message):
        ops.max_pool(jnp.ones((1, size, size, 1)), 3, 2, padding=padding)


@pytest.mark.torch
@pytest.mark.parametrize("size", [(7, 7), (3, 4), (1, 1), (6, 6)])
@pytest.mark.parametrize("image", [(7, 7), (14, 14), (9, 5), (1, 1), (3, 8)])
def test_adaptive_avg_pool_matches_torch(size, image, float64):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, *image, 3))
    expected = torch.nn.functional.adaptive_avg_pool2d(nchw(x), size)
    ours = ops.adaptive_avg_pool(jnp.asarray(x), size)
    np.testing.assert_allclose(ours, nhwc(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.torch
def test_avg_pool_matches_torch(float64):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 9, 7, 3))
    expected = torch.nn.functional.avg_pool2d(nchw(x), 3, 2)
    ours = ops.avg_pool(jnp.asarray(x), 3, 2)
    np.testing.assert_allclose(ours, nhwc(expected), rtol=1e-12, atol=1e-12)


def test_avg_pool_refuses_images_smaller_than_the_window():
    with pytest.raises(ValueError, match="images of 2x5 are smaller than the window"):
        ops.avg_pool(jnp.zeros((1, 2, 5, 3)), 3, 2)


def test_global_avg_pool_sums_in_float32():
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    assert ops.global_avg_pool(x).dtype == jnp.bfloat16
    assert ops.global_avg_pool(x)[0, 0] == 1


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (8, 5)])
def test_batch_norm_and_its_gradients_match_torch(shape, float64):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.standard_normal(shape)
    scale, bias = rng.standard_normal((2, shape[-1]))
    weights = rng.standard_normal(shape)
    theirs = nchw(x), *(torch.tensor(a, requires_grad=True) for a in (scale, bias))
    y = torch.nn.functional.batch_norm(
        theirs[0], None, None, *theirs[1:], training=True, eps=1e-3
    )
    (y * nchw(weights).detach()).sum().backward()

    def run(*args):
        y, mean, var = ops.batch_norm_train(*args, eps=1e-3)
        return (y * weights).sum(), (y, mean, var)

    args = tuple(jnp.asarray(a) for a in (x, scale, bias))
    grads, (ours, mean, var) = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(*args)
    axes = tuple(range(len(shape) - 1))
    for a, b in [
        (ours, nhwc(y)),
        (mean, x.mean(axes)),
        (var, x.var(axes)),
        (grads[0], nhwc(theirs[0].grad)),
        (grads[1], theirs[1].grad.numpy()),
        (grads[2], theirs[2].grad.numpy()),
    ]:
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_batch_norm_statistics_are_float32_and_carry_no_gradient():
    x = jnp.asarray(1000 + np.random.default_rng(0).random((64, 8, 8, 2)), jnp.bfloat16)
    one, nought = jnp.ones(2), jnp.zeros(2)
    y, mean, var = ops.batch_norm_train(x, one, nought, eps=1e-5)
    assert y.dtype == jnp.bfloat16 and mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(var, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-3)
    gradient = jax.grad(
        lambda x: sum(
            a.sum() for a in ops.batch_norm_train(x, one, nought, eps=1e-5)[1:]
        )
    )(x.astype(jnp.float32))
    np.testing.assert_array_equal(gradient, 0)


PAGES = """
import resource, sys
from jaxvision import ops
print(ops.keep_pages())
import jax, jax.numpy as jnp
run = jax.jit(jnp.sin)
x = jnp.ones((256, 1 << 15))
for i in range(40):
    if i == 30:  # the heap has found its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(run(x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(choice: str) -> tuple[str, int]:
    result = subprocess.run(
        [sys.executable, "-c", PAGES],
        env={**os.environ, "JAXVISION_MALLOC": choice},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    kept, faults = result.stdout.split()
    return kept, int(faults)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone")
def test_keep_pages_spares_the_faults_of_later_steps():
    assert page_faults("default")[0] == "False"
    kept, faults = page_faults("keep")
    assert kept == "True"
    # The results of ten calls, 32 MiB each, are 80000 pages.
    assert faults < 20000 < 60000 < page_faults("default")[1]


def test_keep_pages_rejects_an_unknown_choice(monkeypatch):
    monkeypatch.setenv("JAXVISION_MALLOC", "jemalloc")
    with pytest.raises(
        ValueError, match="JAXVISION_MALLOC='jemalloc'.*keep or default"
    ):
        ops.keep_pages()
