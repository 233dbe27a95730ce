"""An epoch of `experiments.cifar10` beside PyTorch's: same net, batch and recipe.

    python -m benchmarks.cifar10
    python -m benchmarks.cifar10 --only fcn --pairs 9

Data, crops, flips, normalisation, step and update; the images are made, since their
content does not matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from benchmarks.pair import Task
from benchmarks.program import Job, Options, Table, look_at_machine, measure, run
from experiments import cifar10
from experiments.command.options import parse

RECIPES = {
    # net: preset, batches an epoch here, and the largest ratio
    "fcn": ("original_fcn", 100, 1.1),
    "cnn": ("original_cnn", 8, 1.1),
}


@dataclass(frozen=True)
class Config:
    """Times an epoch beside PyTorch's."""

    backend: Literal["auto", "onednn", "jax", "xla"] = "auto"
    """Our convolutions; jax is what serves where oneDNN is absent."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows."""
    names = config.options.chosen(RECIPES)
    machine = look_at_machine(config.options)
    table = Table("cifar10", config.options, machine)
    measure(table, jobs(config, names), config.options, backend=config.backend)
    table.close()


def jobs(config: Config, names: list[str]) -> Iterator[list[Job]]:
    """A pair of processes for each net."""
    for name in names:
        preset, batches, must = RECIPES[name]
        recipe = parse(
            cifar10.Config, ["--preset", preset], prog="", presets=cifar10.PRESETS
        )
        images = recipe.batch_size * (1 if config.options.quick else batches)
        fields = {
            "net": name,
            "peer": "PyTorch",
            "case": f"epoch of {images} images",
            "batch": recipe.batch_size,
            "size": 32,
            "dtype": "float32",
            "must": must,
        }
        arguments = {"preset": preset, "images": images}
        ours = Task("benchmarks.cifar10_ours:epoch", arguments)
        arguments = {
            "net": name,
            "images": images,
            "batch": recipe.batch_size,
            "lr": recipe.optim.lr,
            "weight_decay": recipe.optim.weight_decay,
            "augment": recipe.augment,
        }
        theirs = Task("benchmarks.cifar10_peer:epoch", arguments)
        yield [Job(fields, ours, theirs, images)]


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.cifar10")
