"""Our side of `benchmarks.cifar10`: the epoch of `experiments.cifar10`."""

import jax
import numpy as np

from benchmarks.worker import Case
from experiments import cifar10
from experiments.command.console import Console
from experiments.command.options import parse
from experiments.training.classifier import make_classifier
from experiments.training.recipe import ClassifierRecipe
from jaxvision import ops
from jaxvision.data import Dataset, Split


def epoch(*, preset: str, images: int) -> Case:
    """An epoch over `images` made images by the recipe of a preset."""
    config = parse(
        cifar10.Config, ["--preset", preset], prog="", presets=cifar10.PRESETS
    )
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (images, 32, 32, 3), np.uint8),
        np.arange(images, dtype=np.int32) % 10,
        tuple(map(str, range(images))),
    )
    classes = tuple(map(str, range(10)))
    dataset = Dataset(name="noise", classes=classes, train=split, val=split)
    (name,) = config.model
    start = cifar10.build(name, dataset, dropout=config.dropout, seed=0)
    recipe = ClassifierRecipe.of(config)
    training = make_classifier(dataset, start, recipe, console=Console()).training
    plan, state = training.plan, training.start(start.model)
    sums = plan.no_sums()

    def run(calls):
        nonlocal state, sums
        for call in range(calls):
            state, sums = plan.run(state, sums, epoch=call, start=0, stop=plan.steps)
        jax.block_until_ready(sums)

    run(1)
    return Case(run, {"backend": ops.backend(), "batch": config.batch_size})
