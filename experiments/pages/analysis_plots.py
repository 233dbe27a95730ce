"""The pictures of the analysis: how sure and how right, and the gap to training."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from experiments.pages import history as curves_of
from experiments.pages.canvas import INK, LINE, QUIET, TRAIN, VAL, svg
from experiments.pages.history import History
from jaxvision.analysis import Calibration
from jaxvision.metrics import wilson_interval

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g} %")


def reliability(found: Calibration) -> str:
    """How often the model is right where it is so sure, with 95 % Wilson intervals."""
    figure, axis = _panel("Right, by how sure")
    (filled,) = np.nonzero(found.count)
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    width = found.edges[1] - found.edges[0]
    share = found.accuracy[filled]
    right = np.round(share * found.count[filled]).astype(int).tolist()
    bounds = np.array(
        [
            wilson_interval(hits, total)
            for hits, total in zip(right, found.count[filled].tolist(), strict=True)
        ]
    )
    axis.bar(middles[filled], share, 0.86 * width, color=VAL, alpha=0.45)
    axis.vlines(middles[filled], bounds[:, 0], bounds[:, 1], color=VAL, linewidth=1.4)
    axis.plot(found.confidence[filled], share, "o", color=VAL, markersize=4)
    axis.plot([0, 1], [0, 1], "--", color=TRAIN, linewidth=1.4)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("how sure the model is", color=QUIET, fontsize=9)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PERCENT)
    return svg(figure, salt="reliability")


def certainties(found: Calibration) -> str:
    """How many images the model is so sure of."""
    figure, axis = _panel("Images, by how sure")
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    width = found.edges[1] - found.edges[0]
    axis.bar(middles, found.count, 0.86 * width, color=VAL, alpha=0.45)
    axis.set_xlim(0, 1)
    axis.set_xlabel("how sure the model is", color=QUIET, fontsize=9)
    axis.xaxis.set_major_formatter(PERCENT)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return svg(figure, salt="certainties")


def gap(history: History, overfitted: int | None) -> str:
    """Validation loss less training loss by epoch; where overfitting starts, a line."""
    figure, axis = _panel("Gap of the losses")
    epochs = curves_of.epochs(history)
    values = _gap(history)
    marker = "o" if len(epochs) <= 30 else ""
    axis.axhline(0, color=LINE, linewidth=1)
    axis.plot(epochs, values, color=INK, marker=marker, markersize=4, linewidth=1.8)
    axis.set_xlabel("epoch", color=QUIET, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    if overfitted is not None:
        axis.axvline(epochs[overfitted], color=TRAIN, linewidth=1.4, linestyle="--")
        axis.annotate(
            "overfitting",
            (epochs[overfitted], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2),
            textcoords="offset points",
            va="top",
            color=QUIET,
            fontsize=8,
        )
    return svg(figure, salt="gap")


def describe_gap(history: History) -> str:
    """The panel of the gap in words."""
    values = _gap(history)
    values = values[np.isfinite(values)]
    return (
        "Validation loss less training loss by epoch: "
        f"from {values[0]:.3f} to {values[-1]:.3f}"
    )


def has_gap(history: History) -> bool:
    """Whether two epochs have both losses, so that there is something to draw."""
    return int(np.isfinite(_gap(history)).sum()) >= 2


def _gap(history: History) -> np.ndarray:
    return curves_of.values(history, "val_loss") - curves_of.values(
        history, "train_loss"
    )


def _panel(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.5, 2.5), layout="constrained")
    figure.patch.set_visible(False)
    axis = figure.subplots()
    axis.patch.set_visible(False)
    axis.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINE)
    axis.grid(axis="y", color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(color=LINE, labelcolor=QUIET, labelsize=9)
    return figure, axis
