"""Fine-tunes an ImageNet backbone on a folder of photos, or compares several.

python -m experiments.transfer --backbone wrn50_2 --data PHOTOS
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from experiments import grid
from experiments.backbones import build, choose_weights, common_weights
from experiments.classification import (
    Training,
    check_limits,
    check_resumed,
    compute_type,
    dry_run,
    fit_head,
    open_data,
    run,
)
from experiments.config import UsageError, run_cli, to_dict
from experiments.find_lr import find_lr, ramp
from experiments.run import (
    Reporter,
    interrupted,
    new_folder,
    stop_on_signals,
    write_config,
)
from experiments.transfer_training import (
    HEAD_PHASE,
    Prepared,
    frozen_prefixes,
    make,
    scaled,
)
from jaxvision import checkpoint, models
from jaxvision.data import Dataset
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing

MODULE = "experiments.transfer"
AXES = ("backbone", "augment", "class_weights", "freeze")
"""Options that take several values."""

RECIPES: dict[str, dict[str, Any]] = {
    "original": {
        "epochs": 10,
        "optim": {"lr": 1e-3, "weight_decay": 0.0, "schedule": "step"},
        "augment": ["flips"],
    },
    "fast": {
        "epochs": 20,
        "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 1e-2},
        "augment": ["none"],
        "freeze": ["backbone"],
    },
    "best": {
        "epochs": 7,
        "image_size": 288,
        "optim": {"lr": 1e-3, "warmup_epochs": 0.5},
        "augment": ["flips"],
        "ema": 0.98,
        "tta": "mirror",
    },
}
"""Values of the options that are not given."""


@dataclass(frozen=True)
class Config:
    """Fine-tunes an ImageNet backbone on a folder of photos; several are compared.

    Several values of --backbone, --augment, --class-weights or --freeze, and --repeats,
    make one run each, and a page that compares them.
    """

    recipe: str | None = None
    """Values that replace the defaults below: original (SGD and steps, as in PyTorch's
    tutorial), fast (the last layer alone, on inputs computed once) or best (larger
    images, averaged weights, mirrored answers, and more time)."""
    backbone: tuple[str, ...] = ("wide_resnet50_2",)
    """torchvision's names, such as resnet18, or aliases, such as wrn50_2; all: one or
    two of each family."""
    data: str = "demo"
    """demo; a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg; or a
    .npz file with x_train, y_train, x_test, y_test."""
    weights: str = "auto"
    """auto, imagenet, v1, v2, random, or a .pth or .safetensors file. auto is imagenet;
    with the demo photos and no network it is random, with a warning."""
    epochs: int | None = None
    """Passes over the training photos. By default 10, with the demo photos 4."""
    head_epochs: int = 0
    """Passes before them in which the last layer alone is trained."""
    batch_size: int = 32
    """Photos a step, over all devices."""
    accumulate: int = 1
    """Parts of a batch that are computed one after the other, for less memory."""
    image_size: int | None = None
    """Side of the crops in pixels. By default 224, with the demo photos 64."""
    optim: Optim = field(default_factory=lambda: Optim(lr=0.003))
    """The optimiser and its schedule."""
    augment: tuple[Literal["none", "flips", "full", "resized_crop"], ...] = ("full",)
    """flips: random crop and horizontal flip; full: and rotation by up to 15 degrees,
    brightness, contrast and saturation by up to 20 %; resized_crop: a random part of 35
    to 100 % of the photo, horizontal flip, those colours."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """mixup: each photo blended with another; cutmix: with a box of another in it; and
    their targets likewise."""
    mix_alpha: float = 1.0
    """How far mix goes: near 0 most photos stay as they are, at 1 all shares are as
    likely."""
    class_weights: tuple[Literal["none", "balanced"], ...] = ("none",)
    """balanced: each class weighs the same in the loss, however few its photos."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    freeze: tuple[str, ...] = ("none",)
    """none; backbone: all but the last layer; or prefixes with commas between, such as
    layer1,layer2. Frozen BatchNorm keeps its statistics."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is evaluated and kept; 0: none."""
    patience: int = 0
    """Epochs without a better one before the training ends early; 0: it never does."""
    tta: Literal["none", "mirror"] = "none"
    """mirror: an answer is the mean over the photo and its mirror image, here and in
    experiments.predict."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto is bfloat16 on GPU and TPU, float32 on CPU."""
    seed: int = 0
    """Seed of the last layer, the order and the augmentation."""
    repeats: int = 1
    """Runs of each, with the seeds from --seed on."""
    output: Path = Path("runs")
    """Where the run folder is made: OUTPUT/transfer/N."""
    resume: Path | None = None
    """A run folder to go on with, by its own options, to the same bits."""
    config: Path | None = None
    """A YAML file of options; the command line wins over it."""
    find_lr: bool = False
    """Try ever larger learning rates, draw the loss over them, suggest one."""
    dry_run: bool = False
    """Open the data, build the model, take one step, write nothing."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        limits = {
            **{axis: len(getattr(self, axis)) > 0 for axis in AXES},
            "epochs": self.epochs is None or self.epochs >= 1,
            "head_epochs": self.head_epochs >= 0,
            "batch_size": self.batch_size >= 1,
            "accumulate": self.accumulate >= 1
            and self.batch_size % self.accumulate == 0,
            "image_size": self.image_size is None or self.image_size >= 16,
            "mix_alpha": self.mix_alpha > 0,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "ema": 0 <= self.ema < 1,
            "patience": self.patience >= 0,
            "seed": 0 <= self.seed < 2**32,
            "repeats": self.repeats >= 1,
        }
        check_limits(self, limits)


def resolve(config: Config) -> Config:
    """The configuration with every default that depends on data or device spelled out.

    Raises:
      UsageError: an option has a value that does not exist.
    """
    demo = config.data == "demo"
    epochs, image_size = (4, 64) if demo else (10, 224)
    names = models.MISSION if config.backbone == ("all",) else config.backbone
    try:
        names = tuple(models.variant(name).name for name in names)
    except ValueError as error:
        raise UsageError(f"--backbone: {error}") from error
    for name in names:
        if name not in models.names():
            raise UsageError(
                f"--backbone: {name} is no ImageNet backbone; there are "
                f"{', '.join(models.names())}"
            )
    return replace(
        config,
        backbone=names,
        epochs=config.epochs or epochs,
        image_size=config.image_size or image_size,
        dtype=compute_type(config.dtype),
    )


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the best epoch's validation numbers.

    Of several runs it returns the numbers of the first.

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
    demo = config.data == "demo"
    # What auto came to: a resumed run must not look for it anew.
    which, warning = common_weights(
        config.backbone, config.weights, is_demo=demo, report=report
    )
    notes = [warning] if warning else []
    config = replace(config, weights=which)

    @lru_cache(maxsize=1)
    def opened(preprocessing: Preprocessing) -> Dataset:
        # A little larger than the crop, so that random crops differ.
        larger = round(preprocessing.crop * 256 / 224)
        return open_data(config.data, preprocessing, train_size=larger, report=report)

    @lru_cache(maxsize=1)
    def prepare(cell: Config) -> Prepared:
        (name,) = cell.backbone
        start = choose_weights(name, cell.weights, report=report)
        preprocessing = scaled(start.preprocessing, cell.image_size or 224)
        dataset = opened(preprocessing)
        classes = len(dataset.classes)
        model, source = build(name, start, num_classes=classes, seed=cell.seed)
        report.say(
            f"{name}: {source}; {dataset.name}: {len(dataset.train)} training and "
            f"{len(dataset.val)} validation photos of {classes} classes"
        )
        return Prepared(model, dataset, preprocessing, source)

    # One step, or one search, tells as much by one seed as by all.
    brief = config.dry_run or config.find_lr
    asked = replace(config, repeats=1) if brief else config
    cells = grid.expand(asked, axes=AXES)
    if config.find_lr and len(cells) > 1:
        raise UsageError("--find-lr: give one backbone, and one of each other option")
    for cell in cells:
        frozen_prefixes(cell.config)
    # What is wrong with the first run is said before there is a folder.
    trainings = lru_cache(maxsize=1)(
        lambda cell: make(
            cell,
            *prepare(cell)[:3],
            report=report,
            schedule=ramp if config.find_lr else None,
        )
    )
    if folder is None:
        trainings(cells[0].config)
    if config.dry_run:
        for cell in cells:
            model = prepare(cell.config).model
            numbers = dry_run(trainings(cell.config), model, report)
        return numbers
    if folder is None:
        folder = new_folder(config.output, "transfer")
        write_config(folder, to_dict(replace(config, config=None)))
        report.say(f"run folder: {folder}")

    def start(cell: Config, folder: Path) -> tuple[Training, Prepared]:
        training, prepared = trainings(cell), prepare(cell)
        if cell.head_epochs and not checkpoint.steps(folder / "checkpoints"):
            phase = replace(cell, epochs=cell.head_epochs, **HEAD_PHASE)
            alone = make(phase, *prepared[:3], report=report)
            fit_head(alone, prepared.model, report)
        return training, prepared

    if config.find_lr:
        training, prepared = start(cells[0].config, folder)
        return find_lr(training, prepared.model, folder, report=report)

    def run_cell(cell: Config, folder: Path) -> grid.Numbers | None:
        training, (model, dataset, _, source) = start(cell, folder)
        (name,) = cell.backbone
        return run(
            training,
            model,
            folder,
            dataset=dataset,
            title=f"{name} on {dataset.name}",
            summary={
                "Weights": source,
                "Training photos": str(len(dataset.train)),
                "Epochs": str(cell.epochs),
                "Image size": f"{cell.image_size} px",
            },
            notes=notes,
            report=report,
            stop=stop,
        )

    with stop_on_signals() as stop:
        numbers = grid.run(cells, folder, run_cell, report=report, notes=notes)
    if numbers is None:
        interrupted(folder, MODULE, stop)
    return numbers


if __name__ == "__main__":
    run_cli(
        Config,
        main,
        prog=f"python -m {MODULE}",
        presets=RECIPES,
        preset_option="recipe",
    )
