"""What a classifier's predictions tell beyond its accuracy, counted on the host.

Labels are indices `(n,)`, probabilities `(n, classes)` in [0, 1] with rows that sum to
one. Near-duplicate images are found in `jaxvision.duplicates`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from jaxvision.metrics import Counts, IntVector, Matrix
from jaxvision.typing import AnyArray, Float

Probabilities = Float[AnyArray, "n classes"]
Values = Float[AnyArray, "n"]

BINS = 15
"""Equal-width bins of confidence, as in Guo et al."""
PATIENCE = 2
"""Epochs at the end of a run that must all be worse before it is called overfitted."""
RISE = 0.02
"""By which share the validation loss must have risen; less is noise."""
CERTAIN = 0.8
"""A probability that always counts for a class."""
MISSED = 0.1
"""A class is missed where less than this share of its images is recognised."""

Interval = tuple[float, float]
"""Lower and upper bound, 95 %."""


class Calibration(NamedTuple):
    """How sure the model is, beside how often it is right, bin by bin.

    Attributes:
      edges: `(bins + 1,)`, from 0 to 1; a bin includes its upper edge.
      count: images in each bin.
      confidence: mean probability of the predicted class in each bin; nan without any.
      accuracy: share of right predictions in each bin; nan without any.
      error: the expected calibration error, in [0, 1]: the mean gap between the two,
        each bin weighing as much as it has images.
      surplus: mean confidence less accuracy over all images; positive: too sure.
    """

    edges: np.ndarray
    count: Counts
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float
    surplus: float


class Bootstrap(NamedTuple):
    """95 % intervals over the images, of shares in [0, 1].

    `f1` has one a class; (0, 0) for a class that neither occurs nor is predicted.
    """

    accuracy: Interval
    macro_f1: Interval
    f1: tuple[Interval, ...]


class McNemar(NamedTuple):
    """Two models on the same images.

    Attributes:
      both, first, second, neither: images that both had right, the first alone, the
        second alone, and none.
      p_value: the probability of counts `first` and `second` this far apart, or
        further, if the models were equally good.
    """

    both: int
    first: int
    second: int
    neither: int
    p_value: float


class Spread(NamedTuple):
    """Mean over seeds, standard deviation (n - 1), 95 % interval of the mean."""

    mean: float
    std: float
    low: float
    high: float


class LabelIssue(NamedTuple):
    """An image whose label the model doubts.

    Attributes:
      index: of the image.
      suggestion: the class that it rather belongs to.
      own: probability of the label.
      other: probability of the suggestion.
    """

    index: int
    suggestion: int
    own: float
    other: float


class CutPhotos(NamedTuple):
    """How much of the photos was cut away: means of the shares of their areas.

    Attributes:
      mean: over all photos.
      wrong, right: over those answered wrongly, and rightly; nan without any.
      p_value: the probability that those answered wrongly would be cut so much more by
        chance.
    """

    mean: float
    wrong: float
    right: float
    p_value: float


class Missed(NamedTuple):
    """A class that the model ignores, or always takes for another.

    Attributes:
      index: of the class.
      support: how many images belong to it.
      predicted: how many images were given the class.
      right: how many of those belong to it.
    """

    index: int
    support: int
    predicted: int
    right: int


def calibration(
    labels: IntVector, probabilities: Probabilities, *, bins: int = BINS
) -> Calibration:
    """The reliability diagram and the expected calibration error.

    Reference: Guo et al., On calibration of modern neural networks, 2017,
    arXiv:1706.04599, equations 2 and 3, with `(lower, upper]` bins.

    Raises:
      ValueError: no images, or not one row of probabilities for each label.
    """
    truth, table = _checked(labels, probabilities)
    sure, right = table.max(axis=1), table.argmax(axis=1) == truth
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(sure, edges[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, sure, minlength=bins) / count
        accuracy = np.bincount(place, right, minlength=bins) / count
    gaps = np.abs(np.nan_to_num(confidence - accuracy))
    return Calibration(
        edges=edges,
        count=count,
        confidence=confidence,
        accuracy=accuracy,
        error=float(count @ gaps / len(truth)),
        surplus=float(sure.mean() - right.mean()),
    )


def bootstrap(matrix: Matrix, *, seed: int = 0, resamples: int = 2000) -> Bootstrap:
    """Percentile intervals of accuracy and F1 over images drawn with replacement.

    Drawing images anew is drawing the cells of their confusion matrix from a
    multinomial distribution, so the matrix is all that is needed.

    Reference: Efron, Bootstrap methods: another look at the jackknife, 1979.

    Raises:
      ValueError: the matrix counts no image.
    """
    counts = np.asarray(matrix)
    total = int(counts.sum())
    if total == 0:
        raise ValueError("no image was evaluated, so there is nothing to draw from")
    rows, columns = np.nonzero(counts)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(total, counts[rows, columns] / total, size=resamples)
    classes = len(counts)
    one_hot = np.eye(classes)
    right = drawn @ (one_hot[rows] * (rows == columns)[:, None])
    seen = drawn @ (one_hot[rows] + one_hot[columns])
    f1 = np.divide(2 * right, seen, out=np.zeros(seen.shape), where=seen > 0)
    macro = f1.sum(axis=1) / np.count_nonzero(seen, axis=1)
    low, high = np.quantile(f1, [0.025, 0.975], axis=0)
    return Bootstrap(
        accuracy=_middle(right.sum(axis=1) / total),
        macro_f1=_middle(macro),
        f1=tuple(zip(low.tolist(), high.tolist(), strict=True)),
    )


def mcnemar(labels: IntVector, first: IntVector, second: IntVector) -> McNemar:
    """McNemar's exact test of two models' predictions for the same images.

    Two-sided and binomial, over the images that exactly one of the two had right.

    Reference: McNemar, Psychometrika 12 (1947); exact: Edwards, Psychometrika 13.

    Raises:
      ValueError: the three differ in length.
    """
    truth, one, two = (np.asarray(x) for x in (labels, first, second))
    if not truth.shape == one.shape == two.shape or truth.ndim != 1:
        raise ValueError(
            f"labels {truth.shape} and predictions {one.shape}, {two.shape} must be "
            "vectors of one length"
        )
    a, b = one == truth, two == truth
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    number, fewer = only_a + only_b, min(only_a, only_b)
    # Whole numbers: the tail of 2^-10000 is no float, the ratio is.
    tail = sum(math.comb(number, k) for k in range(fewer + 1))
    p_value = min(1.0, 2 * tail / 2**number)
    return McNemar(int(np.sum(a & b)), only_a, only_b, int(np.sum(~a & ~b)), p_value)


def t_interval(values: Sequence[float] | np.ndarray) -> Spread:
    """Mean, standard deviation and Student's 95 % interval of a few runs' values.

    A single value has no spread: its standard deviation and bounds are nan.

    Raises:
      ValueError: there is no value.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError("a mean over runs needs at least one value")
    mean = float(x.mean())
    if len(x) == 1:
        return Spread(mean, math.nan, math.nan, math.nan)
    std = float(x.std(ddof=1))
    half = float(stdtrit(len(x) - 1, 0.975)) * std / math.sqrt(len(x))
    return Spread(mean, std, mean - half, mean + half)


def losses(labels: IntVector, probabilities: Probabilities) -> np.ndarray:
    """Cross-entropy of each image in nats: float64 `(n,)`.

    A probability of 0, which float32 rounds to, counts as the smallest float32.
    """
    truth, table = _checked(labels, probabilities)
    own = table[np.arange(len(truth)), truth]
    return -np.log(np.maximum(own, np.finfo(np.float32).tiny))


def cut_photos(cut: Values, right: np.ndarray) -> CutPhotos:
    """Whether mistakes lie in photos of which more was cut away.

    Mann and Whitney's test of ranks, one-sided, with its correction for ties.

    Args:
      cut: the share of each photo that was cut away, in [0, 1).
      right: whether its class was predicted.

    Raises:
      ValueError: no photo, or not one answer for each.
    """
    from scipy.stats import mannwhitneyu  # half a second, for the report alone

    shares, hits = np.asarray(cut, np.float64), np.asarray(right, bool)
    if shares.shape != hits.shape or not len(shares):
        raise ValueError(f"{len(shares)} shares but {len(hits)} answers")
    wrong, rest = shares[~hits], shares[hits]
    known = len(wrong) and len(rest) and np.ptp(shares) > 0
    return CutPhotos(
        mean=float(shares.mean()),
        wrong=float(wrong.mean()) if len(wrong) else math.nan,
        right=float(rest.mean()) if len(rest) else math.nan,
        p_value=float(mannwhitneyu(wrong, rest, alternative="greater").pvalue)
        if known
        else 1.0,
    )


def label_issues(
    labels: IntVector, probabilities: Probabilities
) -> tuple[LabelIssue, ...]:
    """Images that are probably labelled wrongly, the most probable first.

    Confident learning: an image counts for a class where its probability of that class
    reaches the mean probability that images with this label have of it. An image whose
    most probable class of those is not its label is an off-diagonal entry of the
    confident joint; these come back, by the margin of the suggestion over the label.
    The probabilities must be of images that the model was not trained on.

    Reference: Northcutt et al., Confident learning, 2019, arXiv:1911.00068, equations
    1 and 2, method "C off-diagonals". Unlike there, no threshold is above `CERTAIN`:
    of a good model half the images would fall short of a mean that is nearly 1, and
    with them half the wrong labels.
    """
    truth, table = _checked(labels, probabilities)
    classes = table.shape[1]
    support = np.bincount(truth, minlength=classes)
    own = table[np.arange(len(truth)), truth]
    totals = np.bincount(truth, own, minlength=classes)
    # Without a labelled image there is no threshold, and nothing counts for the class.
    threshold = np.full(classes, np.inf)
    np.divide(totals, support, out=threshold, where=support > 0)
    threshold = np.where(support > 0, np.minimum(threshold, CERTAIN), threshold)
    confident = np.where(table >= threshold, table, -1.0)
    suggestion = confident.argmax(axis=1)
    (found,) = np.nonzero((confident.max(axis=1) >= 0) & (suggestion != truth))
    other = table[np.arange(len(truth)), suggestion]
    order = found[np.argsort((own - other)[found], kind="stable")]
    return tuple(
        LabelIssue(int(i), int(suggestion[i]), float(own[i]), float(other[i]))
        for i in order
    )


def overfitting(
    train_loss: Values,
    val_loss: Values,
    *,
    patience: int = PATIENCE,
    rise: float = RISE,
) -> int | None:
    """The epoch, as an index, after which the model learns its examples by heart.

    It is the epoch of the smallest validation loss, where after it the validation loss
    rose while the training loss fell: each of the last `patience` epochs has a
    validation loss more than `rise` (a share) above that epoch's and a training loss
    below that epoch's. None where that is not so, or too few epochs follow. Epochs that
    were not validated (nan) are passed over.

    Raises:
      ValueError: not one training loss for each validation loss.
    """
    train, val = np.asarray(train_loss, float), np.asarray(val_loss, float)
    if train.shape != val.shape:
        raise ValueError(f"{len(train)} training but {len(val)} validation losses")
    (known,) = np.nonzero(np.isfinite(train) & np.isfinite(val))
    if not len(known):
        return None
    best = int(known[np.argmin(val[known])])
    last = known[known > best][-patience:]
    if len(last) < patience:
        return None
    worse = (val[last] > (1 + rise) * val[best]) & (train[last] < train[best])
    return best if worse.all() else None


def missed_classes(matrix: Matrix, *, share: float = MISSED) -> tuple[Missed, ...]:
    """The classes of whose images less than `share` is recognised.

    A class that is never or hardly ever predicted is among them; so is one that is
    predicted for other classes' images. Classes without images are left out.
    """
    counts = np.asarray(matrix)
    support, predicted = counts.sum(axis=1), counts.sum(axis=0)
    right = np.diagonal(counts)
    (found,) = np.nonzero((support > 0) & (right < share * support))
    return tuple(
        Missed(i, int(support[i]), int(predicted[i]), int(right[i]))
        for i in found.tolist()
    )


def _checked(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    truth = np.asarray(labels)
    table = np.asarray(probabilities, np.float64)
    if table.ndim != 2 or truth.shape != (len(table),) or not len(table):
        raise ValueError(
            f"labels {truth.shape} and probabilities {table.shape} must be (n,) and "
            "(n, classes), with one image at least"
        )
    return truth, table


def _middle(values: np.ndarray) -> Interval:
    """The bounds of the middle 95 %."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
