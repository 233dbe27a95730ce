"""Multiply-adds, against the figures that torchvision states for its weights."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision import flops, models
from jaxvision.flops import multiply_adds

QUICK = {"googlenet", "mobilenet_v2", "resnet18", "resnext50_32x4d", "vgg16"}
"""Tracing all 26 takes half a minute."""


@pytest.mark.torch
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in models.names()
    ],
)
def test_equals_torchvisions_gflops(name):
    """All 26 agree to the three digits stated: both count the same operations.

    torchvision counts convolutions and matrix products, one multiply-add each, of the
    evaluated model, so without GoogLeNet's auxiliary heads.
    """
    pytest.importorskip("torch")
    from converters.torchvision_import import import_torchvision

    row = import_torchvision().models.get_model_weights(name).DEFAULT
    (size,) = row.transforms().crop_size
    stated = row.meta["_ops"]
    assert multiply_adds(name, size=size) / 1e9 == pytest.approx(stated, abs=5.01e-4)


def test_counts_a_small_net_by_hand():
    found = multiply_adds("fcn_baseline", size=32, num_classes=10)
    assert found == 3072 * 100 + 100 * 20 + 20 * 10


def test_other_classes_change_the_last_layer_alone():
    nine, thousand = (multiply_adds("vgg11", size=64, num_classes=n) for n in (9, 1000))
    assert thousand - nine == 4096 * 991


@pytest.mark.parametrize("backend", ["auto", "jax", "xla"])
def test_back_end_does_not_matter(monkeypatch, backend):
    monkeypatch.setenv("JAXVISION_CONV", backend)
    assert multiply_adds("resnet18", size=224) == 1_814_073_344


def test_counts_inside_loops_and_calls():
    def loop(x, w):
        def step(x, _):
            return jnp.tanh(jax.jit(jnp.matmul)(x, w)), None

        return jax.checkpoint(lambda x: jax.lax.scan(step, x, None, length=5))(x)

    jaxpr = jax.make_jaxpr(loop)(jnp.zeros((2, 3)), jnp.zeros((3, 3)))
    assert flops._count(jaxpr.jaxpr) == 5 * 2 * 3 * 3


def test_grouped_and_batched_products():
    def grouped(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    jaxpr = jax.make_jaxpr(grouped)(jnp.zeros((1, 8, 8, 8)), jnp.zeros((3, 3, 2, 12)))
    assert flops._count(jaxpr.jaxpr) == 4 * 4 * 12 * (3 * 3 * 2)
    batched = jax.make_jaxpr(jnp.matmul)(jnp.zeros((7, 2, 3)), jnp.zeros((7, 3, 5)))
    assert flops._count(batched.jaxpr) == 7 * 2 * 3 * 5


def test_unknown_model_is_named():
    with pytest.raises(ValueError, match="unknown backbone 'resnet19'"):
        multiply_adds("resnet19", size=224)
