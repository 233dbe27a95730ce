"""The convolutions of a step inside the compiled epoch are those of the step alone."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxvision import losses, optim, parallel, train
from jaxvision.functional import functionalize
from jaxvision.models.layers import Sequential, conv
from jaxvision.ops import onednn

BATCH = 4
PLAIN = "b01f_01io->b01f"
"""Images NHWC by kernel HWIO, in the form that XLA prints and knows a fast way for."""


class Net(nnx.Module):
    """A convolution without an input gradient, and a strided one with both."""

    def __init__(self, *, rngs):
        self.body = Sequential(
            [
                conv(16, 32, 3, padding=1, rngs=rngs),
                nnx.relu,
                conv(32, 24, 3, stride=2, padding=1, rngs=rngs),
            ]
        )
        self.head = nnx.Linear(24, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.body(x).mean((1, 2)))


def programs() -> tuple[str, str]:
    """The optimised programs of the step alone and of the epoch; nothing is run."""
    model = nnx.eval_shape(lambda: Net(rngs=nnx.Rngs(0)))
    apply, params, stats = functionalize(model)
    tx = optim.make_optimizer(optim.Optim(), 0.1)
    step = train.make_train_step(apply, losses.classification(), tx)
    epoch = train.make_epoch(
        step,
        [],
        batch_size=BATCH,
        mesh=parallel.make_mesh(devices=jax.devices()[:1]),
    )
    state = jax.eval_shape(lambda: train.init_state(params, stats, tx))
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch, data = (
        {
            "image": jax.ShapeDtypeStruct((count, 12, 12, 16), jnp.float32),
            "label": jax.ShapeDtypeStruct((count,), jnp.int32),
        }
        for count in (BATCH, 2 * BATCH)
    )
    order, sums = data["label"], jax.eval_shape(step, state, batch, key)[1]
    alone = step.lower(state, batch, key)
    loop = epoch.lower(state, sums, data, order, 0, 2, key)
    return alone.compile().as_text(), loop.compile().as_text()


def convolutions(program: str) -> Counter:
    """What computes convolutions and dot products, and how often it stands there."""
    return Counter(
        re.findall(r'custom_call_target="(jaxvision_\w+)"', program)
        + re.findall(r"dim_labels=([^,\s]+)", program)
        # Dot products and convolutions that XLA gives to its fast kernels.
        + re.findall(r'"kind":"(__\w+)"', program)
        + re.findall(r"\s(dot)\(", program)
    )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="how a CPU computes them")
@pytest.mark.parametrize("backend", ["onednn", "jax"])
def test_step_in_a_loop_has_the_convolutions_of_the_step_alone(backend, monkeypatch):
    """XLA's own gradients lose their fast kernels there, and run 25 times slower."""
    if backend == "onednn" and not onednn.available():
        pytest.skip(onednn.problem())
    monkeypatch.setenv("JAXVISION_CONV", backend)
    alone, loop = programs()
    found = convolutions(alone)
    assert convolutions(loop) == found
    # The program around the loop computes none: they are inside, once each.
    around = loop[loop.index("\nENTRY ") :]
    assert " while(" in around and not convolutions(around)
    if backend == "onednn":
        kinds = {name: n for name, n in found.items() if name.startswith("jaxvision")}
        assert kinds == {
            "jaxvision_forward": 2,
            "jaxvision_input_gradient": 1,
            "jaxvision_kernel_gradient": 2,
        }
    labels = {name: count for name, count in found.items() if "->" in name}
    assert labels == ({} if backend == "onednn" else {PLAIN: 5})
