"""The pictures of several runs: their curves over each other, accuracy by cost."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.pages import history as curves_of
from experiments.pages.canvas import INK, LINE, QUIET, save, short, svg
from experiments.pages.standings import Standing

COLOURS = (
    "#2f7fd1",
    "#d4732a",
    "#2c9c62",
    "#a45fc9",
    "#d1495b",
    "#14a0b5",
    "#a67c2d",
    "#d160a8",
    "#7f8894",
    "#6f8f1f",
)
"""Each with a contrast of 3 at least on white and on the dark page."""
DASHES: tuple = ((0, ()), (0, (4.5, 2)), (0, (1.3, 1.5)), (0, (6, 1.6, 1.3, 1.6)))
MARKERS = "o^sD"
"""One a dash: the dots of the two cost panels."""


class Look(NamedTuple):
    """How a variant is drawn: indices into `COLOURS` and `DASHES`."""

    colour: int
    dash: int


def looks(rows: Sequence[Standing]) -> list[Look]:
    """One look a variant, no two alike up to 40.

    Where two options vary, the first one's value has a colour and the second one's a
    dash, if there are enough of both; else the colours are gone through, then dashes.
    """
    values = [tuple(row.variant.values.values()) for row in rows]
    if values and all(len(pair) == 2 for pair in values):
        first, second = (sorted({pair[i] for pair in values}) for i in (0, 1))
        if len(first) <= len(COLOURS) and len(second) <= len(DASHES):
            return [Look(first.index(a), second.index(b)) for a, b in values]
    numbers = range(len(rows))
    return [Look(i % len(COLOURS), i // len(COLOURS) % len(DASHES)) for i in numbers]


def draw_comparison(rows: Sequence[Standing], path: str | Path) -> None:
    """Draws accuracy and losses by epoch, accuracy by minutes and GFLOP, the names.

    Curves are means over a variant's runs, with the range of the runs around them.

    Raises:
      ValueError: there is no epoch of any variant.
    """
    drawn = _panels(rows)
    if not drawn:
        raise ValueError("there is no epoch of any variant to compare")
    figure = Figure(figsize=(13.5, 7.6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, draw in zip(axes, drawn.values(), strict=False):
        axis.set_axis_on()
        draw(axis)
    handles = [_handle(look) for look in looks(rows)]
    names = [f"{short(r.variant.name, longest=40)}, {_size(r)}" for r in rows]
    legend = axes[-1].legend(
        handles,
        names,
        loc="upper left",
        frameon=False,
        fontsize=float(np.clip(160 / len(rows), 4, 10)),
        labelcolor=INK,
        handlelength=3,
    )
    legend.set_in_layout(False)  # however long, it takes no room from the panels
    for text in legend.get_texts():
        text.set_parse_math(False)
    save(figure, path, dpi=130)


def panels(rows: Sequence[Standing]) -> list[tuple[str, str]]:
    """The panels of `draw_comparison` one by one: (what it shows, inline SVG)."""
    found = []
    for title, draw in _panels(rows).items():
        figure = Figure(figsize=(3.6, 2.7), layout="constrained")
        figure.patch.set_visible(False)
        axis = figure.subplots()
        axis.patch.set_visible(False)
        draw(axis)
        found.append((title, svg(figure, salt=title)))
    return found


def _panels(rows: Sequence[Standing]) -> dict[str, Callable[[Axes], None]]:
    """Title -> what draws it, of the panels that have something to show."""
    if not any(run.history for row in rows for run in row.variant.runs):
        return {}
    drawn: dict[str, Callable[[Axes], None]] = {
        title: partial(_curves, rows=rows, column=column, title=title)
        for column, title in (
            ("val_accuracy", "Validation accuracy by epoch"),
            ("val_loss", "Validation loss by epoch"),
            ("train_loss", "Training loss by epoch"),
        )
    }
    costs = {
        "minutes of training": [row.minutes for row in rows],
        "GFLOP an image": [row.variant.gflop for row in rows],
    }
    for label, values in costs.items():
        if any(value is not None for value in values):
            title = f"Accuracy by {label}"
            drawn[title] = partial(_costs, rows=rows, values=values, label=label)
    return drawn


def _curves(axis: Axes, *, rows: Sequence[Standing], column: str, title: str) -> None:
    longest = 1
    for row, look in zip(rows, looks(rows), strict=True):
        runs = [curves_of.values(run.history, column) for run in row.variant.runs]
        table = np.full((len(runs), max(map(len, runs))), np.nan)
        for line, values in zip(table, runs, strict=True):
            line[: len(values)] = values
        seen = np.isfinite(table).any(axis=0)
        if not seen.any():
            continue
        x, table = 1 + np.flatnonzero(seen), table[:, seen]
        longest = max(longest, int(x[-1]))
        style = {"color": COLOURS[look.colour], "linestyle": DASHES[look.dash]}
        marker = MARKERS[look.dash] if len(x) == 1 else ""
        mean = np.nanmean(table, axis=0)
        axis.plot(x, mean, marker=marker, linewidth=1.8, **style)
        if len(runs) > 1:
            low, high = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
            axis.fill_between(
                x, low, high, color=COLOURS[look.colour], alpha=0.18, linewidth=0
            )
    _dress(axis, title, "epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    if longest == 1:
        axis.set_xlim(0.5, 1.5)
        axis.set_xticks([1])
    if column.endswith("accuracy"):
        _percents(axis)


def _costs(
    axis: Axes, *, rows: Sequence[Standing], values: Sequence[float | None], label: str
) -> None:
    """A dot a variant, with its interval; the area grows with the parameters."""
    known = [value for value in values if value]
    largest = max(row.variant.parameters for row in rows)
    for row, x, look in zip(rows, values, looks(rows), strict=True):
        if not x:
            continue
        colour = COLOURS[look.colour]
        low, high = np.clip(row.interval, 0, 1)
        axis.vlines([x], [low], [high], color=colour, linewidth=1.2, alpha=0.7)
        area = 24 + 150 * row.variant.parameters / max(largest, 1)
        axis.scatter(
            [x],
            [row.accuracy],
            s=area,
            color=colour,
            marker=MARKERS[look.dash],
            alpha=0.85,
            linewidth=0,
            zorder=3,
        )
    _dress(axis, f"Accuracy by {label}", label)
    # Costs that lie close need no powers of ten.
    if known and max(known) > 4 * min(known):
        axis.set_xscale("log")
        axis.margins(0.12, 0.1)
        axis.set_xticks(_log_ticks(*axis.get_xlim()))
        axis.set_xticks([], minor=True)
    axis.margins(0.12, 0.1)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    _percents(axis)


def _log_ticks(low: float, high: float) -> np.ndarray:
    """Round values of a logarithmic axis: 1 of each decade, or 1 and 3, or 1, 2, 5."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = np.outer(decades, steps).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) >= 4:
            break
    return ticks


def _dress(axis: Axes, title: str, label: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axis.set_xlabel(label, color=QUIET, fontsize=9)
    axis.grid(color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(color=LINE, labelcolor=QUIET, labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINE)


def _percents(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g} %"))


def _handle(look: Look) -> Line2D:
    return Line2D(
        [],
        [],
        color=COLOURS[look.colour],
        linestyle=DASHES[look.dash],
        marker=MARKERS[look.dash],
        markersize=5,
    )


def _size(row: Standing) -> str:
    count = row.variant.parameters
    text = f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"
    return f"{text} parameters"
