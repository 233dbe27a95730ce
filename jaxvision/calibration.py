"""Answers that can be relied on: percentages that are right, and when to give none.

Both are fitted on images that the model was not trained on. Labels are indices `(n,)`,
probabilities `(n, classes)` with rows that sum to one, logits their logarithms but for
a constant for each image. As in float32, no probability is smaller than 1.2e-38.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import root_scalar

from jaxvision.evaluation import Evaluation, softmax
from jaxvision.metrics import IntVector
from jaxvision.multilabel import sigmoid
from jaxvision.typing import AnyArray, Float

Logits = Float[AnyArray, "n classes"]
Table = Float[AnyArray, "n classes"]

HOTTEST = 20.0
"""The largest temperature; the smallest is its inverse."""
FEWEST = 20
"""Images below which nothing is fitted."""
MOST = 10_000
"""Images beyond which more would tell nothing new; so many are taken by chance."""
PARTS = 10
"""Into which images are divided that are to be judged by what others tell. A tenth
leaves nearly as many to fit on as the model itself is fitted on."""
LEVELS = (*(round(0.5 + 0.01 * step, 2) for step in range(50)), 0.995, 0.999)
"""The precisions for which a threshold is sought."""


@dataclass(frozen=True)
class Certainty:
    """What is to be made of a model's logits, as far as held-out images tell.

    Attributes:
      temperature: what they are divided by; below 1 the model is surer than it says.
      thresholds: precision -> the probability that an answer must have so that, of the
        held-out answers which have it, that share was right; both rise.
      label_thresholds: of a model that gives an image any number of labels, the
        probability from which it says each (`multilabel.best_thresholds`); of a model
        that gives one class, none.
    """

    temperature: float = 1.0
    thresholds: tuple[tuple[float, float], ...] = ()
    label_thresholds: tuple[float, ...] = ()

    def threshold(self, precision: float) -> float:
        """The smallest probability of an answer of that precision.

        Raises:
          ValueError: the held-out images promise no such precision.
        """
        found = [limit for level, limit in self.thresholds if level >= precision]
        if found:
            return found[0]
        if not self.thresholds:
            raise ValueError(
                "the model file holds no thresholds: its run had fewer than "
                f"{FEWEST} validation images, or is of an older version"
            )
        raise ValueError(
            f"no threshold promises a precision of {precision:g}; on the validation "
            f"images the most was {self.thresholds[-1][0]:g}"
        )


def foremost(probabilities: np.ndarray, certainty: Certainty) -> np.ndarray:
    """The answer of each image, to be explained: `(n, k)` to int64 `(n,)`.

    The likeliest class; of several labels, the one most over its threshold.
    """
    limits = np.asarray(certainty.label_thresholds or 0.0, probabilities.dtype)
    return (probabilities - limits).argmax(axis=1)


UNKNOWN = Certainty()
"""That of a model that was never asked about held-out images."""


def shares(scores: Logits, certainty: Certainty):
    """The probabilities, float64 on the host, that a model's logits mean.

    Of a model that gives any number of labels, each by itself.
    """
    if certainty.label_thresholds:
        return sigmoid(scores)
    return np.asarray(temper(softmax(scores), certainty.temperature))


class Answered(NamedTuple):
    """Of how many images some were answered, and how many of those rightly."""

    images: int
    answered: int
    right: int


def fit_certainty(labels: IntVector, probabilities: Table) -> Certainty:
    """What held-out images tell: of fewer than `FEWEST`, or without numbers, nothing.

    A temperature is kept where it makes the loss of images smaller that it was not
    fitted on (`cross_fitted`), and thresholds are of the probabilities after it.

    Raises:
      ValueError: not one row of probabilities for each label.
    """
    truth, table = _checked(labels, probabilities)
    if len(truth) < FEWEST or not np.isfinite(table).all():
        return UNKNOWN
    if len(truth) > MOST:
        some = np.random.default_rng(0).permutation(len(truth))[:MOST]
        truth, table = truth[some], table[some]
    temperature = 1.0
    if _loss(truth, cross_fitted(truth, table)) < _loss(truth, table):
        temperature = fit_temperature(truth, _logarithms(table))
    return Certainty(temperature, fit_thresholds(truth, temper(table, temperature)))


def fit_temperature(labels: IntVector, logits: Logits) -> float:
    """The temperature of the smallest cross-entropy, from 1/20 to 20.

    Without a mistake there is none, since the surest model is the best, and 1 comes
    back.

    Reference: Guo et al., On calibration of modern neural networks, 2017,
    arXiv:1706.04599, section 4.2.

    Raises:
      ValueError: not one row of logits for each label.
    """
    truth, scores = _checked(labels, logits)
    if not len(truth) or (scores.argmax(axis=1) == truth).all():
        return 1.0
    own = scores[np.arange(len(truth)), truth].mean()

    def slope(log_temperature: float) -> float:
        """Of the loss by the inverse temperature, in which it is convex."""
        table = softmax(scores / math.exp(log_temperature))
        return float((table * scores).sum(axis=1).mean() - own)

    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    if slope(low) <= 0:
        return 1 / HOTTEST
    if slope(high) >= 0:
        return HOTTEST
    found = root_scalar(slope, bracket=(low, high), method="brentq", xtol=1e-12)
    return math.exp(found.root)


def fit_thresholds(
    labels: IntVector, probabilities: Table
) -> tuple[tuple[float, float], ...]:
    """Rows of (precision, threshold), both rising, for those of `LEVELS` there are.

    The threshold is the smallest above which the share of right answers is that of the
    level, of at least so many answers that one mistake among them would not break it.
    It is 0 where all answers together are good enough. Of levels with one threshold
    the highest is given.
    """
    truth, table = _checked(labels, probabilities)
    if not len(truth):
        return ()
    sure, right = table.max(axis=1), table.argmax(axis=1) == truth
    order = np.argsort(-sure, kind="stable")
    sure, right = sure[order], right[order]
    count = np.arange(1, len(order) + 1)
    share = np.cumsum(right) / count
    # Equal answers are given, or not, together.
    last = np.append(sure[1:] < sure[:-1], True)
    rows: dict[float, float] = {}
    for level in LEVELS:
        enough = count * (1 - level) >= 1 - 1e-9
        (found,) = np.nonzero(last & enough & (share >= level))
        if len(found):
            end = int(found[-1])
            rows[0.0 if end + 1 == len(order) else float(sure[end])] = level
    return tuple((level, limit) for limit, level in rows.items())


def temper(probabilities: Table, temperature: float) -> Table:
    """The probabilities after a temperature; 1 leaves them as they are.

    They come back in 64 bits, in which no two that differ become equal, and so no
    answer another.
    """
    if temperature == 1:
        return probabilities
    return softmax(_logarithms(probabilities) / temperature)


def tempered(evaluation: Evaluation, temperature: float) -> Evaluation:
    """The same answers with the probabilities after a temperature."""
    table = temper(evaluation.probabilities, temperature)
    return replace(evaluation, probabilities=table)


def cross_fitted(labels: IntVector, probabilities: Table) -> Table:
    """The probabilities of each part of the images after the others' temperature.

    They show what a temperature does to images that it was not fitted on. The parts
    are drawn by chance, the same each time: `PARTS` of them, fewer of very many images.
    """
    truth, given = _checked(labels, probabilities)
    scores, table = _logarithms(given), np.empty(given.shape, np.float64)
    for part, others in _parts(len(truth)):
        temperature = fit_temperature(truth[others], scores[others])
        table[part] = softmax(scores[part] / temperature)
    return table


def cross_judged(
    labels: IntVector, probabilities: Table, *, precision: float
) -> Answered:
    """How each part fares by the temperature and the threshold of the others."""
    truth, table = _checked(labels, probabilities)
    scores, answered, right = _logarithms(table), 0, 0
    for part, others in _parts(len(truth)):
        temperature = fit_temperature(truth[others], scores[others])
        rows = fit_thresholds(truth[others], softmax(scores[others] / temperature))
        limits = [limit for level, limit in rows if level >= precision]
        shares = softmax(scores[part] / temperature)
        given = shares.max(axis=1) >= (limits[0] if limits else math.inf)
        answered += int(given.sum())
        right += int((shares.argmax(axis=1) == truth[part])[given].sum())
    return Answered(len(truth), answered, right)


def chance_error(
    probabilities: Table, *, bins: int, seed: int = 0, draws: int = 200
) -> float:
    """The mean calibration error, on as many images, of a model that is as it says.

    So much of an error is chance: whether each answer is right is drawn with the
    probability that it has.

    Reference: Bröcker and Smith, Increasing the reliability of reliability diagrams,
    Weather and Forecasting 22 (2007).
    """
    sure = np.asarray(probabilities, np.float64).max(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(sure, edges[1:-1], right=True)
    rng = np.random.default_rng(seed)
    errors = [
        np.abs(np.bincount(place, sure - (rng.random(len(sure)) < sure))).sum()
        for _ in range(draws)
    ]
    return float(np.mean(errors) / len(sure))


def _parts(count):
    """Each part of so many images beside all others, as indices."""
    order = np.random.default_rng(0).permutation(count)
    # All fits together are to take no longer than one of the most images there are.
    parts = min(max(MOST // max(count, 1), 2), PARTS)
    for place in np.array_split(np.arange(count), parts):
        yield order[place], np.delete(order, place)


def _loss(truth, table):
    own = table[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def _logarithms(probabilities):
    """A table of float32 gives the same as what was rounded to it, also where to 0."""
    table = np.asarray(probabilities, np.float64)
    return np.log(np.maximum(table, np.finfo(np.float32).tiny))


def _checked(labels, values) -> tuple[np.ndarray, np.ndarray]:
    truth, table = np.asarray(labels), np.asarray(values, np.float64)
    if table.ndim != 2 or truth.shape != (len(table),):
        raise ValueError(
            f"labels {truth.shape} and logits {table.shape} must be (n,) and "
            "(n, classes)"
        )
    return truth, table
