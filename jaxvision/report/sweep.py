"""The picture of several runs: their curves over each other, their cost beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from jaxvision.report import history as curves_of
from jaxvision.report.canvas import INK, LINE, QUIET, save, short
from jaxvision.report.history import History


class Line(NamedTuple):
    """One variant: the histories of its runs, one a seed, and its size."""

    name: str
    histories: Sequence[History]
    parameters: int


def comparison(lines: Sequence[Line], path: str | Path) -> None:
    """Draws validation accuracy, validation and training loss, and accuracy by cost.

    Curves are means over a variant's runs, with the range of the runs around them. The
    last panel has the accuracy of the last epoch over the training's minutes, a dot's
    area growing with the number of parameters.

    Raises:
      ValueError: there is no variant, or one without an epoch.
    """
    if not lines or not all(h for line in lines for h in line.histories):
        raise ValueError("there is no epoch of each variant to compare")
    figure = Figure(figsize=(15.5, 4.4), layout="constrained")
    axes = figure.subplots(1, 4)
    colours = [colormaps["tab10"](i % 10) for i in range(len(lines))]
    panels = (
        ("val_accuracy", "Validation accuracy"),
        ("val_loss", "Validation loss"),
        ("train_loss", "Training loss"),
    )
    for axis, (column, title) in zip(axes, panels, strict=False):
        for line, colour in zip(lines, colours, strict=True):
            _curve(axis, line, column, colour)
        _dress(axis, title)
        axis.set_xlabel("epoch", color=QUIET)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _costs(axes[3], lines, colours)
    handles, _ = axes[0].get_legend_handles_labels()
    labels = [f"{short(n)}, {_millions(c)} parameters" for n, _, c in lines]
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(6, len(lines)),
        frameon=False,
    )
    save(figure, path, dpi=130)


def _curve(axis: Axes, line: Line, column: str, colour) -> None:
    runs = [curves_of.values(history, column) for history in line.histories]
    longest = max(map(len, runs))
    table = np.full((len(runs), longest), np.nan)
    for row, values in zip(table, runs, strict=True):
        row[: len(values)] = values
    x = np.arange(1, longest + 1)
    axis.plot(x, np.nanmean(table, 0), color=colour, linewidth=1.8, label=line.name)
    if len(runs) > 1:
        low, high = np.nanmin(table, 0), np.nanmax(table, 0)
        axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _costs(axis: Axes, lines: Sequence[Line], colours) -> None:
    largest = max(line.parameters for line in lines)
    for line, colour in zip(lines, colours, strict=True):
        minutes = np.mean(
            [np.nansum(curves_of.values(h, "seconds")) / 60 for h in line.histories]
        )
        accuracy = np.mean(
            [curves_of.values(h, "val_accuracy")[-1] for h in line.histories]
        )
        area = 30 + 300 * line.parameters / largest
        axis.scatter([minutes], [accuracy], s=area, color=colour, alpha=0.75)
    _dress(axis, "Accuracy by training time")
    axis.set_xlabel("minutes", color=QUIET)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.margins(0.15, 0.15)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _dress(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, color=INK)
    axis.grid(color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=QUIET, labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINE)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"
