"""Checkpoints: bits, damage, mismatch, what stays, and interrupted saves."""

import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvision import checkpoint
from jaxvision.checkpoint import CheckpointError, Saver
from jaxvision.train import TrainState

pytestmark = pytest.mark.floor

TX = optax.chain(optax.sgd(0.1, momentum=0.9), optax.adam(1e-3))


@jax.jit
def compiled_state(seed):
    key = jax.random.key(seed)
    params = {
        "layer1": {0: {"kernel": jax.random.normal(key, (3, 3, 4, 8))}},
        "fc": {"kernel": jnp.array([[jnp.nan, -0.0], [jnp.inf, 1e-42]])},
        "half": jax.random.normal(key, (5,), jnp.bfloat16),
    }
    updates = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
    _, opt_state = TX.update(updates, TX.init(params), params)
    stats = {"mean": jnp.arange(3.0), "count": jnp.array(True)}
    return TrainState(jnp.asarray(7 + seed), params, stats, opt_state)


def make_state(seed=0):
    return compiled_state(seed)


def save_steps(folder, *numbers, **options):
    for number in numbers:
        metadata = {"epoch": number}
        checkpoint.save(
            folder, number, make_state(number), metadata=metadata, **options
        )


def bits(tree):
    def raw(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()

    leaves, structure = jax.tree.flatten(tree)
    return structure, [raw(x) if hasattr(x, "dtype") else (type(x), x) for x in leaves]


def largest_file(folder):
    return max(folder.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)


def test_restores_every_bit_and_type(tmp_path):
    tree = {
        "state": make_state(),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2),
        "best": 0.1,
        "seed": 2**40 + 1,
        "done": True,
        "numpy": np.arange(4, dtype=np.float64) / 3,
        "nothing": None,
    }
    metadata = {"epoch": 2, "val_accuracy": 0.25, "history": [1.5, None, "a"]}
    checkpoint.save(tmp_path, 12, tree, metadata=metadata)
    found = checkpoint.restore(tmp_path, tree)
    assert found is not None
    assert (found.step, found.metadata, found.skipped) == (12, metadata, ())
    assert bits(found.tree) == bits(tree)
    assert isinstance(found.tree["numpy"], np.ndarray)
    assert jax.random.key_impl(found.tree["keys"]) == jax.random.key_impl(tree["keys"])
    assert jax.random.bits(found.tree["key"]) == jax.random.bits(tree["key"])


def test_abstract_target_restores_without_a_second_compilation(tmp_path):
    @jax.jit
    def train_step(state):
        return replace(state, step=state.step + 1)

    state = train_step(train_step(make_state()))
    compiled = train_step._cache_size()
    checkpoint.save(tmp_path, 1, state, metadata={})
    target = jax.eval_shape(make_state)
    found = checkpoint.restore(tmp_path, target)
    assert found is not None and bits(found.tree) == bits(state)
    train_step(found.tree)
    assert train_step._cache_size() == compiled


def test_python_number_fits_its_abstract_form(tmp_path):
    tree = {"count": 5, "rate": 0.5}
    checkpoint.save(tmp_path, 1, tree, metadata={})
    found = checkpoint.restore(tmp_path, jax.eval_shape(lambda: tree))
    assert found is not None
    assert found.tree["count"].dtype == jnp.int32 and found.tree["count"] == 5
    assert found.tree["rate"].weak_type and found.tree["rate"] == 0.5


def test_follows_the_sharding_of_the_target(tmp_path):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    tree = {
        "x": jnp.arange(6.0).reshape(2, 3),
        "keys": jax.random.split(jax.random.key(0)),
    }
    checkpoint.save(tmp_path, 1, jax.device_put(tree, sharding), metadata={})
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )
    found = checkpoint.restore(tmp_path, target)
    assert found is not None and bits(found.tree) == bits(tree)
    assert all(x.sharding == sharding for x in jax.tree.leaves(found.tree))


def test_nothing_saved_gives_none(tmp_path):
    assert checkpoint.restore(tmp_path / "missing", make_state()) is None
    (tmp_path / "notes").mkdir()
    assert checkpoint.restore(tmp_path, make_state()) is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_array(step):
    flip(largest_file(step))


def flip_metadata(step):
    flip(step / "metadata.json")


def flip_manifest(step):
    path = step / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"metadata.json"', '"metadata.jsoo"'))


def truncate(step):
    path = largest_file(step)
    path.write_bytes(path.read_bytes()[:-1])


def cut_manifest(step):
    path = step / "manifest.json"
    path.write_text(path.read_text()[:40])


def odd_manifest(step):
    (step / "manifest.json").write_text("[1, 2]")


def remove_manifest(step):
    (step / "manifest.json").unlink()


def remove_file(step):
    largest_file(step).unlink()


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = {
    flip_array: "sha256 differs",
    flip_metadata: "metadata.json is damaged",
    flip_manifest: "manifest.json does not list metadata.json",
    truncate: "bytes instead of",
    cut_manifest: "manifest.json is damaged",
    odd_manifest: "manifest.json does not list metadata.json",
    remove_manifest: "there is no manifest.json",
    remove_file: "is missing",
    empty: "the folder is empty",
}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    save_steps(folder, 1, 2)
    return folder


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damaged_step_falls_back_and_says_why(tmp_path, two_steps, damage):
    folder = tmp_path / "run"
    shutil.copytree(two_steps, folder)
    damage(folder / "2")
    found = checkpoint.restore(folder, make_state())
    assert found is not None and found.step == 1 and found.metadata == {"epoch": 1}
    assert bits(found.tree) == bits(make_state(1))
    assert len(found.skipped) == 1 and found.skipped[0].startswith("step 2: ")
    assert DAMAGES[damage] in found.skipped[0]
    # The damaged step can be saved anew, and is then whole.
    save_steps(folder, 2)
    again = checkpoint.restore(folder, make_state())
    assert again is not None and (again.step, again.skipped) == (2, ())


def test_nothing_whole_lists_every_reason(tmp_path, two_steps):
    folder = tmp_path / "run"
    shutil.copytree(two_steps, folder)
    truncate(folder / "1")
    empty(folder / "2")
    with pytest.raises(CheckpointError, match="no whole checkpoint") as error:
        checkpoint.restore(folder, make_state())
    assert "step 2: the folder is empty" in str(error.value)
    assert "step 1: " in str(error.value) and "bytes instead" in str(error.value)


def test_mismatch_names_the_leaves(tmp_path):
    tree = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4), "c": [jnp.zeros(1)], "n": 1}
    checkpoint.save(tmp_path, 1, tree, metadata={})
    target = {
        "a": jnp.zeros((3, 2)),
        "b": jnp.zeros(4, jnp.bfloat16),
        "c": [jnp.zeros(1), jnp.zeros(1)],
        "key": jax.random.key(0),
    }
    with pytest.raises(CheckpointError, match="does not fit") as error:
        checkpoint.restore(tmp_path, target)
    assert str(error.value).splitlines()[1:] == [
        "  n: saved, not in the target",
        "  a: saved float32[2,3], target float32[3,2]",
        "  b: saved float32[4], target bfloat16[4]",
        "  c/1: not saved, float32[1] in the target",
        "  key: not saved, key<fry>[] in the target",
    ]


def test_double_precision_is_not_cast_in_silence(tmp_path):
    tree = {"x": np.ones(2) / 3}
    checkpoint.save(tmp_path, 1, tree, metadata={})
    target = {"x": jax.ShapeDtypeStruct((2,), np.float64)}
    with pytest.raises(CheckpointError, match="leaf x is float64: set jax_enable_x64"):
        checkpoint.restore(tmp_path, target)


def test_keeps_the_newest_and_the_best(tmp_path):
    accuracies = [0.1, 0.8, 0.8, float("nan"), 0.3, 0.2]
    for step, accuracy in enumerate(accuracies):
        metadata = {"val_accuracy": accuracy}
        best = ("val_accuracy", "max")
        tree = {"x": jnp.full(2, step)}
        checkpoint.save(tmp_path, step, tree, metadata=metadata, keep=2, best=best)
    assert checkpoint.steps(tmp_path) == [1, 4, 5]
    target = jax.eval_shape(lambda: {"x": jnp.zeros(2, int)})
    for ends, step in [("max", 1), ("min", 5)]:
        found = checkpoint.restore(tmp_path, target, best=("val_accuracy", ends))
        assert found is not None and found.step == step
        assert found.tree["x"].tolist() == [step, step]
    truncate(tmp_path / "1")
    found = checkpoint.restore(tmp_path, target, best=("val_accuracy", "max"))
    assert found is not None and found.step == 4 and "step 1" in found.skipped[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "4", "5"]


def test_the_step_just_saved_stays(tmp_path):
    save_steps(tmp_path, 5, 6, 2, keep=1)
    assert checkpoint.steps(tmp_path) == [2, 6]


def test_saving_a_step_again_replaces_it(tmp_path):
    for value in (1.0, 2.0):
        tree = {"x": jnp.full(3, value)}
        checkpoint.save(tmp_path, 4, tree, metadata={"v": value}, keep=1)
    found = checkpoint.restore(tmp_path, {"x": jnp.zeros(3)})
    assert found is not None and found.metadata == {"v": 2.0}
    assert found.tree["x"].tolist() == [2.0] * 3


def test_saver_takes_the_values_of_the_call_and_donation_goes_on(tmp_path):
    bump = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = bump(jnp.zeros(1000))
    with Saver(tmp_path, keep=3) as saver:
        for step in range(3):
            saver.save(step, {"x": x}, metadata={})
            old, x = x, bump(x)
            assert old.is_deleted()
        saver.wait()
        assert checkpoint.steps(tmp_path) == [0, 1, 2]
    found = checkpoint.restore(tmp_path, {"x": jnp.zeros(1000)})
    assert found is not None and found.tree["x"].tolist() == [3.0] * 1000


def test_relative_folder_is_that_of_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Saver("run") as saver:
        (tmp_path / "elsewhere").mkdir()
        os.chdir("elsewhere")
        saver.save(1, {"x": jnp.ones(1)}, metadata={})
    os.chdir(tmp_path)
    assert checkpoint.restore("run", {"x": jnp.ones(1)}) is not None


def test_full_disk_raises_and_leaves_the_older_step(tmp_path):
    tree = {"x": jax.random.normal(jax.random.key(0), (100_000,))}
    checkpoint.save(tmp_path, 1, tree, metadata={})
    saver = Saver(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(Exception, match="(?i)too large"):
            checkpoint.save(tmp_path, 2, tree, metadata={})
        saver.save(3, tree, metadata={})
        with pytest.raises(Exception, match="(?i)too large"):
            saver.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    saver.save(4, tree, metadata={})
    saver.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "4"]


@pytest.mark.parametrize(
    ("tree", "metadata", "message"),
    [
        ({"a": "text"}, {}, "leaf a is a str"),
        ({"a": np.array(["text"])}, {}, "leaf a is a ndarray"),
        ({"a": jnp.ones(1)}, {"loss": jnp.ones(())}, "metadata must be JSON"),
        ({"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}, {}, "same path"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, tree, metadata, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.save(tmp_path, 1, tree, metadata=metadata)
    assert checkpoint.steps(tmp_path) == []


@pytest.mark.usefixtures("unchecked")
def test_wrong_options_are_errors(tmp_path):
    tree: Any = {"x": jnp.ones(1)}
    with pytest.raises(ValueError, match="keep must be at least 1"):
        checkpoint.save(tmp_path, 1, tree, metadata={}, keep=0)
    best: Any = ("val_accuracy", "maximum")
    with pytest.raises(ValueError, match="best must be"):
        checkpoint.restore(tmp_path, tree, best=best)
    with pytest.raises(CheckpointError, match="step must be"):
        checkpoint.save(tmp_path, -1, tree, metadata={})


def test_orbax_keeps_quiet_and_absl_is_left_as_it_was(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("absl")
    before = (logger.level, list(logger.filters), list(logger.handlers))
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(1)}, metadata={})
    checkpoint.restore(tmp_path, {"x": jnp.ones(1)})
    assert [r for r in caplog.records if "orbax" in r.pathname] == []
    assert before == (logger.level, list(logger.filters), list(logger.handlers))


KILLED = """
import sys, numpy as np
from jaxvision import checkpoint
tree = {str(i): np.full(1_000_000, 2.0, np.float32) for i in range(50)}
checkpoint.save(sys.argv[1], 2, tree, metadata={})
"""


def test_kill_in_mid_save_leaves_the_older_step(tmp_path):
    tree = {"x": jnp.ones(3)}
    checkpoint.save(tmp_path, 1, tree, metadata={})
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / ".saving").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9
    assert checkpoint.steps(tmp_path) == [1]
    found = checkpoint.restore(tmp_path, tree)
    assert found is not None and found.step == 1 and found.skipped == ()
    # The next save clears what the killed one left.
    checkpoint.save(tmp_path, 3, tree, metadata={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "3"]
