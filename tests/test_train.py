"""The compiled step and epoch: one compilation, the same bits however it is cut."""

import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision import losses, optim, parallel, train
from jaxvision.functional import functionalize
from jaxvision.models.layers import BatchNorm, Sequential, conv
from jaxvision.optim import Optim

pytestmark = pytest.mark.floor

KEY = jax.random.key(3)
MESH = parallel.make_mesh(devices=jax.devices()[:1])


class Net(nnx.Module):
    """Small, with BatchNorm and dropout."""

    def __init__(self, *, rngs):
        self.body = Sequential(
            [conv(3, 6, 3, stride=2, rngs=rngs), BatchNorm(6, rngs=rngs), nnx.relu]
        )
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(self.body(x).mean((1, 2))))


def prepare(key, images):
    x = images.astype(jnp.float32) / 255
    if key is not None:  # an augmentation that shows which key it got
        x = x + 0.1 * jax.random.normal(key, (len(x), 1, 1, 1))
    return x - 0.5


PREPARED = [lambda key, batch: batch | {"image": prepare(key, batch["image"])}]


def data(count=22):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, 9, 9, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 3, count), jnp.int32),
    }


def setup(frozen=()):
    apply, params, stats = functionalize(Net(rngs=nnx.Rngs(0)), frozen=frozen)
    tx = optim.make_optimizer(Optim(), 0.1)
    step = train.make_train_step(apply, losses.classification(), tx, frozen=frozen)
    state = train.init_state(params, stats, tx, frozen=frozen)
    return apply, step, jax.device_put(state, parallel.replicated(MESH))


def zero_sums():
    zeros = {"loss": jnp.zeros(()), "accuracy": jnp.zeros(())}
    return jax.device_put(zeros, parallel.replicated(MESH))


def test_step_compiles_once_and_counts():
    _, step, state = setup()
    batch = {"image": prepare(None, data()["image"]), "label": data()["label"]}
    for _ in range(3):
        state, numbers = step(state, batch, KEY)
    assert step._cache_size() == 1
    assert int(state.step) == 3
    assert np.isfinite(numbers["loss"])


def test_step_learns_and_donates_the_old_state():
    _, step, state = setup()
    batch = {"image": prepare(None, data()["image"]), "label": data()["label"]}
    old = state
    state, first = step(state, batch, KEY)
    assert old.params["head"]["kernel"].is_deleted()
    for _ in range(30):
        state, last = step(state, batch, KEY)
    assert last["loss"] < first["loss"] - 0.1


def test_epoch_gives_the_same_bits_however_it_is_cut_and_compiles_once():
    results = []
    for cuts in ([0, 5], [0, 1, 5], [0, 2, 3, 5]):
        _, step, state = setup()
        run = train.make_epoch(step, PREPARED, batch_size=4, mesh=MESH)
        order = jax.random.permutation(KEY, 22)
        sums = zero_sums()
        for start, stop in zip(cuts, cuts[1:], strict=False):
            state, sums = run(state, sums, data(), order, start, stop, KEY)
        assert run._cache_size() == 1
        results.append((state, sums))
    for other in results[1:]:
        chex.assert_trees_all_equal(results[0], other)
    assert int(results[0][0].step) == 5


def test_batch_says_which_images_it_has_and_in_which_epoch():
    seen = []

    def look(_, batch):
        jax.debug.callback(
            lambda *found: seen.append(found),
            batch["index"],
            batch["epoch"],
            batch["image"],
            ordered=True,
        )
        return batch

    _, step, state = setup()
    run = train.make_epoch(step, [look, *PREPARED], batch_size=4, mesh=MESH)
    for epoch in range(2):
        order = jax.random.permutation(jax.random.key(epoch), 22)
        for start, stop in ((0, 3), (3, 5)):
            state, _ = run(state, zero_sums(), data(), order, start, stop, KEY)
        jax.effects_barrier()
        index, said, images = (
            np.concatenate(x) for x in zip(*seen[5 * epoch :], strict=True)
        )
        np.testing.assert_array_equal(index, order[:20])
        np.testing.assert_array_equal(said, epoch)
        np.testing.assert_array_equal(images, data()["image"][order[:20]])


@pytest.mark.slow
def test_runs_of_several_seeds_in_one_program_are_those_of_each():
    """Two epochs, with BatchNorm, dropout and an augmentation by the run's own keys."""
    keys = jax.random.split(KEY, 3)
    orders = [jax.vmap(lambda k: jax.random.permutation(k, 22))(keys)] * 2

    def start(seed):
        apply, params, stats = functionalize(Net(rngs=nnx.Rngs(seed)))
        tx = optim.make_optimizer(Optim(), 0.1)
        step = train.make_train_step(apply, losses.classification(), tx)
        return step, train.init_state(params, stats, tx)

    def stacked(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    step, _ = start(0)
    many = train.make_epoch_of_seeds(step, PREPARED, batch_size=4, mesh=MESH)
    alone = train.make_epoch(step, PREPARED, batch_size=4, mesh=MESH)
    states = stacked([start(seed)[1] for seed in range(3)])
    singles = [start(seed)[1] for seed in range(3)]
    for order in orders:
        sums = stacked([zero_sums()] * 3)
        for begin, end in ((0, 2), (2, 5)):
            states, sums = many(states, sums, data(), order, begin, end, keys)
        for index in range(3):
            singles[index], expected = alone(
                singles[index], zero_sums(), data(), order[index], 0, 5, keys[index]
            )
            np.testing.assert_allclose(
                sums["loss"][index] / 5, expected["loss"] / 5, rtol=1e-4
            )
    chex.assert_trees_all_close(states, stacked(singles), rtol=1e-4, atol=1e-5)
    # They are three runs, not one.
    heads = np.asarray(states.params["head"]["kernel"])
    assert np.abs(heads[0] - heads[1]).max() > 0.01


def test_epoch_equals_a_loop_of_steps():
    _, step, state = setup()
    run = train.make_epoch(step, PREPARED, batch_size=4, mesh=MESH)
    order = jax.random.permutation(KEY, 22)
    state, sums = run(state, zero_sums(), data(), order, 0, 5, KEY)
    _, step, expected = setup()
    image_key, step_key = jax.random.split(KEY)
    total = 0.0
    for index in range(5):
        chosen = order[4 * index : 4 * index + 4]
        key = jax.random.fold_in(image_key, index)
        images = jax.jit(prepare)(key, data()["image"][chosen])
        batch = {"image": images, "label": data()["label"][chosen]}
        expected, numbers = step(expected, batch, step_key)
        total += float(numbers["loss"])
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums["loss"], total, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_evaluation_drops_and_invents_nothing(count):
    apply, _, state = setup()
    evaluate = train.make_eval_step(apply, PREPARED, batch_size=4, mesh=MESH)
    images = data(count)["image"]
    out = evaluate(state.params, state.stats, images)
    expected = apply(state.params, state.stats, prepare(None, images))[0]
    assert out.shape == (count, 3)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_frozen_leaves_stay_to_the_bit_and_have_no_optimizer_state():
    _, step, state = setup(frozen=("body",))
    before = jax.tree.map(np.array, state.params)
    stats = jax.tree.map(np.array, state.stats)
    sizes = {leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
    assert sizes == {(6, 3), (3,)}
    batch = {"image": prepare(None, data()["image"]), "label": data()["label"]}
    for _ in range(3):
        state, _ = step(state, batch, KEY)
    chex.assert_trees_all_equal(state.params["body"], before["body"])
    chex.assert_trees_all_equal(state.stats, stats)
    assert np.abs(state.params["head"]["kernel"] - before["head"]["kernel"]).max() > 0


class Plain(nnx.Module):
    """Nothing in it looks at the rest of the batch."""

    def __init__(self, *, rngs):
        self.body = conv(3, 6, 3, stride=2, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.body(x)).mean((1, 2)))


def test_accumulated_parts_give_the_step_of_the_whole_batch():
    batch = {"image": prepare(None, data(12)["image"]), "label": data(12)["label"]}
    found = []
    for parts in (1, 3):
        apply, params, stats = functionalize(Plain(rngs=nnx.Rngs(0)))
        tx = optim.make_optimizer(Optim(), 0.1)
        loss_fn = losses.classification()
        step = train.make_train_step(apply, loss_fn, tx, accumulate=parts)
        state, numbers = step(train.init_state(params, stats, tx), batch, KEY)
        found.append((state.params, numbers))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-7)


def test_accumulation_normalises_each_part_by_itself():
    batch = {"image": prepare(None, data(8)["image"]), "label": data(8)["label"]}
    apply, params, stats = functionalize(Net(rngs=nnx.Rngs(0)))
    tx = optim.make_optimizer(Optim(), 0.0)
    step = train.make_train_step(apply, losses.classification(), tx, accumulate=2)
    state = train.init_state(params, stats, tx)
    expected, alone = state.stats, jax.jit(apply)
    for part in (0, 1):  # every other image
        images = batch["image"][part::2]
        _, expected = alone(state.params, expected, images, key=KEY)
    expected = jax.tree.map(np.asarray, expected)
    state, _ = step(state, batch, KEY)
    chex.assert_trees_all_close(state.stats, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="8 images cannot be cut into 3 parts"):
        train.make_train_step(apply, losses.classification(), tx, accumulate=3).lower(
            state, batch, KEY
        )


def test_epoch_trains_on_what_mix_makes_of_a_batch():
    """All images blended into one, all targets alike: the loss knows the shares."""
    shares = jnp.asarray([0.5, 0.3, 0.2])

    def mix(key, batch):
        target = jnp.broadcast_to(shares, (4, 3))
        return batch | {"image": jnp.zeros_like(batch["image"]), "target": target}

    _, step, state = setup()
    run = train.make_epoch(step, [*PREPARED, mix], batch_size=4, mesh=MESH)
    order = jnp.arange(22)
    _, sums = run(state, zero_sums(), data(), order, 0, 1, KEY)
    _, step, state = setup()
    zeros = jnp.zeros((4, 9, 9, 3))
    batch = {"image": zeros, "label": data()["label"][:4]}
    batch["target"] = jnp.broadcast_to(shares, (4, 3))
    _, numbers = step(state, batch, jax.random.split(KEY, 3)[1])
    np.testing.assert_allclose(sums["loss"], numbers["loss"], rtol=1e-5)


def test_frozen_backbone_is_not_differentiated(monkeypatch):
    monkeypatch.setenv("JAXVISION_CONV", "xla")
    batch = {"image": prepare(None, data()["image"]), "label": data()["label"]}
    counts = []
    for frozen in ((), ("body",)):
        _, step, state = setup(frozen)
        text = step.lower(state, batch, KEY).compile().as_text()
        counts.append(text.count(" convolution("))
    assert counts == [2, 1]  # forward and kernel gradient; forward


def test_batch_size_must_fit_the_devices():
    with pytest.raises(ValueError, match="multiple of 1"):
        parallel.check_batch_size(0, MESH)


SHARDED = """
import jax, numpy as np
from tests.test_train import *
jax.config.update("jax_default_matmul_precision", "highest")
losses_by_count = []
for count in (1, 8):
    mesh = parallel.make_mesh(devices=jax.devices()[:count])
    _, step, state = setup()
    run = train.make_epoch(step, PREPARED, batch_size=8, mesh=mesh)
    place = lambda tree: jax.device_put(tree, parallel.replicated(mesh))
    order = jax.random.permutation(KEY, 22)
    history = []
    state, key, arrays = place(state), place(KEY), place(data())
    sums = place(zero_sums())
    for _ in range(3):
        state, sums = run(state, sums, arrays, place(order), 0, 2, key)
        history.append(float(sums["loss"]))
    evaluate = train.make_eval_step(
        functionalize(Net(rngs=nnx.Rngs(0)))[0], PREPARED, batch_size=8, mesh=mesh)
    out = evaluate(state.params, state.stats, arrays["image"])
    losses_by_count.append(history + [float(np.abs(out).sum())])
np.testing.assert_allclose(*losses_by_count, rtol=2e-5)
print("same")
"""


def test_one_device_and_eight_give_the_same_losses():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "same", done.stderr[-2000:]
