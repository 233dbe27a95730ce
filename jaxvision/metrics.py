"""What a classifier got right and wrong, counted on the host from its predictions.

Everything but the counting itself is a function of the confusion matrix: an integer
array `(classes, classes)` whose row is the true class and whose column the predicted.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvision.typing import AnyArray, Float, Int

# The length is checked where it matters, with a message of its own.
IntVector = Int[AnyArray, "_"]
Matrix = Int[np.ndarray, "classes classes"]
Rates = Float[np.ndarray, "classes"]
Counts = Int[np.ndarray, "classes"]

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: 95 % lie between it and its negative."""


class PerClass(NamedTuple):
    """One value a class.

    Attributes:
      precision: of the images given this class, the share that belongs to it.
      recall: of the images that belong to this class, the share given it.
      f1: their harmonic mean.
      support: how many images belong to the class.
      predicted: how many images were given the class.
    """

    precision: Rates
    recall: Rates
    f1: Rates
    support: Counts
    predicted: Counts


class ConfusedPair(NamedTuple):
    """How often one class was taken for another, of all images of the class."""

    label: str
    prediction: str
    count: int
    support: int

    def __str__(self) -> str:
        return (
            f"{self.label} taken for {self.prediction}: {self.count} of {self.support}"
        )


def confusion_matrix(
    labels: IntVector, predictions: IntVector, num_classes: int
) -> Matrix:
    """Counts of images, by true class (row) and predicted class (column).

    Args:
      labels: the true classes, indices in `[0, num_classes)`, one an image.
      predictions: the predicted classes, likewise.
      num_classes: the size of the matrix; classes without an image keep their row.

    Raises:
      ValueError: the two differ in length, or an index is no class.
    """
    rows, columns = np.asarray(labels), np.asarray(predictions)
    if rows.shape != columns.shape or rows.ndim != 1:
        raise ValueError(
            f"labels {rows.shape} and predictions {columns.shape} must be two vectors "
            "of one length"
        )
    for name, values in (("label", rows), ("prediction", columns)):
        outside = values[(values < 0) | (values >= num_classes)]
        if outside.size:
            raise ValueError(
                f"{name} {outside[0]} is no class: {num_classes} classes are numbered "
                f"0 to {num_classes - 1}"
            )
    cells = rows.astype(np.int64) * num_classes + columns.astype(np.int64)
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def accuracy(matrix: Matrix) -> float:
    """The share of images whose class was predicted, in [0, 1].

    Raises:
      ValueError: the matrix counts no image.
    """
    total = int(np.sum(matrix))
    if total == 0:
        raise ValueError("no image was evaluated, so there is no accuracy")
    return float(np.trace(matrix) / total)


def per_class(matrix: Matrix) -> PerClass:
    """Precision, recall and F1 of each class, and what they are shares of.

    A share of nothing is 0: the precision of a class that was never predicted, the
    recall of a class without images, the F1 of a class with neither. `predicted` and
    `support` tell such a 0 from one that was earned. Agrees with scikit-learn's
    `precision_recall_fscore_support(zero_division=0)`.
    """
    right = np.diagonal(matrix)
    support, predicted = np.sum(matrix, axis=1), np.sum(matrix, axis=0)
    return class_rates(right, support, predicted)


def class_rates(right: Counts, support: Counts, predicted: Counts) -> PerClass:
    """`per_class` of what it counts, `(classes,)` each: right ones, true ones, said."""
    return PerClass(
        precision=_share(right, predicted),
        recall=_share(right, support),
        f1=_share(2 * right, support + predicted),
        support=support,
        predicted=predicted,
    )


def macro_f1(matrix: Matrix) -> float:
    """The mean F1 over the classes, each counting the same however rare, in [0, 1].

    A class that neither occurs nor is predicted is left out, as in scikit-learn's
    `f1_score(average="macro")`.

    Raises:
      ValueError: the matrix counts no image.
    """
    rates = per_class(matrix)
    seen = (rates.support > 0) | (rates.predicted > 0)
    if not np.any(seen):
        raise ValueError("no image was evaluated, so there is no F1")
    return float(np.mean(rates.f1[seen]))


def confused_pairs(
    matrix: Matrix, classes: Sequence[str], *, top: int | None = None
) -> list[ConfusedPair]:
    """The `top` most frequent mistakes, or all, most frequent first.

    Mistakes of equal count are ordered by their share of the true class, then by the
    order of the classes. Fewer come back where there were fewer kinds of mistake.

    Raises:
      ValueError: `classes` does not name each row of the matrix.
    """
    check_classes(matrix, classes)
    support = np.sum(matrix, axis=1)
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    mistakes = [(int(row), int(column)) for row, column in np.argwhere(wrong > 0)]
    mistakes.sort(key=lambda cell: (-wrong[cell], support[cell[0]], cell))
    return [
        ConfusedPair(
            classes[row], classes[column], int(wrong[row, column]), int(support[row])
        )
        for row, column in mistakes[:top]
    ]


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of the proportion `count / total`, within [0, 1].

    It holds for few images and near 0 and 1, where the usual `p +- 1.96 s` does not;
    without any image it is the whole of [0, 1].

    Reference: Wilson, Probable inference, the law of succession, and statistical
    inference, JASA 22 (1927).
    """
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total} is no proportion")
    if total == 0:
        return 0.0, 1.0
    share, z2 = count / total, Z_95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = (Z_95 / (1 + z2 / total)) * np.sqrt(
        share * (1 - share) / total + z2 / (4 * total**2)
    )
    # The bounds are exactly 0 and 1 at the ends; rounding would miss them by 1e-17.
    low = 0.0 if count == 0 else float(centre - half)
    high = 1.0 if count == total else float(centre + half)
    return low, high


def check_classes(matrix: Matrix, classes: Sequence[str]) -> None:
    """Raises ValueError unless `matrix` is square and `classes` names each row."""
    if np.ndim(matrix) != 2 or np.shape(matrix) != (len(classes), len(classes)):
        raise ValueError(
            f"a confusion matrix of shape {np.shape(matrix)} does not fit "
            f"{len(classes)} class names"
        )


def _share(part: np.ndarray, whole: np.ndarray) -> Any:
    """`part / whole`, and 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
