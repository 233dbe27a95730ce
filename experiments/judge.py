"""Judges trained networks that enlarge photographs, as the papers do.

python -m experiments.judge Set5 Set14
python -m experiments.judge Set5 Set14 --model light RUN --scale 2 --picture FILE.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from experiments.command import limits
from experiments.command.console import Console
from experiments.command.limits import check_limits, limited
from experiments.command.options import UsageError, run_cli
from experiments.inference.enlarger import make_enlarger
from experiments.inference.trained import open_network, scales
from experiments.pages.enlargements import draw_enlargements
from experiments.runs.judging import (
    BICUBIC,
    DENOISED,
    Distance,
    flat,
    judge,
    make_table,
    means_of,
    open_benchmarks,
    protocol,
)
from experiments.training.data import fetch_data
from experiments.training.perceptual import (
    MEASURED,
    make_distance,
    make_relative,
    open_perceptual,
)
from jaxvision.data.pieces import centre_square

MODULE = "experiments.judge"


@dataclass(frozen=True)
class Config:
    """Judges trained networks beside bicubic by photographs of one's own.

    Each is reduced by PIL's bicubic, enlarged again, and compared with what it was.
    """

    photos: Annotated[Positional[tuple[str, ...]], arg(metavar="FOLDER...")] = ()
    """Folders of images, or demo: a set each."""
    model: tuple[str, ...] = limited(("light",), limits.given)
    """Names of networks that come with the program (light, ...), folders of runs of
    experiments.superres, or their model.safetensors: beside each other."""
    scale: tuple[Literal[1, 2, 3, 4], ...] = ()
    """How many times larger; by default every scale that the models come for."""
    degrade: Literal["bicubic", "web", "camera"] = "bicubic"
    """What becomes of the photographs beside their reduction, as in
    experiments.superres; then non-local means, before bicubic, are judged too."""
    vgg: str | None = None
    """VGG16's weights, as in experiments.superres: gives the perceptual distance of
    relu2_2 as well."""
    picture: Path | None = None
    """A PNG file to draw some of the photographs into, by every method."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        check_limits(self)


def main(config: Config) -> dict[int, dict[str, float]]:
    """Prints a table for each scale and returns the means, by scale.

    Raises:
      UsageError: an option is wrong, or an image cannot be used.
      RunError: VGG16's weights could not be had.
    """
    if not config.photos:
        raise UsageError("name the folders of images to judge by")
    console = Console()
    for spec in config.photos:
        fetch_data(spec, console=console, where="FOLDER")
    results = {}
    for scale in _scales(config):
        enlargers = {
            name: make_enlarger(open_network(name, scale=scale))
            for name in config.model
        }
        groups = open_benchmarks(config.photos, scale=scale, option="FOLDER")
        rows, examples = judge(
            enlargers,
            groups,
            distance=_distance(config, scale=scale, console=console),
            degradation=config.degrade,
            console=console,
        )
        means = means_of(rows)
        said = protocol(scale, config.degrade)
        console.say(f"{', '.join(config.model)}, {scale} times the size; {said}")
        console.table(make_table(groups, means))
        if config.picture is not None:
            draw_enlargements(examples, config.picture, protocol=said, scale=scale)
        results[scale] = flat(means, model=config.model[0])
    return results


def _scales(config: Config) -> tuple[int, ...]:
    """The scales to judge.

    Raises:
      UsageError: there is none that all models come for, or too many for a picture.
    """
    if len(set(config.model)) < len(config.model):
        raise UsageError("--model names one of them twice")
    if taken := {BICUBIC, DENOISED} & set(config.model):
        raise UsageError(
            f"--model {min(taken)}: a row of the table has that name: give it as "
            f"./{min(taken)}"
        )
    common = set.intersection(*(set(scales(name)) for name in config.model))
    chosen = config.scale or tuple(sorted(common))
    if not chosen:
        raise UsageError("--model: these networks are for different scales")
    if config.picture is not None:
        if len(chosen) > 1:
            raise UsageError("--picture is of one scale: give --scale")
        if not config.picture.absolute().parent.is_dir():
            raise UsageError(f"--picture {config.picture}: no such folder")
    return chosen


def _distance(config: Config, *, scale: int, console: Console) -> Distance | None:
    """The perceptual distance, in units of the demo photographs' features.

    What is judged, and in what order, is not to change the unit.
    """
    if config.vgg is None:
        return None
    demo = open_benchmarks(("demo",), scale=scale, option="--vgg")["demo"]
    squares = [centre_square(photo.image) for photo in demo[:MEASURED]]
    perceptual = open_perceptual(config.vgg, ("relu2_2",), console=console)
    return make_distance(make_relative(perceptual, squares))


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
