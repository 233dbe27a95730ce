"""How far runs part that differ in devices or convolutions alone, step by step.

python -m benchmarks.same

The same ResNet-18 takes the same SGD steps (batches of 16 images of 32 pixels, learning
rate 0.01, momentum 0.9) in a process each; the difference of the loss, and of
the parameters as a share of their norm, is printed after 1, 10 and 100 steps.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

MARKS = (1, 10, 100)
"""Steps after which the runs are compared."""
DEVICES = "--xla_force_host_platform_device_count={}"
RUNS = {
    "one device": {},
    "eight devices": {"XLA_FLAGS": DEVICES.format(8)},
    "JAX's rules": {"JAXVISION_CONV": "jax"},
    "XLA's convolutions": {"JAXVISION_CONV": "xla"},
    "again": {},
}
"""What each process is told; the first is what the others are compared with."""


def work(path: Path) -> None:
    """Takes the steps and writes the losses and the parameters at the marks."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from jaxvision import models, parallel, train
    from jaxvision.functional import functionalize

    dtype = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
    mesh = parallel.make_mesh()
    apply, params, stats = functionalize(
        models.create("resnet18", num_classes=10, rngs=nnx.Rngs(0))
    )
    params, stats = jax.tree.map(lambda a: a.astype(dtype), (params, stats))
    rng = np.random.default_rng(0)
    data = {
        "image": jnp.asarray(rng.standard_normal((160, 32, 32, 3)), dtype),
        "label": jnp.asarray(rng.integers(0, 10, 160)),
    }

    def loss_fn(out, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(out, batch["label"])
        return losses.mean(), {"loss": losses.mean()}

    tx = optax.sgd(0.01, momentum=0.9)
    step = train.make_train_step(apply, loss_fn, tx)
    run = train.make_epoch(step, [], batch_size=16, mesh=mesh)
    state = train.init_state(params, stats, tx)
    place = parallel.replicated(mesh)
    state, data, key = jax.device_put((state, data, jax.random.key(0)), place)
    order, found = jax.device_put(jnp.arange(160), place), {}
    for number in range(max(MARKS)):
        sums = jax.device_put({"loss": jnp.zeros((), dtype)}, place)
        begin = number % 10
        state, sums = run(state, sums, data, order, begin, begin + 1, key)
        if number + 1 in MARKS:
            leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(state.params)]
            found[f"loss{number + 1}"] = np.asarray(sums["loss"])
            found[f"params{number + 1}"] = np.concatenate(leaves)
    np.savez(path, **found)


def compare(dtype: str) -> None:
    """Runs all processes and prints their differences from the first one's."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, variables in RUNS.items():
            path = Path(folder, "found.npz")
            env = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
            env["JAX_ENABLE_X64"] = str(int(dtype == "float64"))
            command = [sys.executable, "-m", "benchmarks.same", str(path)]
            subprocess.run(command, env=env, check=True)
            with np.load(path) as file:
                results[name] = dict(file)
    first, *others = results
    for name in others:
        for mark in MARKS:
            a, b = results[first], results[name]
            loss = abs(float(a[f"loss{mark}"]) - float(b[f"loss{mark}"]))
            params, other = a[f"params{mark}"], b[f"params{mark}"]
            share = np.linalg.norm(params - other) / np.linalg.norm(params)
            print(
                f"| {dtype} | {name} | {mark} | {loss:.0e} | {share:.0e} |", flush=True
            )


if __name__ == "__main__":
    if sys.argv[1:]:
        work(Path(sys.argv[1]))
    else:
        print("| type | run | steps | loss | parameters |")
        print("| --- | --- | ---: | ---: | ---: |")
        for name in ("float32", "float64"):
            compare(name)
