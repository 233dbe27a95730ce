"""One of several processes that saves or restores a spread state; see processes.py.

python -m tests.checkpoint_worker FOLDER save|restore|spoil STEP
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from experiments.command.console import complain
from jaxvision import checkpoint, parallel, processes

bump = jax.jit(
    lambda tree: {**tree, "params": jax.tree.map(lambda x: x + 1, tree["params"])},
    donate_argnums=0,
)


def tree():
    """Some arrays that are worth to be spread, and some that are not."""
    draw = np.random.default_rng(0).normal
    params = {
        "conv": draw(size=(3, 3, 16, 64)).astype(np.float32),
        "odd": draw(size=(4099,)),
        "half": jnp.asarray(draw(size=(2048, 8)), jnp.bfloat16),
        "bias": draw(size=(8,)).astype(np.float32),
    }
    return {"params": params, "key": jax.random.key(3), "step": np.int32(5)}


def own(step):
    """What each process has for itself, and what is empty."""
    return {
        "local": jax.device_put(jnp.arange(3.0) + step, jax.local_devices()[0]),
        "numpy": np.arange(4) + step,
        "rate": 0.5,
        "empty": np.zeros((0, 3), np.float32),
    }


def save(folder, layout):
    placed = layout.place(tree())
    spread = {n: not a.is_fully_replicated for n, a in placed["params"].items()}
    several = jax.device_count() > 1
    assert spread == {"conv": several, "odd": False, "half": several, "bias": False}
    with checkpoint.Saver(folder) as saver:
        for step in (1, 2):
            saver.save(step, placed | own(step), metadata={"step": step})
            placed = bump(placed)  # while it is written


def restore(folder, layout, step):
    placed = layout.place(tree())
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed
    )
    found = checkpoint.restore(folder, target | own(0))
    assert found is not None and found.step == step, found
    if step == 1:
        assert "step 2: state/ocdbt.process_1" in found.skipped[0]
    for _ in range(step - 1):
        placed = bump(placed)
    for name, array in placed["params"].items():
        restored = found.tree["params"][name]
        assert restored.sharding == array.sharding and restored.dtype == array.dtype
        for ours, theirs in zip(
            restored.addressable_shards, array.addressable_shards, strict=True
        ):
            assert np.asarray(ours.data).tobytes() == np.asarray(theirs.data).tobytes()
    for name, value in own(step).items():
        assert type(found.tree[name]) is type(value), name
        np.testing.assert_array_equal(found.tree[name], value)
    assert int(found.tree["step"]) == 5
    assert jax.random.bits(found.tree["key"]) == jax.random.bits(placed["key"])


def spoil(folder, layout):
    """The disk changes what the last process wrote, before it is read again."""
    wait, done = ocp.CheckpointManager.wait_until_finished, []

    def spoiled(manager):
        wait(manager)
        last = f"ocdbt.process_{jax.process_count() - 1}"
        files = list(Path(folder).glob(f".saving/3/state/{last}/d/*"))
        if processes.is_first() and files and not done:
            flip(max(files, key=lambda file: file.stat().st_size))
            done.append(files)

    ocp.CheckpointManager.wait_until_finished = spoiled
    try:
        saver = checkpoint.Saver(folder)
        saver.save(3, layout.place(tree()), metadata={})
        saver.wait()
    except checkpoint.CheckpointError as error:
        processes.fail(str(error), say=complain, code=3)


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def main():
    folder, act, step = sys.argv[1:]
    jax.config.update("jax_enable_x64", True)
    processes.start(heartbeat=100, say=complain)
    layout = parallel.Layout(parallel.make_mesh(), is_spread=True)
    if act == "save":
        save(folder, layout)
    elif act == "spoil":
        spoil(folder, layout)
    else:
        restore(folder, layout, int(step))
    processes.finish()


if __name__ == "__main__":
    main()
