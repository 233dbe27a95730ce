"""One of several processes that trains in float64, a step at a time; see processes.py.

python -m tests.process_worker DATA OUT cifar10|transfer|stream|shard|shard_resnet...
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from experiments import cifar10
from experiments.command.console import Console, complain
from experiments.training.backbones import build, choose_weights
from experiments.training.classifier import make_classifier
from experiments.training.data import open_data
from experiments.training.plan import Plan
from experiments.training.recipe import ClassifierRecipe
from jaxvision import parallel, processes
from jaxvision.optim import Optim

STEPS = 20
SIZE = 32


def _sums(plan):
    zeros = {name: np.zeros(()) for name in plan.metrics}
    return parallel.place(zeros, plan.key.sharding)


def losses_of(program, data, console):
    """The loss of each step, and the validation numbers after the last."""
    # Squares larger than the arrays of the data, which so have to be decoded.
    dataset = open_data(
        data,
        cifar10.CIFAR10,
        train_size=SIZE + 4,
        console=console,
        is_streamed=program == "stream",
    )
    if program not in ("transfer", "shard_resnet"):
        start = cifar10.build("cnn", dataset, dropout=None, seed=0)
    else:
        start = build(
            "resnet18",
            choose_weights("resnet18", "random", console=console),
            num_classes=len(dataset.classes),
            size=SIZE,
            seed=0,
        )
    double = jax.tree.map(lambda x: x.astype(np.float64), _arrays(start.model))
    nnx.update(start.model, double)
    recipe = ClassifierRecipe(
        batch_size=16,
        optim=Optim(lr=1e-4),  # larger, and rounding grows a hundredfold a step
        augment="crop_flip",
        ema=0.9,
        dtype="float64",
        shard="params" if program.startswith("shard") else "none",
    )
    training = make_classifier(dataset, start, recipe, console=console).training
    plan, state = training.plan, training.start(start.model)
    losses = []
    for step in range(STEPS):
        epoch, index = divmod(step, plan.steps)
        state, sums = plan.run(
            state, plan.no_sums(), epoch=epoch, start=index, stop=index + 1
        )
        losses.append(float(sums["loss"]))
    _check_spread(state, recipe)
    return losses + [plan.evaluate(state)[name] for name in ("val_loss",)]


def _check_spread(state, recipe):
    """Where they should be, most numbers of the state are in parts, after steps too."""
    count = jax.device_count()
    leaves = jax.tree.leaves(state)
    here = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
    share = here / sum(leaf.size for leaf in leaves)
    if recipe.shard == "params":
        assert 1 / count <= share < 1.1 / count + 0.05, share
    else:
        assert share == 1


def _arrays(model):
    return nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))


def main():
    data, out, *programs = sys.argv[1:]
    jax.config.update("jax_enable_x64", True)
    Plan.no_sums = _sums
    processes.start(heartbeat=100, say=complain)
    found = {name: losses_of(name, data, Console()) for name in programs}
    if processes.is_first():
        Path(out).write_text(json.dumps(found))
    processes.finish()


if __name__ == "__main__":
    main()
