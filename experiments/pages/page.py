"""`report.html`: one file that tells a person how well a model does and where it fails.

The page needs nothing but itself: pictures are inside it, there is no script, and its
content security policy forbids every request. Curves and tables are drawn by the page,
so that they follow its colours, its width and a screen reader.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from converters.bundle import read_labels
from converters.to_torch import torch_call
from experiments.pages import analysis_page, plots
from experiments.pages import history as curves_of
from experiments.pages.findings import Findings
from experiments.pages.history import History
from experiments.pages.photos import data_uri
from experiments.pages.render import render, resource, tables
from jaxvision import analysis, metrics
from jaxvision.evaluation import Evaluation
from jaxvision.files import write_bytes
from jaxvision.metrics import ConfusedPair
from jaxvision.text import shell_word

LARGEST_MATRIX = 60
"""Beyond this many classes the page has the confused pairs alone, not the matrix."""
PAIRS = 8
"""Most pairs of confused classes that are listed."""
LEVELS = 10
"""Shades of a matrix cell; page.css has a colour for each."""
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}


class About(NamedTuple):
    """What a page tells of a run, whatever was trained.

    Attributes:
      title: what was trained on what, such as `wide_resnet50_2 on nine_classes`.
      summary: the facts to know first, name -> value.
      config: options and versions; a mapping inside becomes a table of its own.
      history: rows with the columns of `metrics.csv`; may be empty.
      notes: warnings that a reader must not miss.
    """

    title: str
    summary: Mapping[str, str]
    config: Mapping[str, Any]
    history: History = ()
    notes: Sequence[str] = ()


def write_report(
    folder: str | Path,
    about: About,
    *,
    evaluation: Evaluation | None = None,
    findings: Findings | None = None,
    labels: Mapping[str, Any] | None = None,
    pictures: Mapping[str, str | Path] | None = None,
    commands: Mapping[str, str] | None = None,
) -> Path:
    """Writes `folder/report.html`.

    A section without data is left out; what is left describes any experiment that has
    a history. Whatever a user can name (classes, paths, options) is escaped.

    Args:
      folder: the run's folder; the commands on the page name it as it is given here.
      about: what there is to say of any run.
      evaluation: of the validation images, and with it the headline.
      findings: what `findings.gather` gave of it: further sections.
      labels: what `multilabel_page.describe` gave, in place of these two.
      pictures: further pictures, caption -> file; relative paths start in `folder`.
      commands: what to do with the model, sentence -> command; without it, how to
        bring it to PyTorch.

    Returns:
      The path of the page.

    Raises:
      ValueError: a picture's type is unknown.
    """
    folder, history = Path(folder), about.history
    classes = evaluation.classes if evaluation else ()
    context = {
        "title": about.title,
        "style": Markup(resource("page.css")),
        "notes": about.notes,
        "headline": _headline(history),
        "summary": about.summary,
        "panels": _panels(history),
        "history": _history_table(history),
        "pairs": evaluation.pairs[:PAIRS] if evaluation else (),
        "findings": None
        if findings is None
        else analysis_page.describe(findings, history, classes),
        "labels": labels,
        "pictures": [
            (caption, _embed(folder / path))
            for caption, path in (pictures or {}).items()
        ],
        "commands": commands or model_commands(folder),
        "config": list(tables(about.config)),
        "run": folder.name,
    }
    if evaluation is not None:
        context |= _evaluation(evaluation)
    if labels is not None:
        context["headline"] = {
            "value": f"{100 * labels['map']:.1f} %",
            "what": f"mean average precision over {len(labels['scored'])} labels, of "
            f"{labels['total']} validation images",
        }
    target = folder / "report.html"
    write_bytes(target, render("page.html", context))
    return target


def model_commands(folder: str | Path) -> dict[str, str]:
    """How a run's model is used from PyTorch: sentence -> command.

    Without a model in the folder, or one that torchvision has, there is less to say.
    """
    weights = Path(folder) / "model.safetensors"
    commands = {
        "Write the model as a PyTorch checkpoint, with torchvision's names": (
            f"python -m converters export {shell_word(folder)} --to model.pth"
        )
    }
    name, classes = read_labels(weights) if weights.is_file() else ("", ())
    call = name and torch_call(name, num_classes=len(classes))
    if call:
        commands["Or load the weights into the same network of torchvision's"] = (
            "import torchvision\n"
            "from safetensors.torch import load_file\n"
            f"model = {call}\n"
            f"model.load_state_dict(load_file({str(weights)!r}), strict=True)"
        )
    return commands


def _headline(history: History) -> dict[str, Any]:
    """The best validation figure, for a page without a confusion matrix."""
    best, metric = curves_of.best_row(history), curves_of.judged_by(history)
    if best is None or metric is None:
        return {"value": "–", "what": "nothing was validated yet"}
    value = curves_of.values(history, f"val_{metric}")[best]
    epoch = curves_of.epochs(history)[best]
    return {
        "value": curves_of.text(metric, value),
        "what": f"best validation {metric.replace('_', ' ')}, in epoch {epoch:g}",
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Everything the page says about the predictions."""
    matrix, classes = evaluation.matrix, evaluation.classes
    rates = metrics.per_class(matrix)
    total, right = int(matrix.sum()), int(np.trace(matrix))
    low, high = metrics.wilson_interval(right, total)
    drawn = analysis.bootstrap(matrix)
    hits = np.diagonal(matrix).tolist()
    # A class without images has no score of its own, and is neither best nor worst.
    rows = [
        {
            "name": classes[i],
            "precision": rates.precision[i] if rates.predicted[i] else None,
            "recall": rates.recall[i] if rates.support[i] else None,
            "f1": rates.f1[i] if rates.support[i] else None,
            "precision_range": _range(hits[i], int(rates.predicted[i])),
            "recall_range": _range(hits[i], int(rates.support[i])),
            "f1_range": drawn.f1[i] if rates.support[i] else None,
            "support": int(rates.support[i]),
        }
        for i in np.argsort(-np.where(rates.support > 0, rates.f1, -1), kind="stable")
    ]
    scored = [row for row in rows if row["f1"] is not None]
    return {
        "headline": {
            "value": f"{100 * evaluation.accuracy:.1f} %",
            "what": f"of {total} validation images classified correctly",
            "right": right,
            "total": total,
            "low": low,
            "high": high,
            "accuracy": right / total,
            "macro_f1": evaluation.macro_f1,
            "f1_range": drawn.macro_f1,
            "largest": classes[int(np.argmax(rates.support))],
            "guess": int(rates.support.max()) / total,
            "best": scored[0] if len(scored) > 1 else None,
            "worst": scored[-1],
        },
        "rows": rows,
        "classes": classes,
        "cells": _cells(matrix, classes) if len(classes) <= LARGEST_MATRIX else None,
    }


def _range(count: int, total: int) -> tuple[float, float] | None:
    """The 95 % interval of a share; a share of nothing has none."""
    return metrics.wilson_interval(count, total) if total else None


def _cells(matrix: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the matrix: each count with its shade and what it says in words."""
    support = matrix.sum(axis=1)
    levels = np.ceil(LEVELS * matrix / np.maximum(support, 1)[:, None]).astype(int)
    table = []
    for i, label in enumerate(classes):
        cells = []
        for j, prediction in enumerate(classes):
            pair = ConfusedPair(label, prediction, int(matrix[i, j]), int(support[i]))
            kind = "right" if i == j else "wrong"
            cells.append(
                {
                    "count": pair.count,
                    "shade": f"{kind} level{levels[i, j]}",
                    "words": f"{label} recognised: {pair.count} of {pair.support}"
                    if i == j
                    else str(pair),
                }
            )
        table.append({"name": label, "support": int(support[i]), "cells": cells})
    return table


def _panels(history: History) -> list[dict[str, Any]]:
    """The curves, each with its description."""
    if not history:
        return []
    return [
        {"svg": Markup(svg), "words": curves_of.describe(history, metric)}
        for metric, svg in plots.curve_panels(history).items()
    ]


def _history_table(history: History) -> dict[str, Any]:
    """The curves in figures: column names, and a row of texts for each epoch."""
    best, judge = curves_of.best_row(history), curves_of.judged_by(history) or ""
    columns = [
        f"{part}_{metric}"
        for metric in curves_of.metrics(history)
        for part in curves_of.PARTS
        if any(f"{part}_{metric}" in row for row in history)
    ]
    shown = {column: curves_of.values(history, column) for column in columns}
    epochs = curves_of.epochs(history)
    return {
        "columns": [column.replace("_", " ") for column in columns],
        "rows": [
            {
                "epoch": f"{epoch:g}",
                "best": i == best,
                "values": [
                    curves_of.text(column.partition("_")[2], shown[column][i])
                    for column in columns
                ],
            }
            for i, epoch in enumerate(epochs)
        ],
        "best": None if best is None else f"{epochs[best]:g}",
        "judged_by": judge.replace("_", " "),
        "value": ""
        if best is None
        else curves_of.text(judge, curves_of.values(history, f"val_{judge}")[best]),
    }


def _embed(path: Path) -> str:
    """A picture file as a data URI."""
    kind = MEDIA_TYPES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: a report can hold {', '.join(MEDIA_TYPES)}, not {path.suffix!r}"
        )
    return data_uri(kind, path.read_bytes())
