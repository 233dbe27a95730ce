"""Complete runs side by side: `comparison.html`, `.csv` and `.png`, and a table."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from experiments.command.console import Console
from experiments.pages.comparison_page import write_comparison
from experiments.pages.comparison_plots import draw_comparison
from experiments.pages.comparison_words import outcome, percent, sentences
from experiments.pages.page import model_commands
from experiments.pages.predictions import read_predictions
from experiments.pages.standings import Repeat, Standing, Variant, standings
from experiments.runs.folder import Run, read_metrics, write_rows
from jaxvision.files import read_text, write_text
from jaxvision.text import shell_word

RESULTS = "results.json"
"""Written last in a run's folder: with it, the run is complete."""
NEEDED = ("val_accuracy", "val_macro_f1", "parameters", "images")
"""What a comparison takes from it."""

Numbers = dict[str, float]


class Done(NamedTuple):
    """A complete run: its variant, its folder's name, and what it returned.

    The name is that of a folder in the comparison's, or a path from there. `values` has
    the options that differ between variants. `seed` is what tells the runs of a variant
    from each other, as `by` says: the seed, or the fold.
    """

    variant: str
    name: str
    values: Mapping[str, str]
    seed: int
    numbers: Numbers
    by: str = "seed"


def read_results(path: Path) -> Numbers:
    """The numbers that a complete run wrote.

    Raises:
      ValueError: the file is missing, or holds something else.
    """
    why = "is damaged"
    try:
        numbers = json.loads(read_text(path))
        if "val_mean_average_precision" in numbers:
            why = "is of photos with several labels: runs are compared by accuracy"
        elif all(math.isfinite(numbers[name]) for name in NEEDED):
            return numbers
    except (OSError, ValueError, KeyError, TypeError):
        pass  # whatever it holds, it is not what was written
    raise ValueError(f"{path} {why}")


def write_results(path: Path, numbers: Numbers) -> None:
    """Marks a run as complete."""
    write_text(path, json.dumps(numbers, indent=2) + "\n")


def told_by(options: Mapping[str, Any]) -> tuple[str, int]:
    """What tells a run from the others of its variant, seed or fold, and its number."""
    fold = options.get("fold")
    return ("fold", fold) if fold is not None else ("seed", options.get("seed", 0))


def spelt(value: Any) -> str:
    """A value as it is spelt on a command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(spelt, value))
    return "none" if value is None else str(value)


def compare(
    runs: Sequence[Done], into: Run, *, notes: Sequence[str], console: Console
) -> list[Standing]:
    """Writes the comparison of complete runs into the run `into`, prints the table.

    What a run's folder lacks is said in one line, and left out of the comparison.

    Args:
      runs: those of one variant side by side.
      into: what the names of the runs start from, and where the comparison goes.
      notes: warnings that a reader must not miss.
    """
    folder, lost = into.path, []
    variants = [
        _variant([run for run in runs if run.variant == name], folder, lost)
        for name in dict.fromkeys(run.variant for run in runs)
    ]
    rows = standings(variants)
    write_rows(folder / "comparison.csv", [_line(rows, v) for v in variants])
    if any(run.history for variant in variants for run in variant.runs):
        draw_comparison(rows, folder / "comparison.png")
    for note in (*notes, *lost):
        console.say(f"WARNING: {note}", style="bold yellow")
    page = write_comparison(
        folder,
        rows,
        title=_title(variants, into.config),
        config=into.config,
        notes=[*notes, *lost],
        commands=_commands(rows[0], runs, folder),
    )
    console.table(_table(rows))
    for sentence in (outcome(rows), *sentences(rows)):
        console.say(sentence)
    console.say(f"see {page}")
    return rows


def _variant(runs: Sequence[Done], folder: Path, lost: list[str]) -> Variant:
    """One variant from its runs' folders; what is not there is added to `lost`."""
    first = runs[0]
    gflop = first.numbers.get("gflop")
    return Variant(
        name=first.variant,
        values=first.values,
        runs=[_repeat(run, folder / run.name, lost) for run in runs],
        parameters=int(first.numbers["parameters"]),
        gflop=None if gflop is None else float(gflop),
        by=first.by,
    )


def _repeat(done: Done, path: Path, lost: list[str]) -> Repeat:
    images = int(done.numbers["images"])
    history, evaluation = [], None
    try:
        history = read_metrics(path / "metrics.csv")
        if not history or any("seconds" not in row for row in history):
            raise ValueError(f"{path / 'metrics.csv'} is cut short")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        history = []
        lost.append(_reason(f"No curves and times of {done.name}", error))
    try:
        table = read_predictions(path / "predictions.csv")
        if len(table) != images:
            there = f"{path / 'predictions.csv'} has {len(table)} images"
            raise ValueError(f"{there}, not {images}")
        evaluation = table
    except (OSError, ValueError, csv.Error) as error:
        lost.append(_reason(f"No test with {done.name}", error))
    return Repeat(
        seed=done.seed,
        accuracy=done.numbers["val_accuracy"],
        macro_f1=done.numbers["val_macro_f1"],
        images=images,
        history=history,
        evaluation=evaluation,
        report=f"{done.name}/report.html" if (path / "report.html").is_file() else "",
    )


def _reason(lack: str, error: Exception) -> str:
    """One line, whatever the error says."""
    if isinstance(error, OSError):
        return f"{lack}: {error.strerror}: {error.filename}"
    return f"{lack}: {' '.join(str(error).split())}"


def _line(rows: Sequence[Standing], variant: Variant) -> dict[str, Any]:
    """A line of `comparison.csv`."""
    (row,) = (row for row in rows if row.variant is variant)
    test = row.contest.test if row.contest else None
    low, high = row.images or (None, None)
    return {
        "variant": variant.name,
        **variant.values,
        "runs": len(variant.runs),
        "accuracy": row.accuracy,
        "std": row.std,
        "low": row.interval[0],
        "high": row.interval[1],
        "interval_over": f"{variant.by}s" if len(variant.runs) > 1 else "images",
        "images_low": low,
        "images_high": high,
        "p_against_best": None if test is None else test.p_value,
        "macro_f1": row.macro_f1,
        "parameters": variant.parameters,
        "gflop": variant.gflop,
        "seconds_an_epoch": row.seconds,
        "minutes": row.minutes,
    }


def _title(variants: Sequence[Variant], options: Mapping[str, Any]) -> str:
    count = f"{len(variants)} variants"
    if len(variants) == 1:
        count = f"{variants[0].name}, {len(variants[0].runs)} times"
    data = Path(str(options.get("data", ""))).name.removeprefix("tfds:")
    return f"{count} on {data}" if data else count


def _commands(best: Standing, runs: Sequence[Done], folder: Path) -> dict[str, str]:
    """What to do with the best variant's first run."""
    name = next(run.name for run in runs if run.variant == best.variant.name)
    path = Path(os.path.normpath(folder / name))
    run = shell_word(path)
    return {
        "Name what a photo shows": f"python -m experiments.predict {run} PHOTO.jpg",
        **model_commands(path),
    }


def _table(rows: Sequence[Standing]) -> Table:
    """The variants for a terminal, best first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("variant", overflow="fold")
    for name in ("accuracy", "95 % interval", "macro F1", "M params", "GFLOP", "min"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        low, high = (min(max(bound, 0.0), 1.0) for bound in row.interval)
        gflop = row.variant.gflop
        table.add_row(
            row.variant.name,
            percent(row.accuracy, row),
            f"{percent(low, row).removesuffix(' %')} – {percent(high, row)}",
            f"{row.macro_f1:.3f}",
            f"{row.variant.parameters / 1e6:.3g}",
            "–" if gflop is None else f"{gflop:.3g}",
            "–" if row.minutes is None else f"{row.minutes:.3g}",
        )
    return table
