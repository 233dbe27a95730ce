"""The pictures of a run, drawn on figures of their own: no pyplot, no global state."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.pages import history as curves_of
from experiments.pages.canvas import (
    BAD,
    INK,
    LINE,
    QUIET,
    RIGHT,
    TRAIN,
    VAL,
    WRONG,
    readable_on,
    save,
    short,
    svg,
)
from experiments.pages.history import History
from experiments.pages.mistakes import Mistake, Photos, worst_mistakes
from jaxvision.evaluation import Evaluation
from jaxvision.metrics import Matrix, check_classes

STYLES = {"train": (TRAIN, "--"), "val": (VAL, "-")}
"""How the curve of each part is drawn: colour and dashes."""
MANY_CLASSES = 40
"""Beyond this many, a confusion matrix shows colours without counts."""
COLUMNS = 6
"""Mistakes a row."""


def curves(history: History, path: str | Path) -> None:
    """Draws each metric over the epochs, train and val, and the learning rate, small.

    Args:
      history: rows with the columns of `metrics.csv`.
      path: the picture to write.

    Raises:
      ValueError: the history is empty.
    """
    save(curves_figure(history), path, dpi=150)


def curves_figure(history: History) -> Figure:
    """What `curves` writes, as a figure."""
    shown = _panels(history)
    widths = [0.6 if metric == "learning_rate" else 1.0 for metric in shown]
    figure = Figure(figsize=(4.6 * sum(widths) + 0.4, 3.4), layout="constrained")
    axes = figure.subplots(1, len(shown), width_ratios=widths, squeeze=False)[0]
    for axis, metric in zip(axes, shown, strict=True):
        _draw_panel(axis, history, metric, legend=metric != "learning_rate")
    return figure


def curve_panels(history: History) -> dict[str, str]:
    """The panels of `curves` one by one: metric -> inline SVG in a page's colours.

    Text stays text, and colours are CSS variables (`VARIABLES`). The legend is left to
    the page.

    Raises:
      ValueError: the history is empty.
    """
    panels = {}
    for metric in _panels(history):
        figure = Figure(figsize=(3.5, 2.5), layout="constrained")
        figure.patch.set_visible(False)
        axis = figure.subplots()
        axis.patch.set_visible(False)
        _draw_panel(axis, history, metric, legend=False)
        panels[metric] = svg(figure, salt=metric)
    return panels


def confusion(matrix: Matrix, classes: Sequence[str], path: str | Path) -> None:
    """Draws a confusion matrix: counts, coloured by their share of the true class.

    Blue is right, orange is wrong; beyond 40 classes the counts are left out.

    Args:
      matrix: counts; rows are true classes, columns predicted ones.
      classes: the class names.
      path: the picture to write.

    Raises:
      ValueError: `classes` does not name each row of the matrix.
    """
    check_classes(matrix, classes)
    number = len(classes)
    support = np.sum(matrix, axis=1)
    shares = matrix / np.maximum(support, 1)[:, None]
    diagonal = np.eye(number, dtype=bool)
    colours = np.where(diagonal[..., None], RIGHT(shares), WRONG(shares))
    colours[np.asarray(matrix) == 0] = 1.0
    side = float(np.clip(0.55 * number, 3.2, 13.0))
    font = float(np.clip(72 * side / number * 0.34, 4.0, 12.0))

    figure = Figure(figsize=(side + 1.9, side + 1.7), layout="constrained")
    axis = figure.subplots()
    axis.imshow(colours[..., :3], interpolation="nearest")
    ticks = np.arange(number)
    rows = [f"{short(name)}  ({n})" for name, n in zip(classes, support, strict=True)]
    axis.set_xticks(ticks, [short(name) for name in classes])
    axis.set_yticks(ticks, rows)
    axis.tick_params(length=0, labelsize=min(font, 10), labelcolor=INK)
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)
    for label in axis.get_xticklabels() if number > 3 else ():
        label.set(rotation=45, ha="right", rotation_mode="anchor")
    axis.set_xticks(ticks[1:] - 0.5, minor=True)
    axis.set_yticks(ticks[1:] - 0.5, minor=True)
    axis.grid(which="minor", color="white" if number > 60 else LINE, linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_color(LINE)
    axis.set_title(
        "blue: right, orange: wrong; darker: a larger share of the true class",
        loc="left",
        color=QUIET,
        fontsize=8,
    )
    axis.set_xlabel("predicted", color=QUIET)
    axis.set_ylabel("true class (images)", color=QUIET)
    if number <= MANY_CLASSES:
        for row, column in np.argwhere(matrix > 0):
            axis.text(
                column,
                row,
                str(matrix[row, column]),
                ha="center",
                va="center_baseline",
                fontsize=font,
                color=readable_on(colours[row, column]),
                fontweight="bold" if row == column else "normal",
            )
    save(figure, path, dpi=140)


def mistakes(images: Photos, evaluation: Evaluation, path: str | Path) -> None:
    """Draws up to 24 mistakes, the surest first, or says that there are none.

    Args:
      images: all images, as the model saw them before normalisation.
      evaluation: what it said of them.
      path: the picture to write; under each photo stands the name of its file.
    """
    worst = worst_mistakes(images, evaluation)
    if not worst:
        save(_all_right(len(images)), path, dpi=120)
        return
    wrong = int(np.sum(evaluation.labels != evaluation.predictions))
    which = f"All {wrong}" if wrong == len(worst) else f"{len(worst)} of {wrong}"
    heading = f"{which} mistakes in {len(images)} images, the surest first"
    save(_photo_grid(worst, heading), path, dpi=110)


def _panels(history: History) -> list[str]:
    """The metrics that have a panel; the learning rate last."""
    if not history:
        raise ValueError("no epoch has ended yet, so there are no curves to draw")
    rate = ["learning_rate"] if any("learning_rate" in row for row in history) else []
    return curves_of.metrics(history) + rate


def _draw_panel(axis: Axes, history: History, metric: str, *, legend: bool) -> None:
    """One metric over the epochs, the best epoch marked."""
    x = curves_of.epochs(history)
    marker = "o" if len(x) <= 30 else ""
    if metric == "learning_rate":
        series = {metric: ("", QUIET, "-")}
    else:
        series = {
            f"{part}_{metric}": (name, *STYLES[part])
            for part, name in curves_of.PARTS.items()
        }
    for column, (name, colour, dashes) in series.items():
        y = curves_of.values(history, column)
        if np.isfinite(y).any():
            axis.plot(
                x,
                y,
                dashes,
                color=colour,
                label=name,
                marker=marker,
                markersize=4,
                linewidth=1.8,
            )
    _mark_best(axis, history, metric)
    _dress(axis, x, metric)
    if legend and axis.get_legend_handles_labels()[0]:
        _draw_legend(axis)


def _mark_best(axis: Axes, history: History, metric: str) -> None:
    """A line at the best epoch, a ring and the value where it was judged."""
    best = curves_of.best_row(history)
    if best is None or metric == "learning_rate":
        return
    epoch = curves_of.epochs(history)[best]
    y = curves_of.values(history, f"val_{metric}")[best]
    axis.axvline(epoch, color=QUIET, linewidth=0.8, linestyle=":", zorder=0)
    if np.isfinite(y):
        judged = metric == curves_of.judged_by(history)
        label = f"best: {curves_of.text(metric, y)}" if judged else None
        axis.plot(
            [epoch],
            [y],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=VAL,
            markeredgewidth=1.6,
            label=label,
        )


def _dress(axis: Axes, x: np.ndarray, metric: str) -> None:
    """Title, ticks and limits."""
    axis.set_title(
        curves_of.title(metric), loc="left", color=INK, fontsize=11, fontweight="bold"
    )
    axis.set_xlabel("epoch", color=QUIET, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINE)
    axis.grid(axis="y", color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(color=LINE, labelcolor=QUIET, labelsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    # Of values that hardly differ, a tight axis would make a mountain.
    low, high = axis.get_ylim()
    middle, span = (low + high) / 2, max(high - low, 0.2 * abs(low + high) / 2)
    axis.set_ylim(middle - span / 2, middle + span / 2)
    if len(x) == 1:
        axis.set_xlim(x[0] - 0.5, x[0] + 0.5)
        axis.set_xticks([x[0]])
    if metric.endswith("accuracy"):
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g} %"))
    elif metric == "learning_rate":
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))


def _draw_legend(axis: Axes) -> None:
    """A legend above the panel, where it hides no curve."""
    axis.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.0,
        borderaxespad=0.2,
    )


def _photo_grid(worst: Sequence[Mistake], heading: str) -> Figure:
    """The photos in rows of six, laid out in inches, so that none moves for a text."""
    tile, gap, under, top = 2.0, 0.16, 0.62, 0.5
    across = max(2, min(COLUMNS, len(worst)))
    down = -(-len(worst) // across)
    width = across * (tile + gap) + gap
    height = top + down * (tile + under)
    figure = Figure(figsize=(width, height))
    figure.text(
        gap / width, 1 - 0.2 / height, heading, color=INK, fontsize=11, va="top"
    )
    for place, mistake in enumerate(worst):
        row, column = divmod(place, across)
        left = gap + column * (tile + gap)
        bottom = height - top - row * (tile + under) - tile
        axis = figure.add_axes(
            (left / width, bottom / height, tile / width, tile / height)
        )
        axis.set_axis_off()
        _draw_mistake(axis, mistake)
    return figure


def _draw_mistake(axis: Axes, mistake: Mistake) -> None:
    """One photo, and under it what it is, what it was taken for, how surely."""
    axis.imshow(mistake.image, interpolation="antialiased")
    prediction = short(mistake.prediction, longest=17)
    taken = f"taken for {prediction}, {mistake.confidence:.0%}"
    lines = [
        (short(mistake.label), INK, "bold", 8.5),
        (taken, BAD, "normal", 7.5),
        (short(Path(mistake.path).name, longest=34), QUIET, "normal", 6),
    ]
    for row, (words, colour, weight, size) in enumerate(lines):
        axis.annotate(
            words,
            (0.0, 0.0),
            xycoords="axes fraction",
            xytext=(0, -4 - 12 * row),
            textcoords="offset points",
            va="top",
            color=colour,
            fontsize=size,
            fontweight=weight,
            parse_math=False,
        )


def _all_right(number: int) -> Figure:
    """What is shown where there is no mistake to show."""
    figure = Figure(figsize=(6.0, 1.6))
    lines = [
        (0.62, "No mistakes", VAL, 18),
        (0.3, f"Each of the {number} images was given its own class.", QUIET, 11),
    ]
    for y, words, colour, size in lines:
        figure.text(
            0.5, y, words, color=colour, fontsize=size, ha="center", va="center"
        )
    return figure
