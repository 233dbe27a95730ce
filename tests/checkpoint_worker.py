"""One of several processes that saves or restores a spread state; see processes.py.

python -m tests.checkpoint_worker FOLDER save|restore STEP
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

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


def save(folder, layout):
    placed = layout.place(tree())
    spread = {n: not a.is_fully_replicated for n, a in placed["params"].items()}
    several = jax.device_count() > 1
    assert spread == {"conv": several, "odd": False, "half": several, "bias": False}
    with checkpoint.Saver(folder) as saver:
        for step in (1, 2):
            saver.save(step, placed, metadata={"step": step})
            placed = bump(placed)  # while it is written


def restore(folder, layout, step):
    placed = layout.place(tree())
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), placed
    )
    found = checkpoint.restore(folder, target)
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
    assert int(found.tree["step"]) == 5
    assert jax.random.bits(found.tree["key"]) == jax.random.bits(placed["key"])


def main():
    folder, act, step = sys.argv[1:]
    jax.config.update("jax_enable_x64", True)
    processes.start(heartbeat=100, say=complain)
    layout = parallel.Layout(parallel.make_mesh(), is_spread=True)
    if act == "save":
        save(folder, layout)
    else:
        restore(folder, layout, int(step))
    processes.finish()


if __name__ == "__main__":
    main()
