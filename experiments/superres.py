"""Trains a network that makes photographs two, three or four times larger.

python -m experiments.superres --data PHOTOS
python -m experiments.superres upscale RUN IMAGE... (as experiments.upscale does)
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from experiments import upscale
from experiments.command import limits
from experiments.command.console import Console
from experiments.command.limits import at_least, limited
from experiments.command.machines import Machines
from experiments.command.options import (
    UsageError,
    check_resumed,
    read_yaml,
    run_cli,
    to_dict,
)
from experiments.command.signals import interrupted, stop_on_signals
from experiments.inference.enlarger import find_network, load_model, make_enlarger
from experiments.inference.trained import trained_file
from experiments.pages.page import About
from experiments.runs.enlarger_outputs import write_outputs
from experiments.runs.folder import (
    data_notes,
    new_run,
    open_run,
    saved_in,
    say_data,
    with_data,
    write_skipped,
)
from experiments.runs.judging import open_benchmarks
from experiments.runs.writer import one_writer
from experiments.training.data import fetch_data
from experiments.training.enlarger import (
    EnlargerRecipe,
    build,
    make_enlarger_training,
)
from experiments.training.loop import fit
from experiments.training.perceptual import (
    MEASURED,
    make_distance,
    make_relative,
    open_perceptual,
    without_grid,
)
from experiments.training.training import dry_run
from jaxvision import checkpoint, processes
from jaxvision.data import describe_kinds
from jaxvision.data.pieces import Pieces, centre_square, open_photos

MODULE = "experiments.superres"
DATA = (
    f"{describe_kinds(labelled=False)}; a folder's train and test (or val) are the "
    "two splits where it has both. Photographs of several are put together."
)


@dataclass(frozen=True)
class Subject:
    """What is trained, and on what; these options come first."""

    model: str = "light"
    """light computes at low resolution; srcnn_955 or srcnn_915 at high resolution;
    with _residual their layers compute what is added to the bicubic enlargement."""
    scale: Literal[1, 2, 3, 4] = 2
    """How many times larger it makes photographs; 1, with --degrade, cleans them."""
    data: Annotated[tuple[str, ...], arg(help=DATA)] = limited(("demo",), limits.given)
    init_from: Path | None = None
    """Start from the model of another run: its folder, a .safetensors or .pth file, or
    the name of one that comes with the program (light). Of another scale it takes the
    layers that have the same shape."""
    vgg: str | None = None
    """VGG16's weights: imagenet, or a .pth or .safetensors file, which may hold the
    first layers alone. Where given, results have the perceptual distance as well."""
    perceptual_layers: tuple[str, ...] = limited(("relu2_2",), limits.given)
    """Layers of VGG16 that are compared: the mean squared difference of each, as a
    share of the features' own mean square."""


@dataclass(frozen=True)
class Config(Machines, EnlargerRecipe, Subject):
    """Trains a network that makes photographs two, three or four times larger.

    To use it afterwards: python -m experiments.upscale IMAGE... --model RUN
    """

    epochs: int | None = limited(None, at_least(1))
    """By default 20, with the demo photos 6."""
    repeat: int | None = limited(None, at_least(1))
    """Crops of each photo an epoch; by default 32, with the demo photos 128."""
    crop_size: int | None = limited(None, at_least(16, most=4096))
    """Side of the training crops in pixels, before they are reduced; by default 32
    times the scale, 64 or more."""
    benchmark: tuple[str, ...] = ()
    """Folders of images, or demo, to judge by at the end, beside the test split."""
    val_photos: int = limited(200, at_least(1))
    """Most photos of the test split that are judged."""
    output: Path = Path("runs")
    """Where the run folder is made: OUTPUT/superres/N."""
    resume: Path | None = None
    """A run folder to go on with, by its own options, to the same bits; other
    benchmarks may be given, and after training by the error alone another --vgg."""
    config: Path | None = None
    """A YAML file of options; the command line wins over it."""
    dry_run: bool = False
    """Open the data, build the model, take one step, write nothing."""


def resolve(config: Config) -> Config:
    """The configuration with every default that depends on others spelled out.

    Raises:
      UsageError: an option has a value that does not exist.
    """
    vgg = config.vgg or ("imagenet" if "perceptual" in config.loss else None)
    epochs, repeat = (6, 128) if config.data == ("demo",) else (20, 32)
    crop_size = config.crop_size or 32 * max(2, config.scale)
    if config.scale == 1 and config.degrade == "bicubic":
        raise UsageError("--scale 1 learns nothing without --degrade web or camera")
    if crop_size % config.scale:
        raise UsageError(
            f"--crop-size cannot be {crop_size}: --scale {config.scale} does not "
            "divide it"
        )
    return replace(
        config,
        model=find_network(config.model, scale=config.scale),
        crop_size=crop_size,
        epochs=config.epochs or epochs,
        repeat=config.repeat or repeat,
        vgg=vgg,
    )


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the best model's numbers.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: weights could not be had, or the loss is no longer finite.
      SystemExit: a signal stopped the run, which is saved.
    """
    console = Console()
    folder = config.resume
    config = resolve(config)
    if folder is not None:
        # What the results are judged by changes nothing of the training, and the
        # photos may lie elsewhere: a digest says whether they are the same.
        judging = ["benchmark", "data"]
        if "perceptual" not in read_yaml(Config, folder / "config.yaml").loss:
            judging += ["vgg", "perceptual_layers"]
        check_resumed(config, folder, free=judging)
    for spec in config.benchmark:
        fetch_data(spec, console=console, where="--benchmark")
    benchmarks = open_benchmarks(
        config.benchmark, scale=config.scale, option="--benchmark", taken=("test",)
    )
    features = trained_by = None
    if config.vgg is not None:
        layers = config.perceptual_layers
        features = open_perceptual(config.vgg, layers, console=console)
    recipe = EnlargerRecipe.of(config)
    photos = _open(config, crop_size=recipe.crop_size, console=console)
    if features is not None:
        squares = [centre_square(photo.image) for photo in photos.val[:MEASURED]]
        trained_by = make_relative(without_grid(features), squares)
        features = make_relative(features, squares)
    begun = folder is not None and bool(checkpoint.steps(folder / "checkpoints"))
    source = config.init_from
    source = source and (trained_file(str(source), scale=config.scale) or source)
    start = build(config.model, source, seed=config.seed, is_begun=begun)
    console.say(
        f"{config.model}: {start.source}; {photos.name}: {photos.count} training "
        f"photos, {len(photos.val)} to judge by"
    )
    training = make_enlarger_training(photos, start, recipe, trained_by)
    if config.dry_run:
        return dry_run(training, start.model, console)
    if folder is None:
        run = new_run(config.output, "superres", to_dict(replace(config, config=None)))
        console.say(f"run folder: {run.path}")
    else:
        run = open_run(folder)
    plan = training.plan
    with saved_in(run.path), one_writer(run.path):
        write_skipped(run.path, photos, console)
        with stop_on_signals() as stop:
            state = training.start(start.model)
            history = fit(state, plan, run.path, console=console, stop=stop)
        run = with_data(run, config.data)
        if not plan.is_done(history):
            interrupted(run.path, MODULE, stop)
        summary = {
            "Weights": start.source,
            "Training photos": str(photos.count),
            "Epochs": str(plan.epochs),
            "Crops": f"{recipe.crop_size} px, {plan.images} an epoch",
        }
        title = f"{config.model} on {photos.name}"
        notes = data_notes(photos)
        return processes.from_first(
            lambda: write_outputs(
                run.path,
                About(title, summary, run.config, history, notes),
                enlarger=make_enlarger(load_model(run.path)),
                groups={"test": photos.val, **benchmarks},
                distance=features and make_distance(features),
                degradation=config.degrade,
                console=console,
            )
        )


def _open(config: Config, *, crop_size: int, console: Console) -> Pieces:
    for spec in config.data:
        fetch_data(spec, console=console)
    try:
        with console.counting("reading photos") as progress:
            photos = open_photos(
                *config.data,
                crop_size=crop_size,
                scale=config.scale,
                val_count=config.val_photos,
                seed=config.seed,
                progress=progress,
            )
    except ValueError as error:
        raise UsageError(f"--data: {error}") from error
    say_data(photos, console)
    return photos


def _cli() -> None:
    """Training, or with `upscale RUN` as the first words, `experiments.upscale`."""
    words = sys.argv[1:]
    if words[:1] != ["upscale"]:
        return run_cli(Config, main, prog=f"python -m {MODULE}")
    run = words[1:2] if not words[1:2] or not words[1].startswith("-") else []
    sys.argv[1:] = [*words[1 + len(run) :], *(["--model", *run] if run else [])]
    return run_cli(upscale.Config, upscale.main, prog=f"python -m {MODULE} upscale")


if __name__ == "__main__":
    _cli()
