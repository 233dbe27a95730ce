"""Several runs from one command: options with several values, each with all seeds."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from experiments.config import to_dict
from experiments.run import Reporter, read_metrics, write_config, write_rows
from jaxvision.analysis import t_interval
from jaxvision.files import write_text
from jaxvision.metrics import wilson_interval
from jaxvision.report.sweep import Line, comparison

RESULTS = "results.json"
"""Written last in a run's folder: with it, the run is complete."""

Numbers = dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    variant: str
    """The values that tell it from the others, seeds aside."""
    name: str
    """Of its folder."""
    config: Any


def expand(config: Any, *, axes: Sequence[str]) -> list[Cell]:
    """The runs that `config` means, those of one variant side by side.

    Args:
      config: a dataclass with `seed` and `repeats`.
      axes: its fields that hold several values.

    Returns:
      One cell for each combination of values and each seed; its config has one value
      an axis and no repeats.
    """
    varied = [axis for axis in axes if len(getattr(config, axis)) > 1]
    cells = []
    for values in itertools.product(*(getattr(config, axis) for axis in axes)):
        chosen = dict(zip(axes, values, strict=True))
        variant = "-".join(str(chosen[axis]) for axis in varied or axes)
        one = replace(config, **{axis: (value,) for axis, value in chosen.items()})
        for seed in range(config.seed, config.seed + config.repeats):
            name = f"{variant}-seed{seed}" if config.repeats > 1 else variant
            cells.append(Cell(variant, name, replace(one, seed=seed, repeats=1)))
    return cells


def run(
    cells: Sequence[Cell],
    folder: Path,
    run_cell: Callable[[Any, Path], Numbers | None],
    *,
    report: Reporter,
) -> Numbers | None:
    """Runs all cells that are not complete, each in a folder of its own, and compares.

    A single cell runs in `folder` itself. What was interrupted goes on where it was.

    Args:
      run_cell: trains in a folder and returns the numbers, or None where it was
        stopped.

    Returns:
      The first cell's numbers; None where a signal stopped the run.
    """
    if len(cells) == 1:
        return run_cell(cells[0].config, folder)
    found = []
    for index, cell in enumerate(cells, start=1):
        path = folder / cell.name
        if (path / RESULTS).is_file():
            found.append(json.loads((path / RESULTS).read_text(encoding="utf-8")))
            continue
        report.say(f"run {index} of {len(cells)}: {cell.name}", style="bold")
        if not (path / "config.yaml").is_file():
            path.mkdir(exist_ok=True)
            write_config(path, to_dict(replace(cell.config, resume=None, config=None)))
        numbers = run_cell(cell.config, path)
        if numbers is None:
            return None
        write_text(path / RESULTS, json.dumps(numbers, indent=2) + "\n")
        found.append(numbers)
    _compare(cells, found, folder, report=report)
    return found[0]


def _compare(
    cells: Sequence[Cell], found: Sequence[Numbers], folder: Path, *, report: Reporter
) -> None:
    """Writes `comparison.csv` and `comparison.png`, and prints the table.

    The 95 % interval is Student's over the seeds of a variant; of a single run it is
    Wilson's over its validation images.
    """
    rows, lines = [], []
    for variant in dict.fromkeys(cell.variant for cell in cells):
        own = [i for i, cell in enumerate(cells) if cell.variant == variant]
        accuracies = [found[i]["val_accuracy"] for i in own]
        spread = t_interval(accuracies)
        low, high = spread.low, spread.high
        if len(own) == 1:  # of one run, that of a share of its images
            images = int(found[own[0]]["images"])
            low, high = wilson_interval(round(spread.mean * images), images)
        histories = [read_metrics(folder / cells[i].name / "metrics.csv") for i in own]
        rows.append(
            {
                "variant": variant,
                "runs": len(own),
                "accuracy": spread.mean,
                "std": spread.std if len(own) > 1 else None,
                "low": low,
                "high": high,
                "macro_f1": fmean(found[i]["val_macro_f1"] for i in own),
                "parameters": found[own[0]]["parameters"],
                "seconds_an_epoch": fmean(
                    row["seconds"] for history in histories for row in history
                ),
                "minutes": fmean(
                    sum(row["seconds"] for row in history) / 60 for history in histories
                ),
            }
        )
        lines.append(Line(variant, histories, rows[-1]["parameters"]))
    write_rows(folder / "comparison.csv", rows)
    comparison(lines, folder / "comparison.png")
    report.table(_table(rows))
    report.say(f"see {folder / 'comparison.csv'} and {folder / 'comparison.png'}")


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("variant")
    for name in ("accuracy", "95 % interval", "macro F1", "parameters", "s/epoch"):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: -row["accuracy"]):
        interval = f"{row['low']:.2%} to {row['high']:.2%}"
        table.add_row(
            row["variant"],
            f"{row['accuracy']:.2%}",
            interval,
            f"{row['macro_f1']:.3f}",
            f"{row['parameters']:,}",
            f"{row['seconds_an_epoch']:.1f}",
        )
    return table
