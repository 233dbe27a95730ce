"""`predictions.csv`: what a model said of each image, for spreadsheets and scripts."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from experiments.inference.unsure import UNSURE
from experiments.pages.cells import csv_line, unguarded
from jaxvision.evaluation import Evaluation
from jaxvision.files import atomic_path, regular_file
from jaxvision.metrics import IntVector
from jaxvision.multilabel import MultilabelEvaluation
from jaxvision.typing import Array, Float

FIXED_COLUMNS = ("path", "label", "prediction", "confidence")
"""The columns before the probabilities, which are named like their classes."""
LABEL_COLUMNS = ("path", "labels", "predictions")
"""The same where an image has any number of labels."""


class SeveralLabelsError(ValueError):
    """A table is of images with any number of labels."""


Probabilities = Float[np.ndarray, "_ _"] | Float[Array, "_ _"]


def write_predictions(
    path: str | Path,
    paths: Sequence[str],
    probabilities: Probabilities,
    classes: Sequence[str],
    *,
    labels: IntVector | None = None,
    limit: float = 0.0,
) -> None:
    """Writes one line an image: path, label, prediction, confidence, probabilities.

    Label and prediction are written by name; a name that a spreadsheet would compute
    has an apostrophe before it, which `read_predictions` takes away. Probabilities have
    as many digits as a float32 needs to come back to the same bits. Of images whose
    class nobody knows, there are no `labels`, and the table has no such column. Where
    no probability reaches the `limit`, the prediction is `UNSURE`.

    Raises:
      ValueError: the lengths do not fit, or two classes have one name.
    """
    known = labels is not None
    indices = np.asarray(labels if known else np.zeros(len(paths), int))
    given = np.asarray(probabilities)
    table = given.astype(np.float32)
    if table.shape != (len(paths), len(classes)) or indices.shape != (len(paths),):
        raise ValueError(
            f"{len(paths)} paths, labels {indices.shape} and probabilities "
            f"{table.shape} do not fit {len(classes)} classes"
        )
    if len(set(classes)) != len(classes):
        raise ValueError(f"two classes have one name: {', '.join(sorted(classes))}")
    with atomic_path(path) as temporary, _open(temporary, "w") as file:
        fixed = [name for name in FIXED_COLUMNS if known or name != "label"]
        file.write(csv_line((*fixed, *classes)))
        for source, label, exact, row in zip(paths, indices, given, table, strict=True):
            best = int(np.argmax(exact))
            shares = [str(value) for value in row]
            truth = [classes[label]] if known else []
            answer = UNSURE if exact[best] < limit else classes[best]
            cells = (source, *truth, answer, shares[best], *shares)
            file.write(csv_line(cells))


def write_label_predictions(
    path: str | Path,
    paths: Sequence[str],
    probabilities: Probabilities,
    classes: Sequence[str],
    *,
    thresholds: Sequence[float],
    labels: np.ndarray | None = None,
) -> None:
    """Writes one line an image: path, labels, predictions, probabilities.

    As `write_predictions`, of images with any number of labels, which stand in one
    cell as `cat;dog`; predicted are those whose probability reaches the threshold.
    """
    table = np.asarray(probabilities).astype(np.float32)
    said = np.asarray(probabilities) >= np.asarray(thresholds)

    def named(flags: np.ndarray) -> str:
        return ";".join(classes[int(i)] for i in np.nonzero(flags)[0])

    with atomic_path(path) as temporary, _open(temporary, "w") as file:
        fixed = [n for n in LABEL_COLUMNS if labels is not None or n != "labels"]
        file.write(csv_line((*fixed, *classes)))
        for index, (source, row) in enumerate(zip(paths, table, strict=True)):
            truth = [] if labels is None else [named(labels[index])]
            file.write(csv_line((source, *truth, named(said[index]), *map(str, row))))


def read_predictions(path: str | Path) -> Evaluation:
    """Reads what `write_predictions` wrote of images with labels.

    Raises:
      SeveralLabelsError: it is that of `write_label_predictions`.
      ValueError: the file is no such table; the message names the line.
    """
    with _open(path, "r") as file:
        rows = csv.reader(file)
        header = tuple(next(rows, ()))
        classes = tuple(map(unguarded, header[len(FIXED_COLUMNS) :]))
        if header[: len(LABEL_COLUMNS)] == LABEL_COLUMNS:
            raise SeveralLabelsError(
                f"{path} is of photos with several labels, and this is for those with "
                "one class; their report is whole as the run wrote it"
            )
        if header[: len(FIXED_COLUMNS)] != FIXED_COLUMNS or not classes:
            raise ValueError(
                f"{path}: the first line must name the columns "
                f"{', '.join(FIXED_COLUMNS)} and then the classes"
            )
        index = {name: i for i, name in enumerate(classes)}
        paths, labels, numbers = [], [], []
        for row in rows:
            try:
                source, label, prediction, *values = row
                labels.append(index[unguarded(label)])
                index[unguarded(prediction)]
                numbers.append([float(value) for value in values])
                if len(values) != 1 + len(classes):
                    raise ValueError
            except (KeyError, ValueError):
                raise ValueError(
                    f"{path}, line {rows.line_num}: expected a path, two of the "
                    f"{len(classes)} class names and {1 + len(classes)} numbers"
                ) from None
            paths.append(unguarded(source))
    table = np.array(numbers, np.float32).reshape(len(paths), 1 + len(classes))
    return Evaluation(
        paths=tuple(paths),
        labels=np.array(labels, np.int32),
        probabilities=table[:, 1:],
        classes=classes,
    )


def read_label_predictions(
    path: str | Path, *, thresholds: Sequence[float]
) -> MultilabelEvaluation:
    """Reads what `write_label_predictions` wrote of images with labels.

    Args:
      path: the table.
      thresholds: from which probability each label is said; the table has none.

    Raises:
      ValueError: the file is no such table; the message names the line.
    """
    with _open(path, "r") as file:
        rows = csv.reader(file)
        header = tuple(next(rows, ()))
        classes = tuple(map(unguarded, header[len(LABEL_COLUMNS) :]))
        if header[: len(LABEL_COLUMNS)] != LABEL_COLUMNS or not classes:
            raise ValueError(
                f"{path}: the first line must name the columns "
                f"{', '.join(LABEL_COLUMNS)} and then the labels"
            )
        index = {name: i for i, name in enumerate(classes)}
        paths, labels, numbers = [], [], []
        for row in rows:
            try:
                source, truth, _, *values = row
                flags = np.zeros(len(classes), np.uint8)
                for name in filter(None, unguarded(truth).split(";")):
                    flags[index[name]] = 1
                numbers.append([float(value) for value in values])
                if len(values) != len(classes):
                    raise ValueError
            except (KeyError, ValueError):
                raise ValueError(
                    f"{path}, line {rows.line_num}: expected a path, two cells of the "
                    f"{len(classes)} labels' names and {len(classes)} numbers"
                ) from None
            labels.append(flags)
            paths.append(unguarded(source))
    shape = len(paths), len(classes)
    return MultilabelEvaluation(
        paths=tuple(paths),
        labels=np.array(labels, np.uint8).reshape(shape),
        probabilities=np.array(numbers, np.float32).reshape(shape),
        classes=classes,
        thresholds=tuple(thresholds),
    )


def read_judged(path: str | Path) -> list[str]:
    """The paths of the images in either kind of table.

    Raises:
      ValueError: the file is no such table.
    """
    with _open(path, "r") as file:
        rows = csv.reader(file)
        if next(rows, ())[:1] != ["path"]:
            raise ValueError(f"{path}: the first line must name the column path first")
        return [unguarded(row[0]) for row in rows if row]


def _open(path: str | Path, mode: str) -> IO[str]:
    """Opens a table as text, such that any file name survives.

    A file name is bytes; those that are no UTF-8 reach Python as surrogates, and become
    the same bytes again in this way only.
    """
    return open(
        path,
        mode,
        encoding="utf-8",
        errors="surrogateescape",
        newline="",
        opener=regular_file,
    )
