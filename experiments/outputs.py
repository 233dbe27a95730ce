"""What a classification run leaves behind: predictions, pictures, the report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from converters.bundle import Bundle
from experiments.analyze import full_report
from experiments.predict import softmax
from experiments.run import Reporter
from jaxvision import metrics
from jaxvision.data import Dataset
from jaxvision.report import plots
from jaxvision.report.predictions import write_predictions
from jaxvision.typing import Array


def write_outputs(
    folder: Path,
    *,
    title: str,
    summary: dict[str, str],
    history: list[dict[str, float]],
    dataset: Dataset,
    bundle: Bundle,
    logits: Array,
    kept: str,
    notes: Sequence[str],
    report: Reporter,
) -> dict[str, float]:
    """Writes all of a run folder that follows from its last predictions.

    Args:
      dataset: what was trained on and judged by.
      bundle: the kept epoch's model.
      logits: `(n, classes)`, what it says of the validation images.
      kept: which epoch that is: "best epoch" or "last epoch".
      notes: warnings that a reader must not miss.

    Returns:
      `val_accuracy` and `val_macro_f1` of the kept epoch's model.
    """
    split, classes = dataset.val, dataset.classes
    # As in the table, from which the report can be built anew.
    probabilities = softmax(np.asarray(logits)).astype(np.float32)
    predictions, confidences = probabilities.argmax(1), probabilities.max(1)
    matrix = metrics.confusion_matrix(split.labels, predictions, len(classes))
    pairs = metrics.confused_pairs(matrix, classes, top=8)
    judged = (split.images, split.labels, predictions, confidences, classes)

    write_predictions(
        folder / "predictions.csv", split.paths, split.labels, probabilities, classes
    )
    plots.curves(history, folder / "curves.png")
    plots.confusion(matrix, classes, folder / "confusion.png")
    plots.mistakes(*judged, folder / "mistakes.png", paths=split.paths)
    page, lines = full_report(
        folder,
        title=title,
        summary=summary,
        history=history,
        train=dataset.train,
        val=split,
        classes=classes,
        probabilities=probabilities,
        bundle=bundle,
        notes=notes,
    )
    numbers = {
        "val_accuracy": metrics.accuracy(matrix),
        "val_macro_f1": metrics.macro_f1(matrix),
    }
    report.table(_per_class_table(matrix, classes))
    for pair in pairs[:3]:
        report.say(str(pair))
    for line in lines:
        report.say(line["text"])
    for note in notes:
        report.say(f"WARNING: {note}", style="bold yellow")
    report.say(
        f"{kept}: accuracy {numbers['val_accuracy']:.2%}, macro F1 "
        f"{numbers['val_macro_f1']:.3f}, {len(split)} validation images; see {page}"
    )
    return numbers


def _per_class_table(matrix: np.ndarray, classes: Sequence[str]) -> Table:
    rates = metrics.per_class(matrix)
    table = Table(box=None, header_style="bold")
    table.add_column("class")
    for name in ("precision", "recall", "F1", "images"):
        table.add_column(name, justify="right")
    for index in np.argsort(rates.f1, kind="stable"):
        table.add_row(
            classes[int(index)],
            f"{rates.precision[index]:.3f}",
            f"{rates.recall[index]:.3f}",
            f"{rates.f1[index]:.3f}",
            str(rates.support[index]),
        )
    return table
