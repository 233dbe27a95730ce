"""Compute types by device, and float16's loss scale against torch's GradScaler."""

import dataclasses
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.training import loop, training
from jaxvision import checkpoint, precision, train
from jaxvision.precision import LossScale, fast_dtype, next_scale

pytestmark = pytest.mark.floor

KEY = jax.random.key(0)
DEVICES = {
    "a CPU": ("cpu", "cpu", None, "float32"),
    "T4": ("gpu", "Tesla T4", "7.5", "float32"),
    "V100": ("gpu", "Tesla V100-SXM2-16GB", "7.0", "float32"),
    "A100": ("gpu", "NVIDIA A100-SXM4-40GB", "8.0", "bfloat16"),
    "L4": ("gpu", "NVIDIA L4", "8.9", "bfloat16"),
    "H100": ("gpu", "NVIDIA H100 80GB HBM3", "9.0", "bfloat16"),
    "B200": ("gpu", "NVIDIA B200", "10.0", "bfloat16"),
    "AMD": ("gpu", "AMD Instinct MI250X", "gfx90a", "bfloat16"),
    "TPU": ("tpu", "TPU v5 lite", None, "bfloat16"),
}


def device(name):
    platform, kind, capability, _ = DEVICES[name]
    facts = {} if capability is None else {"compute_capability": capability}
    return SimpleNamespace(platform=platform, device_kind=kind, **facts)


@pytest.mark.parametrize("name", DEVICES)
def test_auto_is_bfloat16_where_the_device_multiplies_it(name, monkeypatch, capsys):
    dtype, why = fast_dtype(device(name))
    assert dtype == DEVICES[name][3]
    monkeypatch.setattr(jax, "devices", lambda: [device(name)])
    assert training.compute_type("auto", console=Console()) == dtype
    assert capsys.readouterr().out == f"computes in {dtype}: {why}\n"
    assert DEVICES[name][1] in why
    assert ("float16 is faster" in why) == (name in ("T4", "V100"))


def test_float16_is_a_choice_that_a_tpu_does_not_have(monkeypatch, capsys):
    monkeypatch.setattr(jax, "devices", lambda: [device("T4")])
    assert training.compute_type("float16", console=Console()) == "float16"
    assert "dynamic loss scale" in capsys.readouterr().out
    monkeypatch.setattr(jax, "devices", lambda: [device("TPU")])
    with pytest.raises(UsageError, match="--dtype float16: TPU v5 lite multiplies"):
        training.compute_type("float16", console=Console())


def run_scales(finite, start=precision.INITIAL):
    now = LossScale(jnp.float32(start), jnp.int32(0))
    step = jax.jit(next_scale)
    seen = []
    for flag in finite:
        now = step(now, jnp.asarray(flag))
        seen.append((float(now.scale), int(now.good)))
    return seen


@pytest.mark.torch
@settings(max_examples=30, deadline=None)
@given(
    finite=st.lists(st.booleans(), min_size=1, max_size=25),
    start=st.sampled_from([65536.0, 2.0, 2.0**126, 3.0]),
)
def test_scale_is_that_of_torchs_grad_scaler(finite, start):
    torch = pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "INTERVAL", 3)
        jax.clear_caches()
        ours = run_scales(finite, start)
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=3)
    weight = torch.nn.Parameter(torch.zeros(()))
    sgd = torch.optim.SGD([weight], lr=0.0)
    theirs = []
    for flag in finite:
        scaler.scale(weight * 0)
        weight.grad = torch.tensor(1.0 if flag else float("inf"))
        scaler.step(sgd)
        scaler.update()
        theirs.append((scaler.get_scale(), scaler._get_growth_tracker()))
    assert ours == theirs


def test_scale_begins_as_torchs_and_doubles_after_two_thousand_steps():
    now = precision.initial_scale()
    assert (now.scale, now.good) == (65536.0, 0)
    before = LossScale(now.scale, jnp.int32(1998))
    once = next_scale(before, jnp.asarray(True))
    assert (once.scale, once.good) == (65536.0, 1999)
    twice = next_scale(once, jnp.asarray(True))
    assert (twice.scale, twice.good) == (131072.0, 0)
    assert next_scale(once, jnp.asarray(False)) == (32768.0, 0)


def apply(params, stats, images, *, key=None):
    """One weight in float16: gradients of 1e-8 are zero there, and of 1e5 infinite."""
    x = images.reshape(len(images), -1).astype(jnp.float16)
    out = x * params["w"].astype(jnp.float16)
    return out.astype(jnp.float32), {"seen": stats["seen"] + 1}


def loss_fn(out, batch):
    # A factor after float16 reaches its gradients in float16.
    loss = (out * batch["factor"]).mean()
    return loss, {"loss": loss}


def setup(scaled=True, **options):
    tx = optax.adam(0.1)
    step = train.make_train_step(apply, loss_fn, tx, **options)
    params = {"w": jnp.ones(())}
    ema = options.get("ema", 0.0)
    state = train.init_state(
        params, {"seen": jnp.zeros(())}, tx, ema=ema, scaled=scaled
    )
    return step, state


def batch(factor):
    image, ones = jnp.ones((4, 1, 1, 1)), jnp.ones((4, 1))
    return {"image": image, "factor": factor * ones}


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"accumulate": 2}])
def test_small_gradients_survive_and_are_divided_again(options):
    moved = {}
    for scaled in (False, True):
        step, state = setup(scaled, **options)
        state, metrics = step(state, batch(1e-8), KEY)
        moved[scaled] = float(state.opt_state[0].mu["w"])
        np.testing.assert_allclose(metrics["loss"], 1e-8, rtol=1e-3)
    assert moved[False] == 0
    np.testing.assert_allclose(moved[True], 0.1 * 1e-8, rtol=1e-2)


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"accumulate": 2}])
def test_step_whose_gradients_overflow_changes_the_scale_alone(options):
    step, state = setup(**options)
    state, _ = step(state, batch(1e-3), KEY)
    before = jax.tree.map(np.array, state)
    state, metrics = step(state, batch(100.0), KEY)
    assert np.isfinite(metrics["loss"])
    assert int(state.step) == 2
    assert state.loss_scale == (32768.0, 0)
    for name in ("params", "stats", "opt_state", "average"):
        chex.assert_trees_all_equal(getattr(state, name), getattr(before, name))
    # Halved until it fits, and then the step is taken.
    for _ in range(10):
        state, _ = step(state, batch(100.0), KEY)
    assert float(state.params["w"]) < float(before.params["w"])
    assert 0 < float(state.loss_scale.scale) < 65504 / 100 * 4
    assert step._cache_size() == 1


def test_state_without_a_scale_has_the_leaves_and_the_program_of_old():
    step, state = setup(scaled=False)
    assert state.loss_scale == ()
    names = checkpoint._named_leaves(state)
    assert not any("loss_scale" in name for name in names)
    text = step.lower(state, batch(1.0), KEY).as_text()
    assert "is_finite" not in text
    scaled = setup()[1]
    assert "is_finite" in step.lower(scaled, batch(1.0), KEY).as_text()


@pytest.mark.parametrize(("scale", "sound"), [(2.0**-14, True), (2.0**-15, False)])
def test_scale_that_no_gradient_fits_ends_the_run(scale, sound):
    """Else its steps would change nothing, and the loss would look well."""
    _, state = setup()
    assert loop.is_sound(state)
    lost = LossScale(jnp.float32(scale), jnp.int32(0))
    assert loop.is_sound(dataclasses.replace(state, loss_scale=lost)) == sound


def test_checkpoint_holds_the_scale_and_goes_on_to_the_same_bits(tmp_path):
    step, state = setup()
    factors = [1e-3, 100.0, 100.0, 1e-3, 1.0, 1e4, 1.0]
    for factor in factors[:3]:
        state, _ = step(state, batch(factor), KEY)
    with checkpoint.Saver(tmp_path) as saver:
        saver.save(3, state, metadata={})
    found = checkpoint.restore(tmp_path, jax.eval_shape(lambda: setup()[1]))
    assert found is not None
    assert found.tree.loss_scale == state.loss_scale == (16384.0, 0)
    other = found.tree
    for factor in factors[3:]:
        state, _ = step(state, batch(factor), KEY)
        other, _ = step(other, batch(factor), KEY)
    chex.assert_trees_all_equal(state, other)
