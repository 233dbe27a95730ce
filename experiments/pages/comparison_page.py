"""`comparison.html`: one file that tells which variant won and whether it was chance.

Like a run's report it needs nothing but itself; it links to the reports of the runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from experiments.pages import comparison_plots as plots
from experiments.pages.comparison_words import chance, digits, outcome, sentences
from experiments.pages.render import render, resource, tables
from experiments.pages.standings import Contest, Standing
from jaxvision.files import write_bytes

LEVELS = 10
"""Shades of a cell; page.css has a colour for each."""
FEW = 6
"""Values of an option that are named at the top."""
MARKS = {
    "o": "M11 5a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",
    "^": "M14.5 .8l4 7.5h-8z",
    "s": "M11.3 1.8h6.4v6.4h-6.4z",
    "D": "M14.5 .6l4.4 4.4l-4.4 4.4l-4.4-4.4z",
}
"""The dots of the panels as SVG paths, for the legend."""


def write_comparison(
    folder: str | Path,
    rows: Sequence[Standing],
    *,
    title: str,
    config: Mapping[str, Any],
    notes: Sequence[str] = (),
    commands: Mapping[str, str],
) -> Path:
    """Writes `folder/comparison.html`; whatever a user can name is escaped.

    Args:
      folder: that of the comparison, in which the runs' folders lie.
      rows: what `standings` gave.
      title: what was compared on what.
      config: the options; a mapping inside becomes a table of its own.
      notes: warnings that a reader must not miss.
      commands: what to do with the winner, sentence -> command.

    Returns:
      The path of the page.
    """
    folder = Path(folder)
    best = rows[0]
    bounds = _bounds(rows)
    context = {
        "title": title,
        "style": Markup(resource("page.css") + resource("comparison.css")),
        "run": folder.resolve().name,
        "notes": notes,
        "best": best,
        "digits": digits(best),
        "images": best.variant.images,
        "by": best.variant.by,
        "outcome": outcome(rows),
        "sentences": sentences(rows),
        "facts": _facts(rows),
        "rows": [_row(row, bounds, best) for row in rows],
        "repeated": any(len(row.variant.runs) > 1 for row in rows),
        "scale": [f"{100 * bound:.4g} %" for bound in bounds],
        "costed": any(row.variant.gflop for row in rows),
        "matrix": _matrix(rows),
        "panels": [(words, Markup(svg)) for words, svg in plots.panels(rows)],
        "keys": [
            {"name": row.variant.name, "stroke": _stroke(look)}
            for row, look in sorted(
                zip(rows, plots.looks(rows), strict=True),
                key=lambda pair: pair[1],
            )
        ],
        "commands": commands,
        "config": list(tables(config)),
    }
    target = folder / "comparison.html"
    write_bytes(target, render("comparison.html", context))
    return target


def _facts(rows: Sequence[Standing]) -> dict[str, str]:
    """What differed between the variants, and how much was computed."""
    facts = {}
    for option in rows[0].variant.values:
        found = sorted({row.variant.values[option] for row in rows})
        words = ", ".join(found) if len(found) <= FEW else f"{len(found)} values"
        facts[option.replace("_", " ")] = words
    runs = [run for row in rows for run in row.variant.runs]
    facts["runs"] = str(len(runs))
    sizes = sorted({run.images for run in runs})
    facts["validation images"] = " or ".join(map(str, sizes))
    if all(row.minutes is not None for row in rows):
        total = sum((row.minutes or 0) * len(row.variant.runs) for row in rows)
        facts["training in all"] = _duration(total)
    return facts


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} seconds"
    hours = minutes / 60
    return f"{minutes:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"


def _row(row: Standing, bounds: tuple[float, float], best: Standing) -> dict[str, Any]:
    """A line of the table; places on the scale are in percent of its length."""
    low, high = np.clip(row.interval, 0, 1)
    images = None
    if len(row.variant.runs) > 1 and row.images is not None:
        images = {"low": row.images[0], "high": row.images[1]}
        images |= _place(row.images, bounds)
    contest = row.contest
    gflop = row.variant.gflop
    return {
        "name": row.variant.name,
        "reports": [(run.seed, link(run.report)) for run in row.variant.runs],
        "accuracy": row.accuracy,
        "point": _share(row.accuracy, bounds),
        "interval": {"low": low, "high": high, **_place((low, high), bounds)},
        "images": images,
        "behind": best.accuracy - row.accuracy,
        "chance": "" if contest is None else _chance(contest),
        "macro_f1": row.macro_f1,
        "parameters": _parameters(row.variant.parameters),
        "gflop": "–" if gflop is None else _figure(gflop),
        "minutes": "–" if row.minutes is None else _figure(row.minutes),
        "seconds": "–" if row.seconds is None else _figure(row.seconds),
    }


def _chance(contest: Contest) -> str:
    return chance(contest.test.p_value) if contest.test else "not tested"


def _bounds(rows: Sequence[Standing]) -> tuple[float, float]:
    """The ends of the scale: every interval fits, rounded to whole percents."""
    spans = [row.interval for row in rows] + [row.images for row in rows if row.images]
    low, high = np.clip([min(a for a, _ in spans), max(b for _, b in spans)], 0, 1)
    step = 0.05 if high - low > 0.1 else 0.01
    low, high = float(np.floor(low / step) * step), float(np.ceil(high / step) * step)
    return low, min(1.0, max(high, low + step))


def _share(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return 100 * float(np.clip((value - low) / (high - low), 0, 1))


def _place(span: tuple[float, float], bounds: tuple[float, float]) -> dict[str, float]:
    left, right = (_share(value, bounds) for value in span)
    return {"left": left, "width": right - left}


def link(report: str) -> str:
    """The relative address of a run's report, safe for any folder's name."""
    return quote(report)


def _matrix(rows: Sequence[Standing]) -> dict[str, Any] | None:
    """Accuracy by both options, where two vary; better is darker."""
    if len(rows[0].variant.values) != 2:
        return None
    first, second = rows[0].variant.values
    found = {tuple(row.variant.values.values()): row for row in rows}
    # Best first both ways, so that the good corner is the upper left one.
    across = list(dict.fromkeys(pair[1] for pair in found))
    down = list(dict.fromkeys(pair[0] for pair in found))
    low, high = rows[-1].accuracy, rows[0].accuracy
    lines = []
    for value in down:
        cells = []
        for other in across:
            row = found.get((value, other))
            share = 1.0
            if row is not None and high > low:
                share = (row.accuracy - low) / (high - low)
            cells.append(
                {
                    "row": row,
                    "shade": f"right level{1 + round((LEVELS - 1) * share)}",
                    "link": "" if row is None else link(row.variant.runs[0].report),
                }
            )
        lines.append({"name": value, "cells": cells})
    return {"first": first, "second": second, "across": across, "lines": lines}


def _stroke(look: plots.Look) -> dict[str, str]:
    """A short line for the legend, as SVG attributes."""
    _, dashes = plots.DASHES[look.dash]
    return {
        "colour": plots.COLOURS[look.colour],
        "dashes": " ".join(f"{2.2 * length:g}" for length in dashes),
        "mark": MARKS[plots.MARKERS[look.dash]],
    }


def _parameters(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"


def _figure(value: float) -> str:
    """Three digits that tell something."""
    if value < 0.1:
        return f"{value:.3g}"
    return f"{value:,.{sum(value < limit for limit in (1, 10, 100))}f}"
