"""How long the steps of a training wait for photos that are streamed to them.

    python -m benchmarks.waiting --backbone wide_resnet50_2

The photos are JPEGs of 500 px; they are decoded by the cores that compute the steps,
where the device is a CPU.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from benchmarks.memory import write_links
from experiments.command.console import Console
from experiments.training.backbones import build, choose_weights, scaled
from experiments.training.classifier import make_classifier
from experiments.training.data import open_data
from experiments.training.recipe import ClassifierRecipe


@dataclass(frozen=True)
class Config:
    """Takes some steps on streamed photos, and prints what share was waiting."""

    backbone: str = "wide_resnet50_2"
    """The network; its weights are random."""
    batch_size: int = 8
    """Photos a step."""
    steps: int = 6
    """Steps that are timed, after one that is not."""
    image_size: int = 224
    """Side of the crops in pixels."""


def main(config: Config) -> float:
    """Measures, and returns the share."""
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        count = config.batch_size * (config.steps + 1)
        write_links(Path(name), photos=2 * count, made=200)
        weights = choose_weights(config.backbone, "random", console=console)
        dataset = open_data(
            str(Path(name) / "photos"),
            scaled(weights.preprocessing, config.image_size),
            train_size=round(config.image_size * 256 / 224),
            console=console,
            is_streamed=True,
        )
        start = build(
            config.backbone,
            weights,
            num_classes=len(dataset.classes),
            size=config.image_size,
            seed=0,
        )
        recipe = ClassifierRecipe(batch_size=config.batch_size, dtype="float32")
        training = make_classifier(dataset, start, recipe, console=console).training
        plan = training.plan
        state, sums = training.start(start.model), plan.no_sums()
        state, sums = plan.run(state, sums, epoch=0, start=0, stop=1)
        jax.block_until_ready(sums)
        begun, waited = time.perf_counter(), plan.waited
        state, sums = plan.run(state, sums, epoch=0, start=1, stop=config.steps + 1)
        jax.block_until_ready(sums)
        seconds = time.perf_counter() - begun
        plan.close()
    share = (plan.waited - waited) / seconds
    print(
        f"{config.backbone}: {config.steps} steps of {config.batch_size} photos in "
        f"{seconds:.1f} s; {share:.2%} of it waited for photos"
    )
    return share


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.waiting"))
