"""Fine-tunes an ImageNet backbone on a folder of photos.

python -m experiments.transfer --backbone wrn50_2 --data PHOTOS
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from flax import nnx

from converters.rules import leaves
from experiments.backbones import build, choose_weights
from experiments.classification import (
    check_limits,
    check_resumed,
    compute_type,
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
from jaxvision.functional import has_prefix
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing

MODULE = "experiments.transfer"


@dataclass(frozen=True)
class Config:
    """Fine-tunes an ImageNet backbone on a folder of photos."""

    backbone: str = "wide_resnet50_2"
    """One of torchvision's names, such as resnet18, or an alias, such as wrn50_2."""
    data: str = "demo"
    """demo; a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg; or a
    .npz file with x_train, y_train, x_test, y_test."""
    weights: str = "auto"
    """auto, imagenet, v1, v2, random, or a .pth or .safetensors file. auto is imagenet;
    with the demo photos and no network it is random, with a warning."""
    epochs: int | None = None
    """Passes over the training photos. By default 10, with the demo photos 4."""
    batch_size: int = 32
    """Photos a step, over all devices."""
    image_size: int | None = None
    """Side of the crops in pixels. By default 224, with the demo photos 64."""
    optim: Optim = field(default_factory=Optim)
    """The optimiser and its schedule."""
    augment: Literal["none", "flips", "full"] = "full"
    """flips: random crop and horizontal flip; full: and rotation by up to 15 degrees,
    brightness, contrast and saturation by up to 20 %."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss, however few its photos."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    freeze: str = "none"
    """none; backbone: all but the last layer; or prefixes with commas between, such as
    layer1,layer2. Frozen BatchNorm keeps its statistics."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto is bfloat16 on GPU and TPU, float32 on CPU."""
    seed: int = 0
    """Seed of the head, the split, the order and the augmentation."""
    output: Path = Path("runs")
    """Where the run folder is made: OUTPUT/transfer/N."""
    resume: Path | None = None
    """A run folder to go on with, by its own options, to the same bits."""
    config: Path | None = None
    """A YAML file of options; the command line wins over it."""
    dry_run: bool = False
    """Open the data, build the model, take one step, write nothing."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        limits = {
            "epochs": self.epochs is None or self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "image_size": self.image_size is None or self.image_size >= 16,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "seed": 0 <= self.seed < 2**32,
        }
        check_limits(self, limits)


def resolve(config: Config) -> Config:
    """The configuration with every default that depends on data or device spelled out.

    Raises:
      UsageError: an option has a value that does not exist.
    """
    demo = config.data == "demo"
    epochs, image_size = (4, 64) if demo else (10, 224)
    try:
        name = models.variant(config.backbone).name
    except ValueError as error:
        raise UsageError(f"--backbone: {error}") from error
    if name not in models.names():
        raise UsageError(
            f"--backbone: {name} is no ImageNet backbone; there are "
            f"{', '.join(models.names())}"
        )
    return replace(
        config,
        backbone=name,
        epochs=config.epochs or epochs,
        image_size=config.image_size or image_size,
        dtype=compute_type(config.dtype),
    )


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the best epoch's validation numbers.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: weights could not be had, or the loss is no longer finite.
      SystemExit: a signal stopped the run, which is saved.
    """
    report = Reporter()
    folder = config.resume
    config = resolve(config)
    if folder is not None:
        check_resumed(config, folder)
    start = choose_weights(
        config.backbone, config.weights, is_demo=config.data == "demo", report=report
    )
    if config.weights == "auto":
        # What it came to: a resumed run must not look for it anew.
        config = replace(config, weights="imagenet" if start.arrays else "random")
    preprocessing = _scaled(start.preprocessing, config.image_size or 224)
    dataset = open_data(
        config.data,
        preprocessing,
        # A little larger than the crop, so that random crops differ.
        train_size=round(preprocessing.crop * 256 / 224),
        seed=config.seed,
        report=report,
    )
    model, source = build(
        config.backbone, start, num_classes=len(dataset.classes), seed=config.seed
    )
    report.say(
        f"{config.backbone}: {source}; {dataset.name}: {len(dataset.train)} training "
        f"and {len(dataset.val)} validation photos of {len(dataset.classes)} classes"
    )
    training = make_training(
        dataset,
        model,
        config.backbone,
        preprocessing=preprocessing,
        augmentation=config.augment,
        optimizer=config.optim,
        epochs=config.epochs or 1,
        batch_size=config.batch_size,
        dtype=config.dtype,
        seed=config.seed,
        frozen=frozen_prefixes(config.freeze, config.backbone, model),
        class_weights=config.class_weights,
        label_smoothing=config.label_smoothing,
    )
    if config.dry_run:
        return dry_run(training, model, report)
    if folder is None:
        folder = new_folder(config.output, "transfer")
        write_config(folder, to_dict(replace(config, config=None)))
        report.say(f"run folder: {folder}")
    with stop_on_signals() as stop:
        numbers = run(
            training,
            model,
            folder,
            dataset=dataset,
            title=f"{config.backbone} on {dataset.name}",
            summary={
                "Weights": source,
                "Training photos": str(len(dataset.train)),
                "Epochs": str(config.epochs),
                "Image size": f"{config.image_size} px",
            },
            notes=[start.warning] if start.warning else [],
            report=report,
            stop=stop,
        )
    if numbers is None:
        interrupted(folder, MODULE, stop)
    return numbers


def frozen_prefixes(freeze: str, name: str, model: nnx.Module) -> tuple[str, ...]:
    """The path prefixes that `--freeze` names.

    Raises:
      UsageError: a prefix fits no layer.
    """
    if freeze == "none":
        return ()
    layers = {leaf.torch_name.rpartition(".")[0] for leaf in leaves(model)}
    if freeze == "backbone":
        return tuple(sorted(layers - {models.variant(name).head}))
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


def _scaled(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """The same share of the photo at another crop size."""
    resize = round(size * preprocessing.resize / preprocessing.crop)
    return replace(preprocessing, resize=resize, crop=size)


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
