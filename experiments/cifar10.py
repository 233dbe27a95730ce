"""Trains fully connected and convolutional nets on CIFAR-10, or images like it.

python -m experiments.cifar10 --model cnn --data tfds:cifar10
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import grid
from experiments.classification import (
    Training,
    check_limits,
    check_resumed,
    compute_type,
    count_parameters,
    dry_run,
    make_training,
    open_data,
    run,
)
from experiments.config import UsageError, run_cli, to_dict
from experiments.run import (
    Reporter,
    interrupted,
    new_folder,
    stop_on_signals,
    write_config,
)
from jaxvision import models
from jaxvision.data import Dataset
from jaxvision.functional import modules
from jaxvision.models import cifar
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing, normalize, to_float

MODULE = "experiments.cifar10"
CIFAR10 = Preprocessing(
    resize=32, crop=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
)
"""The mean and deviation of the 50,000 training images' pixels, by channel."""

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
    "speed": FAST | {"model": ["cnn_fast"], "epochs": 10, "batch_size": 1024},
}
"""Recipes; the README has what each reaches."""


@dataclass(frozen=True)
class Config:
    """Trains small nets on CIFAR-10; several models or repeats are compared."""

    preset: str | None = None
    """A recipe whose values replace the defaults below: original_fcn, original_cnn,
    best_fcn, best_cnn or speed."""
    model: tuple[str, ...] = ("cnn",)
    """Models to train and compare, or all."""
    data: str = "tfds:cifar10"
    """tfds:cifar10; or a .npz file with x_train, y_train, x_test, y_test; or a folder
    of images, which are brought to 32 pixels."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step, over all devices."""
    optim: Optim = field(default_factory=lambda: Optim(lr=0.05, weight_decay=5e-4))
    """The optimiser and its schedule."""
    augment: Literal["none", "flips", "crop_flip", "cutout", "full"] = "crop_flip"
    """crop_flip: moved by up to 4 pixels, flipped; cutout: and a square grayed out."""
    dropout: float | None = None
    """Rate of the dropout layers; by default the model's own."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is evaluated and kept; 0: none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto is bfloat16 on GPU and TPU, float32 on CPU."""
    seed: int = 0
    """Seed of the weights, the order and the augmentation."""
    repeats: int = 1
    """Runs of each model, with the seeds from --seed on, by one compiled program."""
    output: Path = Path("runs")
    """Where the run folder is made: OUTPUT/cifar10/N."""
    resume: Path | None = None
    """A run folder to go on with, by its own options, to the same bits."""
    config: Path | None = None
    """A YAML file of options; the command line wins over it."""
    dry_run: bool = False
    """Open the data, build each model, take one step, write nothing."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        check_limits(
            self,
            {
                "model": len(self.model) > 0,
                "epochs": self.epochs >= 1,
                "batch_size": self.batch_size >= 1,
                "dropout": self.dropout is None or 0 <= self.dropout < 1,
                "label_smoothing": 0 <= self.label_smoothing < 1,
                "ema": 0 <= self.ema < 1,
                "seed": 0 <= self.seed < 2**32,
                "repeats": self.repeats >= 1,
            },
        )


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the last epoch's validation numbers.

    Of several runs it returns the numbers of the first.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: the loss is no longer finite.
      SystemExit: a signal stopped the run, which is saved.
    """
    report = Reporter()
    config = replace(
        config, model=_models(config.model), dtype=compute_type(config.dtype)
    )
    if config.resume is not None:
        check_resumed(config, config.resume)
    dataset = open_data(config.data, CIFAR10, train_size=CIFAR10.crop, report=report)
    report.say(
        f"{dataset.name}: {len(dataset.train)} training and {len(dataset.val)} "
        f"validation images of {len(dataset.classes)} classes"
    )
    # One step tells as much of a model by one seed as by all.
    asked = replace(config, repeats=1) if config.dry_run else config
    cells = grid.expand(asked, axes=("model",))
    # One program serves all seeds of a model; then it makes room for the next.
    trainings = lru_cache(maxsize=1)(partial(make, dataset=dataset, report=report))
    if config.dry_run:
        for cell in cells:
            model = build(cell.config, dataset)
            numbers = dry_run(trainings(_shared(cell.config)), model, report)
        return numbers

    def run_cell(config, folder):
        model = build(config, dataset)
        training = trainings(_shared(config))
        key = jax.device_put(jax.random.key(config.seed), training.plan.key.sharding)
        training = training._replace(plan=replace(training.plan, key=key))
        (name,) = config.model
        return run(
            training,
            model,
            folder,
            dataset=dataset,
            title=f"{name} on {dataset.name}",
            summary={
                "Training images": str(len(dataset.train)),
                "Epochs": str(config.epochs),
                "Parameters": f"{count_parameters(model):,}",
                "Seed": str(config.seed),
            },
            notes=[],
            report=report,
            stop=stop,
        )

    folder = config.resume
    if folder is None:
        folder = new_folder(config.output, "cifar10")
        write_config(folder, to_dict(replace(config, config=None)))
        report.say(f"run folder: {folder}")
    with stop_on_signals() as stop:
        numbers = grid.run(cells, folder, run_cell, report=report)
    if numbers is None:
        interrupted(folder, MODULE, stop)
    return numbers


def build(config: Config, dataset: Dataset) -> nnx.Module:
    """The model of a configuration that names one, with the weights it starts from."""
    (name,) = config.model
    rngs = nnx.Rngs(config.seed)
    model = models.create(name, num_classes=len(dataset.classes), rngs=rngs)
    for _, module in modules(model):
        if isinstance(module, nnx.Dropout) and config.dropout is not None:
            module.rate = config.dropout
    if isinstance(model, cifar.FastCNN):
        images = to_float(jnp.asarray(dataset.train.images[:5000]))
        images = normalize(images, mean=CIFAR10.mean, std=CIFAR10.std)
        model.whiten.kernel[...] = jnp.asarray(cifar.whitening(np.asarray(images)))
    return model


def make(config: Config, dataset: Dataset, report: Reporter) -> Training:
    """What trains that model; it serves all seeds."""
    (name,) = config.model
    model = build(config, dataset)
    return make_training(
        dataset,
        model,
        name,
        report=report,
        preprocessing=CIFAR10,
        augmentation=config.augment,
        optimizer=config.optim,
        epochs=config.epochs,
        batch_size=config.batch_size,
        dtype=config.dtype,
        seed=config.seed,
        frozen=("whiten.kernel",) if isinstance(model, cifar.FastCNN) else (),
        label_smoothing=config.label_smoothing,
        ema=config.ema,
        keep="epoch",
    )


def _shared(config: Config) -> Config:
    """What all seeds have in common."""
    return replace(config, seed=0)


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
