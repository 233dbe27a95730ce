"""From one run's options, a model and photos to what trains it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import optax
from flax import nnx

from converters.rules import RULES
from experiments.classification import Training, make_training
from experiments.config import UsageError
from experiments.run import Reporter
from jaxvision import models
from jaxvision.data import Dataset
from jaxvision.functional import has_prefix, modules
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing

if TYPE_CHECKING:
    from experiments.transfer import Config

HEAD = Optim(name="adamw", lr=3e-3, weight_decay=1e-2)
"""For the last layer alone, whose inputs are computed once."""
HEAD_PHASE: dict[str, Any] = {
    "optim": HEAD,
    "augment": ("none",),
    "mix": "none",
    "freeze": ("backbone",),
    "tta": "none",
    "ema": 0.0,
}
"""What differs in the epochs of the last layer alone."""


class Prepared(NamedTuple):
    """What a run starts from."""

    model: nnx.Module
    dataset: Dataset
    preprocessing: Preprocessing
    source: str
    """Where the weights are from, in words."""


def make(
    cell: "Config",
    model: nnx.Module,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    report: Reporter,
    schedule: optax.Schedule | None = None,
) -> Training:
    """What trains `model` by a configuration that names one of each axis.

    Args:
      schedule: the learning rate by step, in place of the configuration's.

    Raises:
      UsageError: the batch does not fit the devices, the data or the model.
    """
    (name,), (augment,) = cell.backbone, cell.augment
    (class_weights,) = cell.class_weights
    return make_training(
        dataset,
        model,
        name,
        report=report,
        preprocessing=replace(preprocessing, mirror=cell.tta == "mirror"),
        augmentation=augment,
        optimizer=cell.optim,
        epochs=cell.epochs or 1,
        batch_size=cell.batch_size,
        dtype=cell.dtype,
        seed=cell.seed,
        frozen=frozen_prefixes(cell),
        class_weights=class_weights,
        label_smoothing=cell.label_smoothing,
        ema=cell.ema,
        mix=cell.mix,
        mix_alpha=cell.mix_alpha,
        accumulate=cell.accumulate,
        patience=cell.patience,
        schedule=schedule,
    )


def frozen_prefixes(cell: "Config") -> tuple[str, ...]:
    """The path prefixes that `--freeze` names.

    Raises:
      UsageError: a prefix fits no layer.
    """
    (name,), (freeze,) = cell.backbone, cell.freeze
    if freeze == "none":
        return ()
    row = models.variant(name)
    # Dropout is frozen too: the last layer then sees the same of a photo each time.
    layers = {
        ".".join(map(str, path))
        for path, module in modules(models.abstract(name))
        if type(module) in (*RULES, nnx.Dropout)
    }
    if freeze == "backbone":
        return tuple(sorted(layers - {row.head}))
    prefixes = tuple(part.strip() for part in freeze.split(","))
    for prefix in prefixes:
        if not prefix or not any(
            has_prefix(tuple(layer.split(".")), (prefix,)) for layer in layers
        ):
            tops = ", ".join(sorted({layer.split(".")[0] for layer in layers}))
            raise UsageError(
                f"--freeze: no layer of {name} lies under {prefix!r}; it has {tops}"
            )
    return prefixes


def scaled(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """The same share of the photo at another crop size."""
    resize = round(size * preprocessing.resize / preprocessing.crop)
    return replace(preprocessing, resize=resize, crop=size)
