"""The picture of a learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.pages.canvas import INK, LINE, QUIET, TRAIN, save


def lr_curve(
    rows: Sequence[dict[str, float]], suggested: float | None, path: str | Path
) -> None:
    """Draws the loss over the learning rate, and where the suggested one lies.

    Args:
      rows: `learning_rate`, `loss` of that step, and `average` over some steps.
      suggested: a learning rate, or none.
      path: the PNG file.
    """
    rates = [row["learning_rate"] for row in rows]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, [row["loss"] for row in rows], color=LINE, linewidth=1)
    axis.plot(rates, [row["average"] for row in rows], color=TRAIN, linewidth=2)
    if suggested is not None:
        axis.axvline(suggested, color=QUIET, linewidth=1, linestyle="--")
        axis.annotate(
            f"{suggested:.1e}",
            (suggested, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            color=INK,
        )
    axis.set_xscale("log")
    axis.set_title("Loss by learning rate", loc="left", fontsize=11, color=INK)
    axis.set_xlabel("learning rate", color=QUIET)
    axis.set_ylabel("training loss", color=QUIET)
    axis.tick_params(colors=QUIET, labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(LINE)
    save(figure, path, dpi=130)
