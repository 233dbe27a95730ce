"""Judges trained networks that enlarge photographs, as the papers do.

python -m experiments.judge Set5 Set14
python -m experiments.judge Set5 Set14 --model RUN
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from experiments.command.console import Console
from experiments.command.options import UsageError, run_cli
from experiments.inference.enlarger import make_enlarger
from experiments.inference.trained import open_network, scales
from experiments.runs.enlarger_outputs import (
    flat,
    judge,
    make_table,
    means_of,
    open_benchmarks,
    protocol,
)
from experiments.training.data import fetch_data

MODULE = "experiments.judge"


@dataclass(frozen=True)
class Config:
    """Judges a trained network beside bicubic by photographs of one's own.

    Each is reduced by PIL's bicubic, enlarged again, and compared with what it was.
    """

    photos: Annotated[Positional[tuple[str, ...]], arg(metavar="FOLDER...")] = ()
    """Folders of images, or demo: a set each."""
    model: str = "light"
    """light, which comes with the program; or the folder of a run of
    experiments.superres, or its model.safetensors."""
    scale: tuple[Literal[1, 2, 3, 4], ...] = ()
    """How many times larger; by default every scale that the model comes for."""
    degrade: Literal["bicubic", "web", "camera"] = "bicubic"
    """What becomes of the photographs beside their reduction, as in
    experiments.superres; then non-local means, before bicubic, are judged too."""


def main(config: Config) -> dict[int, dict[str, float]]:
    """Prints a table for each scale and returns the means, by scale.

    Raises:
      UsageError: an option is wrong, or an image cannot be used.
    """
    if not config.photos:
        raise UsageError("name the folders of images to judge by")
    console = Console()
    for spec in config.photos:
        fetch_data(spec, console=console, where="FOLDER")
    results = {}
    for scale in config.scale or scales(config.model):
        enlarger = make_enlarger(open_network(config.model, scale=scale))
        groups = open_benchmarks(config.photos, scale=scale, option="FOLDER")
        rows, _ = judge(
            enlarger,
            groups,
            distance=None,
            degradation=config.degrade,
            console=console,
        )
        means = means_of(rows)
        said = protocol(scale, config.degrade)
        console.say(f"{config.model}, {scale} times the size; {said}")
        console.table(make_table(groups, means))
        results[scale] = flat(means)
    return results


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
