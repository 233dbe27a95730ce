"""A photo enlarged in tiles by `light`, beside the same network in PyTorch.

    python -m benchmarks.upscale

Both take uint8 to uint8, through the same tiles; MiB is what the process grows by at
most. Reading and writing of files is not in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from benchmarks.pair import Task
from benchmarks.program import Job, Options, Table, look_at_machine, measure, run

NETS = {f"light_x{scale}": scale for scale in (2, 3, 4)}


@dataclass(frozen=True)
class Config:
    """Times the enlargement of a large photo beside PyTorch."""

    height: int = 3000
    """Pixels of the photo."""
    width: int = 4000
    """Pixels of the photo."""
    tile: int = 256
    """Side of a tile in pixels."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows.

    Raises:
      ValueError: `--only` names no net of `NETS`.
    """
    names = config.options.chosen(NETS)
    table = Table("upscale", config.options, look_at_machine(config.options))
    measure(table, jobs(config, names), config.options, backend="auto")
    table.close()


def jobs(config: Config, names: Sequence[str]) -> Iterator[list[Job]]:
    """A group for each net."""
    shape = {"height": config.height, "width": config.width, "tile": config.tile}
    if config.options.quick:
        shape = {"height": 70, "width": 90, "tile": 48}
    text = f"{shape['width']} x {shape['height']} in tiles of {shape['tile']}"
    for name in names:
        case = {"net": name, **shape}
        fields = {"net": name, "case": text, "peer": "PyTorch"}
        ours = Task("benchmarks.ours:enlarge", case)
        theirs = Task("benchmarks.peers:enlarge", case)
        yield [Job(fields, ours, theirs)]


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.upscale")
