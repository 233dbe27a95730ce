"""Answers about photographs with any number of labels each, counted on the host.

Labels are `(n, classes)` of 0 and 1, probabilities `(n, classes)`, each of its own: a
label is said of a photograph whose probability reaches the label's threshold.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxvision.metrics import PerClass, class_rates
from jaxvision.typing import AnyArray, Float, Int

Flags = Int[AnyArray, "n classes"] | AnyArray
Table = Float[AnyArray, "n classes"]
EVEN = 0.5
"""The threshold of a label of which held-out photographs tell nothing."""


@dataclass(frozen=True, eq=False)
class MultilabelEvaluation:
    """A model's answers for photographs of known labels, and what follows from them.

    Attributes:
      paths: where each photograph came from.
      labels: uint8 `(n, classes)`, 1 where a label holds.
      probabilities: float32 `(n, classes)`.
      classes: the labels' names, in the model's order.
      thresholds: the probability from which each label is said.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def said(self) -> np.ndarray:
        """Which labels are said, bool `(n, classes)`."""
        return self.probabilities >= np.asarray(self.thresholds)

    @cached_property
    def rates(self) -> PerClass:
        """Precision, recall and F1 of each label; see `label_rates`."""
        return label_rates(self.labels, self.said)

    @cached_property
    def average_precisions(self) -> np.ndarray:
        """One a label; see `average_precision`."""
        return average_precisions(self.labels, self.probabilities)

    @cached_property
    def mean_average_precision(self) -> float:
        """See `mean_average_precision`."""
        return mean_average_precision(self.labels, self.probabilities)

    @cached_property
    def macro_f1(self) -> float:
        """The mean F1 of the labels that some photograph has, in [0, 1]."""
        return _macro(self.rates)

    @cached_property
    def exact(self) -> float:
        """The share of photographs of which all labels are said, and no other."""
        return float((self.said == (self.labels != 0)).all(axis=1).mean())


def sigmoid(logits: Table):
    """Probabilities, float64 on the host, each of its own logit."""
    scores = np.asarray(logits, np.float64)
    # Of the two forms the one that cannot overflow.
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1, small) / (1 + small)


def average_precision(labels: AnyArray, scores: AnyArray) -> float:
    """The mean precision over the photographs with a label, of those scored as high.

    In [0, 1]; nan where no photograph has the label. Agrees with scikit-learn's
    `average_precision_score`: photographs of equal scores count together.

    Args:
      labels: `(n,)`, not 0 where the label holds.
      scores: `(n,)`, the higher the more likely.
    """
    counted = _counted(labels, scores)
    if counted is None:
        return float("nan")
    _, right, said = counted
    gained = np.diff(right, prepend=0)
    return float((gained * (right / said)).sum() / right[-1])


def average_precisions(labels: Flags, scores: Table) -> np.ndarray:
    """`average_precision` of each label, `(classes,)`."""
    columns = zip(np.asarray(labels).T, np.asarray(scores).T, strict=True)
    return np.array([average_precision(*column) for column in columns])


def mean_average_precision(labels: Flags, scores: Table) -> float:
    """The mean `average_precision` of the labels that some photograph has.

    Raises:
      ValueError: no photograph has any.
    """
    found = average_precisions(labels, scores)
    if np.isnan(found).all():
        raise ValueError("no photo has a label, so there is no average precision")
    return float(np.nanmean(found))


def label_rates(labels: Flags, said: AnyArray) -> PerClass:
    """Precision, recall and F1 of each label, and what they are shares of.

    A share of nothing is 0, as in `metrics.per_class`.
    """
    truth, given = np.asarray(labels) != 0, np.asarray(said) != 0
    right, support, predicted = (truth & given).sum(0), truth.sum(0), given.sum(0)
    return class_rates(right, support, predicted)


def best_threshold(labels: AnyArray, scores: AnyArray) -> float:
    """The threshold of the largest F1, half way down to the next score below.

    Of equal ones the highest; `EVEN` where no photograph has the label.

    Args:
      labels: `(n,)`, not 0 where the label holds.
      scores: `(n,)` in [0, 1].
    """
    counted = _counted(labels, scores)
    if counted is None:
        return EVEN
    values, right, said = counted
    best = int(np.argmax(2 * right / (said + right[-1])))
    below = float(values[best + 1]) if best + 1 < len(values) else 0.0
    return (float(values[best]) + below) / 2


def best_thresholds(labels: Flags, scores: Table) -> tuple[float, ...]:
    """`best_threshold` of each label."""
    columns = zip(np.asarray(labels).T, np.asarray(scores).T, strict=True)
    return tuple(best_threshold(*column) for column in columns)


def cross_fitted_f1(labels: Flags, scores: Table) -> float:
    """The macro F1 where each half is judged by the thresholds of the other.

    It shows what the thresholds do to photographs that they were not chosen on. The
    halves are drawn by chance, the same each time.
    """
    truth, table = np.asarray(labels), np.asarray(scores)
    order = np.random.default_rng(0).permutation(len(truth))
    half = len(order) // 2
    said = np.zeros(truth.shape, bool)
    for one, other in ((order[:half], order[half:]), (order[half:], order[:half])):
        said[one] = table[one] >= np.array(best_thresholds(truth[other], table[other]))
    return _macro(label_rates(truth, said))


def _macro(rates: PerClass) -> float:
    seen = rates.support > 0
    return float(rates.f1[seen].mean()) if seen.any() else 0.0


def _counted(labels, scores):
    """The distinct scores, falling, and how many have as much: with the label, all.

    None where no photograph has the label.
    """
    truth, values = np.asarray(labels) != 0, np.asarray(scores)
    if not truth.any():
        return None
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    last = np.append(values[1:] < values[:-1], True)
    return values[last], np.cumsum(truth)[last], np.arange(1, len(values) + 1)[last]
