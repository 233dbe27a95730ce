"""The rows of `metrics.csv`, read as curves: one panel a metric, train beside val.

A history is a list of dicts with the column names of `metrics.csv`: `epoch`,
`learning_rate`, and any number of `train_*` and `val_*`. Accuracies are shares in
[0, 1]. A value that is missing, None or empty is a gap in its curve.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

History = Sequence[Mapping[str, Any]]

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lr": "Learning rate"}
"""Metrics that are not spelt like their column."""
UNITS = {"accuracy": "%", "average_precision": "%", "psnr": "dB"}
PARTS = {"train": "training", "val": "validation"}
"""Column prefix -> what a reader calls it."""


def title(metric: str) -> str:
    """The name of a metric as a heading: `Top5 accuracy` for `top5_accuracy`."""
    words = metric.replace("_", " ")
    return NAMES.get(metric, words[:1].upper() + words[1:])


def text(metric: str, value: float) -> str:
    """A value of a metric with its unit: `91.3 %`, `31.25 dB`, `0.312`."""
    if not np.isfinite(value):
        return "–"
    if metric == "learning_rate":
        return f"{value:.3g}"
    unit = next((unit for name, unit in UNITS.items() if metric.endswith(name)), "")
    texts = {"%": f"{100 * value:.1f} %", "dB": f"{value:.2f} dB"}
    return texts.get(unit, f"{value:.3f}")


def values(history: History, column: str) -> np.ndarray:
    """One column as float64, `nan` where a row has no value."""
    cells = (row.get(column) for row in history)
    return np.array([np.nan if x in (None, "") else float(x) for x in cells])


def epochs(history: History) -> np.ndarray:
    """The epochs' numbers; without such a column, 1, 2, ..."""
    numbers = values(history, "epoch")
    return np.where(np.isnan(numbers), np.arange(1, len(numbers) + 1), numbers)


def metrics(history: History) -> list[str]:
    """The metrics that have a `train_` or a `val_` column, loss first."""
    columns = [column for row in history for column in row]
    found = dict.fromkeys(
        column.partition("_")[2]
        for column in columns
        if column.partition("_")[0] in PARTS and column.partition("_")[2]
    )
    return sorted(found, key=lambda metric: not metric.endswith("loss"))


def judged_by(history: History) -> str | None:
    """The metric that picks the best epoch: the first of validation, loss at last."""
    found = [
        m for m in metrics(history) if np.isfinite(values(history, f"val_{m}")).any()
    ]
    return next((m for m in found if not m.endswith("loss")), (found or [None])[0])


def best_row(history: History) -> int | None:
    """The index of the best row: highest metric, lowest loss, the first among equals.

    None where no epoch was validated.
    """
    metric = judged_by(history)
    if metric is None:
        return None
    column = values(history, f"val_{metric}")
    column = np.where(np.isfinite(column), column, np.nan)
    pick = np.nanargmin if metric.endswith("loss") else np.nanargmax
    return int(pick(column))


def describe(history: History, metric: str) -> str:
    """The panel of a metric in words, for those who do not see it."""
    columns = {f"{part}_{metric}": f"{name} " for part, name in PARTS.items()}
    said = []
    for column, name in {**columns, metric: ""}.items():
        y = values(history, column)
        y = y[np.isfinite(y)]
        if len(y):
            said.append(f"{name}from {text(metric, y[0])} to {text(metric, y[-1])}")
    return f"{title(metric)} by epoch: {', '.join(said)}"
