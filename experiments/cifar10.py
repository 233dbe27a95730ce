"""Trains fully connected and convolutional nets on CIFAR-10, or images like it.

python -m experiments.cifar10 --model cnn
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tyro.conf import arg

from experiments.command import limits
from experiments.command.console import Console
from experiments.command.limits import at_least, limited
from experiments.command.machines import Machines
from experiments.command.memory import Memory, choose_input
from experiments.command.options import UsageError, check_resumed, run_cli, to_dict
from experiments.command.signals import Stop, interrupted, stop_on_signals
from experiments.pages.page import About
from experiments.runs import grid
from experiments.runs.folder import Run, new_run, open_run
from experiments.training.answers import check_alone
from experiments.training.classifier import ClassifierTraining, make_classifier, run
from experiments.training.data import open_data, open_source
from experiments.training.recipe import ClassifierRecipe, Pipeline
from experiments.training.together import Member, fit_together, seeds_at_once
from experiments.training.training import (
    Start,
    compute_type,
    count_parameters,
    dry_run,
)
from jaxvision import models
from jaxvision.data import Dataset, describe_kinds
from jaxvision.functional import modules
from jaxvision.models import cifar
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing, normalize, to_float

MODULE = "experiments.cifar10"
CIFAR10 = Preprocessing(
    resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
"""The mean and deviation of the 50,000 training images' pixels, by channel."""

DATA = f"{describe_kinds(labelled=True)}; images are brought to 32 pixels."
CLASSIC = {
    "optim": {"lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine"},
    "augment": "crop_flip",
}
FAST = {
    "batch_size": 512,
    "optim": {
        "lr": 0.4,
        "weight_decay": 5e-4,
        "nesterov": True,
        "schedule": "linear",
        "warmup_epochs": 3,
    },
    "augment": "crop_flip",
    "label_smoothing": 0.2,
    "ema": 0.99,
}
PRESETS: dict[str, dict[str, Any]] = {
    "original_fcn": CLASSIC | {"model": ["fcn"], "epochs": 20, "augment": "flips"},
    "original_cnn": CLASSIC | {"model": ["cnn"], "epochs": 10},
    "best_fcn": CLASSIC
    | {
        "model": ["fcn"],
        "epochs": 80,
        "dropout": 0.0,
        "label_smoothing": 0.1,
        "ema": 0.999,
    },
    "best_cnn": FAST | {"model": ["cnn_lean"], "epochs": 14},
    "speed": {
        "model": ["cnn_fast"],
        "epochs": 8,
        "batch_size": 2000,
        "optim": {
            "name": "muon",
            "lr": 0.24,
            "momentum": 0.6,
            "nesterov": True,
            "head_lr": 1.66,
            "bias_lr": 106.0,
            "brief_epochs": 3,
            "weight_decay": 0.004,
            "schedule": "linear",
        },
        "augment": "alternate",
        "label_smoothing": 0.2,
        "tta": "six",
    },
}
"""Recipes; the README has what each reaches."""


@dataclass(frozen=True)
class Subject:
    """What is trained, and on what; these options come first."""

    preset: str | None = None
    """A recipe whose values replace the defaults below: original_fcn, original_cnn,
    best_fcn, best_cnn or speed."""
    model: tuple[str, ...] = limited(("cnn",), limits.given)
    """Models to train and compare, or all."""
    data: Annotated[str, arg(help=DATA)] = "cifar10"
    dropout: float | None = limited(None, limits.share)
    """Rate of the dropout layers; by default the model's own."""


@dataclass(frozen=True)
class Config(Machines, Memory, ClassifierRecipe, Subject):
    """Trains small nets on CIFAR-10; several models or repeats are compared."""

    epochs: int = limited(20, at_least(1))
    """Passes over the training images."""
    batch_size: int = limited(128, at_least(1))
    """Images a step, over all devices."""
    optim: Optim = field(default_factory=lambda: Optim(lr=0.05, weight_decay=5e-4))
    """The optimiser and its schedule."""
    augment: Pipeline = "crop_flip"
    repeats: int = limited(1, at_least(1, most=grid.MOST_REPEATS))
    """Runs of each model, with the seeds from --seed on, by one compiled program; on a
    single GPU or TPU all at once."""
    output: Path = Path("runs")
    """Where the run folder is made: OUTPUT/cifar10/N."""
    resume: Path | None = None
    """A run folder to go on with, by its own options, to the same bits."""
    config: Path | None = None
    """A YAML file of options; the command line wins over it."""
    dry_run: bool = False
    """Open the data, build each model, take one step, write nothing."""


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the last epoch's validation numbers.

    Of several runs it returns the numbers of the first.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: the loss is no longer finite.
      SystemExit: a signal stopped the run, which is saved.
    """
    console = Console()
    dtype = compute_type(config.dtype, console=console)
    config = replace(config, model=_models(config.model), dtype=dtype)
    if config.resume is not None:
        check_resumed(config, config.resume, free=["data"])
    config, dataset = _open(config, console)
    console.say(
        f"{dataset.name}: {len(dataset.train)} training and {len(dataset.val)} "
        f"validation images of {len(dataset.classes)} classes"
    )
    # One step tells as much of a model by one seed as by all.
    cells = grid.expand(
        replace(config, repeats=1) if config.dry_run else config, axes=("model",)
    )
    check_alone(dataset, len(cells))

    # One program serves all seeds of a model; then it makes room for the next.
    @lru_cache(maxsize=1)
    def training_of(name: str) -> ClassifierTraining:
        start = build(name, dataset, dropout=config.dropout, seed=0)
        recipe = replace(ClassifierRecipe.of(config), seed=0)
        return make_classifier(dataset, start, recipe, console=console, keep="epoch")

    if config.dry_run:
        for cell in cells:
            start = _start(cell, dataset)
            training = training_of(start.name).training
            numbers = dry_run(training, start.model, console)
        return numbers

    def run_cell(cell: grid.Cell, into: Run) -> grid.Numbers | None:
        start = _start(cell, dataset)
        classifier = training_of(start.name).seeded(cell.config.seed)
        summary = {
            "Training images": str(len(dataset.train)),
            "Epochs": str(config.epochs),
            "Parameters": f"{count_parameters(start.model):,}",
            "Seed": str(cell.config.seed),
        }
        title = f"{start.name} on {dataset.name}"
        return run(
            classifier,
            start,
            into,
            dataset=dataset,
            about=About(title, summary, into.config),
            console=console,
            stop=stop,
        )

    def together(cells: Sequence[grid.Cell], runs: Sequence[Run]) -> None:
        classifier = training_of(cells[0].chosen["model"])
        _train_together(cells, runs, classifier, dataset, console=console, stop=stop)

    if config.resume is None:
        into = new_run(config.output, "cifar10", to_dict(replace(config, config=None)))
        console.say(f"run folder: {into.path}")
    else:
        into = open_run(config.resume)
    with stop_on_signals() as stop:
        options = {"console": console, "data": config.data}
        options |= {} if config.patience or config.log else {"together": together}
        numbers = grid.run(cells, into, run_cell, **options)
    if numbers is None:
        interrupted(into.path, MODULE, stop)
    return numbers


def _open(config: Config, console: Console) -> tuple[Config, Dataset]:
    """The data, and the options that say whether they are streamed."""
    source = open_source(config.data, console=console)
    needed = 3 * CIFAR10.crop**2 * (len(source.train) + len(source.val))
    config = replace(config, input=choose_input(config, needed, console=console))
    dataset = open_data(
        source,
        CIFAR10,
        train_size=CIFAR10.crop,
        console=console,
        is_streamed=config.input == "stream",
    )
    return config, dataset


def _train_together(
    cells: Sequence[grid.Cell],
    runs: Sequence[Run],
    classifier: ClassifierTraining,
    dataset: Dataset,
    *,
    console: Console,
    stop: Stop,
) -> None:
    """All seeds of a model by one program, where the device has room for it."""
    most = seeds_at_once()
    if most == 1:
        return
    members = []
    for cell, one in zip(cells, runs, strict=True):
        training = classifier.seeded(cell.config.seed).training
        state = training.start(_start(cell, dataset).model)
        members.append(Member(training.plan, state, one.path))
    run_seeds = classifier.training.run_seeds
    fit_together(run_seeds, members, most=most, console=console, stop=stop)


def build(name: str, dataset: Dataset, *, dropout: float | None, seed: int) -> Start:
    """A model for `dataset`, with the weights it starts from."""
    rngs = nnx.Rngs(seed)
    model = models.create(name, num_classes=len(dataset.classes), rngs=rngs)
    for _, module in modules(model):
        if isinstance(module, nnx.Dropout) and dropout is not None:
            module.rate = dropout
    if not isinstance(model, cifar.FastCNN):
        return Start(name, model, CIFAR10)
    model.whiten.kernel[...] = whitened(dataset)
    return Start(
        name, model, CIFAR10, frozen=("whiten.kernel",), brief=("whiten.bias",)
    )


def whitened(dataset: Dataset) -> jax.Array:
    """The kernel of `FastCNN.whiten` for the training images."""
    images = to_float(jnp.asarray(dataset.train.images[:5000]))
    images = normalize(images, mean=CIFAR10.mean, std=CIFAR10.std)
    return jnp.asarray(cifar.whitening(np.asarray(images)))


def _start(cell: grid.Cell, dataset: Dataset) -> Start:
    config: Config = cell.config
    name = cell.chosen["model"]
    return build(name, dataset, dropout=config.dropout, seed=config.seed)


def _models(names: tuple[str, ...]) -> tuple[str, ...]:
    """The rows that `--model` names.

    Raises:
      UsageError: there is no such row.
    """
    known = models.small_names()
    if names == ("all",):
        return known
    for name in names:
        if name not in known:
            raise UsageError(f"--model: unknown model {name!r}; use {', '.join(known)}")
    return names


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}", presets=PRESETS)
