"""Fine-tunes an ImageNet backbone on a folder of photos, or compares several.

python -m experiments.transfer --backbone wrn50_2 --data PHOTOS
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from tyro.conf import arg

from experiments.command import limits
from experiments.command.console import Console
from experiments.command.limits import at_least, limited
from experiments.command.machines import Machines
from experiments.command.memory import Memory
from experiments.command.options import UsageError, check_resumed, run_cli, to_dict
from experiments.command.signals import interrupted, stop_on_signals
from experiments.pages.page import About
from experiments.runs import grid
from experiments.runs.folder import Run, new_run, open_run
from experiments.training.answers import check_alone, check_balance
from experiments.training.backbones import (
    build,
    check_backbones,
    choose_weights,
    common_weights,
    in_folder,
    resumed_weights,
    scaled,
)
from experiments.training.classifier import ClassifierTraining, make_classifier, run
from experiments.training.data import find_photos, keep_index, open_data, square_side
from experiments.training.find_lr import find_lr, ramp
from experiments.training.last_layer import fit_head, frozen_prefixes, head_phase
from experiments.training.recipe import ClassifierRecipe, Pipeline
from experiments.training.training import Start, compute_type, dry_run
from jaxvision import checkpoint, models
from jaxvision.data import Dataset, describe_kinds
from jaxvision.data.photo import Source
from jaxvision.optim import Optim
from jaxvision.preprocess import Fit, Preprocessing

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
class Subject:
    """What is trained, and on what; these options come first."""

    recipe: str | None = None
    """Values that replace the defaults below: original (SGD and steps, as in PyTorch's
    tutorial), fast (the last layer alone, on inputs computed once) or best (larger
    images, averaged weights, mirrored answers, and more time)."""
    backbone: tuple[str, ...] = limited(("wide_resnet50_2",), limits.given)
    """torchvision's names, such as resnet18, or aliases, such as wrn50_2; all: one or
    two of each family."""
    data: Annotated[str, arg(help=f"{describe_kinds(labelled=True)}.")] = "demo"
    weights: str = "auto"
    """auto, imagenet, v1, v2, random, a .pth or .safetensors file, or the folder of a
    run or an export. auto is imagenet; with the demo photos and no network it is
    random, with a warning."""
    image_size: int | None = limited(None, at_least(16, most=4096))
    """Side of the crops in pixels. By default 224, with the demo photos 64."""
    fit: Fit = "crop"
    """How a photo becomes a square. crop: the middle of its short side, as torchvision
    does it; pad: all of it, the rest in the mean colour of ImageNet; stretch: all of
    it, whatever its shape."""
    head_epochs: int = limited(0, at_least(0))
    """Passes before all others in which the last layer alone is trained."""


@dataclass(frozen=True)
class Config(Machines, Memory, ClassifierRecipe, Subject):
    """Fine-tunes an ImageNet backbone on a folder of photos; several are compared.

    Several values of --backbone, --augment, --class-weights or --freeze, and --repeats,
    make one run each, and a page that compares them.
    """

    epochs: int | None = limited(None, at_least(1))
    """Passes over the training photos. By default 10, with the demo photos 4."""
    optim: Optim = field(default_factory=lambda: Optim(lr=0.003))
    """The optimiser and its schedule."""
    augment: tuple[Pipeline, ...] = limited(("full",), limits.given)
    class_weights: tuple[Literal["none", "balanced"], ...] = limited(
        ("none",), limits.given
    )
    freeze: tuple[str, ...] = limited(("none",), limits.given)
    repeats: int = limited(1, at_least(1, most=grid.MOST_REPEATS))
    """Runs of each, with the seeds from --seed on."""
    folds: int | None = limited(None, at_least(2, most=100))
    """Cross-validation: as many runs of each, and each photo is judged once, by a
    model that was trained on those of the other parts."""
    fold: int | None = limited(None, at_least(1, most=100))
    """One of these parts alone, from 1 on."""
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


def resolve(config: Config, *, console: Console) -> Config:
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
        if models.variant(name).task != "imagenet":
            raise UsageError(
                f"--backbone: {name} is no ImageNet backbone; there are "
                f"{', '.join(models.names())}"
            )
    return replace(
        config,
        backbone=names,
        weights=in_folder(config.weights),
        epochs=config.epochs or epochs,
        image_size=config.image_size or image_size,
        dtype=compute_type(config.dtype, console=console),
    )


def make_cells(config: Config) -> list[grid.Cell]:
    """The runs that the options mean.

    Raises:
      UsageError: options contradict each other, --find-lr means several runs, or
        --freeze no layer of one of them.
    """
    # One step, or one search, tells as much by one seed as by all.
    if config.folds and config.repeats > 1:
        raise UsageError("--folds and --repeats: give one of the two")
    if (config.fold or 0) > (config.folds or 0):
        raise UsageError(f"--fold {config.fold}: it goes from 1 to --folds")
    if config.dry_run or config.find_lr:
        config = replace(config, repeats=1, fold=config.fold or config.folds and 1)
    cells = grid.expand(config, axes=AXES)
    if config.find_lr and len(cells) > 1:
        raise UsageError("--find-lr: give one backbone, and one of each other option")
    for cell in cells:
        frozen_prefixes(cell.chosen["backbone"], cell.chosen["freeze"])
        check_balance(ClassifierRecipe.of(config, chosen=cell.chosen))
    return cells


class Ready(NamedTuple):
    """A run that can start: what is trained, on what, how, and by what."""

    start: Start
    dataset: Dataset
    recipe: ClassifierRecipe
    classifier: ClassifierTraining


Open = Callable[[Preprocessing, int | None], Dataset]
"""The photos for what a model expects of them, judged by that part of them."""


def make_opener(source: Source, config: Config, *, console: Console) -> Open:
    """Opens the photos of `--data`; runs that want them alike share them."""
    folds = config.folds

    @lru_cache(maxsize=1)
    def opened(preprocessing: Preprocessing, fold: int | None) -> Dataset:
        return open_data(
            source,
            preprocessing,
            train_size=square_side(preprocessing.crop),
            fold=(fold, folds) if fold and folds else None,
            console=console,
            is_streamed=config.input == "stream",
        )

    return opened


def prepare(
    cell: grid.Cell, opened: Open, *, console: Console, folder: Path | None = None
) -> Ready:
    """All that a run needs before its first step.

    Args:
      cell: the run.
      opened: opens its photos.
      console: is told what it is.
      folder: the run's, where there is one; with a checkpoint, no weights are needed.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: weights could not be had.
    """
    config: Config = cell.config
    name = cell.chosen["backbone"]
    recipe = ClassifierRecipe.of(config, chosen=cell.chosen)
    size = config.image_size or 224
    if folder is not None and is_begun(folder):
        weights = resumed_weights(
            name, config.weights, folder, freeze=recipe.freeze, console=console
        )
    else:
        weights = choose_weights(name, config.weights, console=console)
    fitted = replace(weights.preprocessing, fit=config.fit)
    weights = weights._replace(preprocessing=fitted)
    dataset = opened(scaled(fitted, size), config.fold)
    classes = len(dataset.classes)
    start = build(
        name,
        weights,
        num_classes=classes,
        size=size,
        seed=recipe.seed,
        classes=dataset.classes,
    )
    console.say(
        f"{name}: {start.source}; {dataset.name}: {len(dataset.train)} training and "
        f"{len(dataset.val)} validation photos of {classes} classes"
    )
    classifier = make_classifier(
        dataset,
        start,
        recipe,
        console=console,
        schedule=ramp if config.find_lr else None,
    )
    return Ready(start, dataset, recipe, classifier)


def _check_others(
    cells: Sequence[grid.Cell], first: Ready, *, console: Console
) -> None:
    """Raises UsageError for what runs after the first would fail by."""
    # The first has been built: what suits it suits its other augmentations and seeds.
    names = [cell.chosen["backbone"] for cell in cells]
    others = [name for name in names if name != first.start.name]
    if others:
        config: Config = cells[0].config
        check_backbones(
            others,
            config.weights,
            num_classes=len(first.dataset.classes),
            size=config.image_size or 224,
            console=console,
        )


def is_begun(folder: Path) -> bool:
    """Whether the run in `folder` has a checkpoint to go on from."""
    return bool(checkpoint.steps(folder / "checkpoints"))


def train_head(ready: Ready, epochs: int, *, console: Console) -> None:
    """Trains the last layer alone for so many epochs, into the model of `ready`."""
    start, dataset, recipe, _ = ready
    phase = head_phase(recipe, epochs=epochs)
    alone = make_classifier(dataset, start, phase, console=console)
    fit_head(alone.training, start.model, console)


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the best epoch's validation numbers.

    Of several runs it returns the numbers of the first.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: weights could not be had, or the loss is no longer finite.
      SystemExit: a signal stopped the run, which is saved.
    """
    console = Console()
    config = resolve(config, console=console)
    if config.resume is not None:
        check_resumed(config, config.resume, free=["data"])
    # What auto came to: a resumed run must not look for it anew.
    which, warning = common_weights(
        config.backbone, config.weights, is_demo=config.data == "demo", console=console
    )
    notes = [warning] if warning else []
    make_cells(config)  # what is wrong with the options is said before photos are read
    source, chosen = find_photos(config, config.image_size or 224, console=console)
    config = replace(config, weights=which, input=chosen)
    cells = make_cells(config)
    opened = make_opener(source, config, console=console)
    make_ready = partial(prepare, opened=opened, console=console)
    if config.dry_run:
        for cell in cells:
            ready = make_ready(cell)
            numbers = dry_run(ready.classifier.training, ready.start.model, console)
        return numbers
    # What is wrong with any of the runs is said before there is a folder.
    waiting = []
    if config.resume is None:
        waiting.append(make_ready(cells[0]))
        check_alone(waiting[0].dataset, len(cells))
        _check_others(cells[1:], waiting[0], console=console)
        into = new_run(config.output, "transfer", to_dict(replace(config, config=None)))
        keep_index(source, config.data, into.path)
        console.say(f"run folder: {into.path}")
    else:
        into = open_run(config.resume)

    def started(cell: grid.Cell, into: Run) -> Ready:
        ready = waiting.pop() if waiting else make_ready(cell, folder=into.path)
        if config.head_epochs and not is_begun(into.path):
            train_head(ready, config.head_epochs, console=console)
        return ready

    if config.find_lr:
        start, _, _, classifier = started(cells[0], into)
        return find_lr(classifier.training, start.model, into.path, console=console)

    def run_cell(cell: grid.Cell, into: Run) -> grid.Numbers | None:
        start, dataset, recipe, classifier = started(cell, into)
        summary = {
            "Weights": start.source,
            "Training photos": str(len(dataset.train)),
            "Epochs": str(recipe.epochs),
            "Image size": f"{config.image_size} px",
        }
        title = f"{start.name} on {dataset.name}"
        return run(
            classifier,
            start,
            into,
            dataset=dataset,
            about=About(title, summary, into.config, notes=notes),
            console=console,
            stop=stop,
        )

    with stop_on_signals() as stop:
        numbers = grid.run(
            cells, into, run_cell, console=console, notes=notes, data=config.data
        )
    if numbers is None:
        interrupted(into.path, MODULE, stop)
    return numbers


if __name__ == "__main__":
    run_cli(
        Config,
        main,
        prog=f"python -m {MODULE}",
        presets=RECIPES,
        preset_option="recipe",
    )
