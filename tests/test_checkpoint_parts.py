"""Checkpoints of arrays in parts, as several processes write them, in one process."""

import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxvision import array_folder, checkpoint
from jaxvision.checkpoint import CheckpointError, Saver

pytestmark = pytest.mark.floor

TREE = {
    "kernel": jax.random.normal(jax.random.key(0), (64, 128)),
    "half": jnp.arange(6, dtype=jnp.bfloat16),
    "step": jnp.array(7),
    "mean": np.arange(3.0),
}


@pytest.fixture
def in_parts(monkeypatch):
    """JAX's arrays count as such of which no process has all."""
    monkeypatch.setattr(checkpoint, "is_spread", lambda a: isinstance(a, jax.Array))


def restored(folder, target):
    found = checkpoint.restore(folder, target)
    assert found is not None and found.skipped == ()
    return found.tree


@pytest.mark.usefixtures("in_parts")
def test_parts_are_restored(tmp_path):
    checkpoint.save(tmp_path, 1, TREE, metadata={})
    for ours, theirs in zip(
        jax.tree.leaves(restored(tmp_path, TREE)), jax.tree.leaves(TREE), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("name", TREE)
def test_part_that_is_read_otherwise_is_no_step(name, tmp_path, monkeypatch):
    read = array_folder.read_arrays

    def changed(path, names):
        arrays = read(path, names)
        data = bytearray(arrays[name].tobytes())
        data[-1] ^= 1
        array = np.frombuffer(data, arrays[name].dtype).reshape(arrays[name].shape)
        return arrays | {name: array}

    monkeypatch.setattr(array_folder, "read_arrays", changed)
    with pytest.raises(CheckpointError, match=f"{name} is not what was written"):
        checkpoint.save(tmp_path, 1, TREE, metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_parts")
def test_error_beside_a_save_leaves_it_whole(tmp_path):
    go = threading.Event()
    with pytest.raises(RuntimeError, match="of the training"):
        with Saver(tmp_path) as saver:
            saver._executor.submit(go.wait)  # it has not begun by the time of the error
            saver.save(1, TREE, metadata={})
            threading.Timer(0.3, go.set).start()
            raise RuntimeError("of the training")
    assert restored(tmp_path, TREE)["step"] == 7


def test_what_cannot_begin_leaves_nothing_open(tmp_path, monkeypatch):
    opened = []

    class Manager(ocp.CheckpointManager):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(self)

        def save(self, *args, **kwargs):
            raise OSError("No space left on device")

        def close(self):
            super().close()
            opened.remove(self)

    monkeypatch.setattr(ocp, "CheckpointManager", Manager)
    filters = list(logging.getLogger("absl").filters)
    # Its frames live as long as the error does.
    with pytest.raises(OSError, match="No space left on device") as error:
        array_folder.begin_arrays(tmp_path / "1", {"x": jnp.ones(3)})
    assert opened == [] and logging.getLogger("absl").filters == filters
    assert error.tb is not None


EMPTY = {
    "numpy": np.zeros((0, 3), np.float64),
    "half": jnp.zeros((2, 0), jnp.bfloat16),
    "keys": jax.random.split(jax.random.key(0), 3)[:0],
}


@pytest.mark.parametrize("others", [{}, {"x": jnp.arange(3.0)}])
def test_leaves_without_data_are_saved_like_others(others, tmp_path):
    tree = EMPTY | others
    checkpoint.save(tmp_path, 1, tree, metadata={})
    found = restored(tmp_path, tree)
    for name, leaf in tree.items():
        assert (found[name].dtype, found[name].shape) == (leaf.dtype, leaf.shape)
    assert isinstance(found["numpy"], np.ndarray)
    with pytest.raises(CheckpointError, match=r"numpy: saved float64\[0,3\], target"):
        checkpoint.restore(tmp_path, tree | {"numpy": np.zeros((0, 4))})


def test_tree_without_leaves_is_saved(tmp_path):
    checkpoint.save(tmp_path, 1, {"nothing": None}, metadata={"epoch": 1})
    found = checkpoint.restore(tmp_path, {"nothing": None})
    assert found is not None and (found.tree, found.metadata) == (
        {"nothing": None},
        {"epoch": 1},
    )
