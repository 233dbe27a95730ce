"""What a reader should see of a run: single images, pairs of them, and warnings.

Counted from the predictions (`jaxvision.analysis`) and the images themselves
(`jaxvision.duplicates`), and put into words by `analysis_page`.
"""

from typing import NamedTuple

import numpy as np

from experiments.inference.classifier import Explain
from experiments.pages import history as curves_of
from experiments.pages.history import History
from experiments.pages.photos import overlay
from jaxvision import analysis, calibration, duplicates
from jaxvision.analysis import Calibration, CutPhotos, Missed
from jaxvision.calibration import UNKNOWN, Answered, Certainty
from jaxvision.data import Split
from jaxvision.data.lazy import LazyImages
from jaxvision.evaluation import Evaluation
from jaxvision.metrics import ConfusedPair

HARD, EXPLAINED = 24, 12
"""Images of the highest loss that are shown; mistakes among them that are explained."""
PAIRS, EXAMPLES = 4, 3
"""Pairs of confused classes that are shown with photos, and photos of each class."""
SHOWN = 12
"""Suspected labels, and pairs of near-duplicates, that are shown."""
PRECISIONS = (0.9, 0.95, 0.99)
"""For which the report says what a threshold gives."""
LARGEST_SET = 20_000
"""Images within which near-duplicates are sought: their number grows as the square."""


class Picture(NamedTuple):
    """A photo, uint8 `(h, w, 3)`, and where it is from."""

    image: np.ndarray
    path: str


class PairPhotos(NamedTuple):
    """Two classes that are confused: the mistakes, and what the other class looks like.

    Attributes:
      pair: the classes and how often.
      mistaken: photos of the first that were taken for the second, the surest first.
      typical: photos of the second, those that are recognised most surely.
    """

    pair: ConfusedPair
    mistaken: tuple[Picture, ...]
    typical: tuple[Picture, ...]


class Hard(NamedTuple):
    """An image of a high loss.

    Attributes:
      picture: the photo.
      label, prediction: class names.
      own, confidence: probabilities of the two.
      loss: cross-entropy in nats.
      heat: the photo with what speaks for the prediction, and for the label; of a
        mistake that was explained.
    """

    picture: Picture
    label: str
    prediction: str
    own: float
    confidence: float
    loss: float
    heat: tuple[np.ndarray, np.ndarray] | None


class Suspect(NamedTuple):
    """An image that is probably labelled wrongly; see `analysis.LabelIssue`."""

    picture: Picture
    label: str
    suggestion: str
    own: float
    other: float


class Twins(NamedTuple):
    """Two images that show the same, with their labels and the sets they are in."""

    pictures: tuple[Picture, Picture]
    labels: tuple[str, str]
    sets: tuple[str, str]
    mirrored: bool


class Leak(NamedTuple):
    """Validation images that are in the training set too.

    Attributes:
      images: how many.
      conflicts: how many of them have another label there.
      total, accuracy: how many validation images remain without them, and the share of
        those that is recognised; nan where none remains.
      is_cut: whether the search ended early, and there are more.
      is_sought: whether there was a search at all.
    """

    images: int
    conflicts: int
    total: int
    accuracy: float
    is_cut: bool
    is_sought: bool = True


class Trust(NamedTuple):
    """What the temperature and the thresholds do, on images they were not fitted on.

    Attributes:
      temperature: see `calibration.Certainty`.
      before: the calibration without it.
      chance: see `calibration.chance_error`.
      thresholds: for some precisions, the threshold, and how each part of the images
        fares by that of the others.
    """

    temperature: float
    before: Calibration
    chance: float
    thresholds: tuple[tuple[float, float, Answered], ...]


class Findings(NamedTuple):
    """All that the analysis of a run found; see `gather`.

    Attributes:
      calibration: see `analysis.calibration`; after the temperature, if there is one,
        each part of the images after that of the others.
      trust: what that does.
      overfitted: the epoch's index from which on the run overfitted.
      missed: see `analysis.missed_classes`.
      pairs: the most confused classes with photos.
      hard: the images of the highest loss, that one first.
      suspects, suspect_count: the first suspected labels; how many there are.
      leak: what is in both sets.
      leaked: the first pairs between them.
      twins, twin_count: the first pairs within one set; how many there are.
      searched: the sets that were searched for those; large ones are not, and of
        streamed ones none, not for what is in both either.
      cut: what was cut away of the photos; None where nothing was, or unknown.
    """

    calibration: Calibration
    trust: Trust
    overfitted: int | None
    missed: tuple[Missed, ...]
    pairs: tuple[PairPhotos, ...]
    hard: tuple[Hard, ...]
    suspects: tuple[Suspect, ...]
    suspect_count: int
    leak: Leak
    leaked: tuple[Twins, ...]
    twins: tuple[Twins, ...]
    twin_count: int
    searched: tuple[str, ...]
    cut: CutPhotos | None


def gather(
    train: Split,
    images: np.ndarray | LazyImages,
    evaluation: Evaluation,
    history: History,
    *,
    share: float = 1.0,
    explain: Explain | None = None,
    certainty: Certainty = UNKNOWN,
    cut: np.ndarray | None = None,
) -> Findings:
    """Everything that is worth a look.

    Args:
      train: what the model was trained on.
      images: what it was judged by, as it saw them.
      evaluation: what it said of these, before the temperature.
      history: rows with the columns of `metrics.csv`.
      share: the part of a training image's side that its evaluation copy would show:
        `crop / resize`, where training images are not cropped yet.
      explain: gives the heat of Grad-CAM; without it nothing is explained.
      certainty: the model's.
      cut: the share of each image that was cut away before it was judged.

    Raises:
      ValueError: not one row of probabilities for each image.
    """
    known, trust = _trust(evaluation, certainty)
    # Its thresholds are of the net's own probabilities; which look wrong is one thing,
    # how sure the model is of it another.
    issues = analysis.label_issues(evaluation.labels, evaluation.probabilities)
    evaluation = calibration.tempered(evaluation, certainty.temperature)
    table, classes = evaluation.probabilities, evaluation.classes
    val = Split(images, evaluation.labels, evaluation.paths)
    names = [classes[int(label)] for label in val.labels]
    leak, leaked, twins, searched = _duplicates(train, val, evaluation, share=share)
    return Findings(
        calibration=known,
        trust=trust,
        overfitted=analysis.overfitting(
            curves_of.values(history, "train_loss"),
            curves_of.values(history, "val_loss"),
        ),
        missed=analysis.missed_classes(evaluation.matrix),
        pairs=_pairs(val, evaluation),
        hard=_hard(val, evaluation, explain),
        suspects=tuple(
            Suspect(
                _picture(val, issue.index),
                names[issue.index],
                classes[issue.suggestion],
                float(table[issue.index, val.labels[issue.index]]),
                float(table[issue.index, issue.suggestion]),
            )
            for issue in issues[:SHOWN]
        ),
        suspect_count=len(issues),
        leak=leak,
        leaked=leaked,
        twins=twins[:SHOWN],
        twin_count=len(twins),
        searched=searched,
        cut=None
        if cut is None
        else analysis.cut_photos(cut, evaluation.predictions == val.labels),
    )


def _trust(evaluation: Evaluation, certainty: Certainty) -> tuple[Calibration, Trust]:
    """The calibration of what the model says, and what its certainty is worth."""
    labels, table = evaluation.labels, evaluation.probabilities
    before = known = analysis.calibration(labels, table)
    if certainty.temperature != 1:
        table = calibration.cross_fitted(labels, table)
        known = analysis.calibration(labels, table)
    levels = [
        level
        for level in PRECISIONS
        if certainty.thresholds and level <= certainty.thresholds[-1][0]
    ]
    rows = tuple(
        (
            level,
            certainty.threshold(level),
            calibration.cross_judged(labels, evaluation.probabilities, precision=level),
        )
        for level in levels
    )
    chance = calibration.chance_error(table, bins=len(known.count))
    return known, Trust(certainty.temperature, before, chance, rows)


def _picture(split: Split, index: int) -> Picture:
    return Picture(np.asarray(split.images[index]), split.paths[index])


def _pairs(val: Split, evaluation: Evaluation) -> tuple[PairPhotos, ...]:
    guess, sure = evaluation.predictions, evaluation.confidences
    places = {name: index for index, name in enumerate(evaluation.classes)}

    def surest(label: int, prediction: int) -> tuple[Picture, ...]:
        (found,) = np.nonzero((val.labels == label) & (guess == prediction))
        found = found[np.argsort(-sure[found], kind="stable")][:EXAMPLES]
        return tuple(_picture(val, index) for index in found.tolist())

    shown = []
    for pair in evaluation.pairs[:PAIRS]:
        label, other = places[pair.label], places[pair.prediction]
        shown.append(PairPhotos(pair, surest(label, other), surest(other, other)))
    return tuple(shown)


def _hard(
    val: Split, evaluation: Evaluation, explain: Explain | None
) -> tuple[Hard, ...]:
    table, classes = evaluation.probabilities, evaluation.classes
    loss = analysis.losses(val.labels, table)
    order = np.argsort(-loss, kind="stable")[:HARD]
    guess = evaluation.predictions
    mistakes = order[guess[order] != val.labels[order]][:EXPLAINED]
    heat = {}
    if explain is not None and len(mistakes):
        images = np.asarray(val.images[mistakes])
        asked = guess[mistakes], val.labels[mistakes]
        sides = [explain(images, labels) for labels in asked]
        for place, index in enumerate(mistakes.tolist()):
            first, second = (overlay(images[place], side[place]) for side in sides)
            heat[index] = first, second
    return tuple(
        Hard(
            picture=_picture(val, i),
            label=classes[int(val.labels[i])],
            prediction=classes[int(guess[i])],
            own=float(table[i, val.labels[i]]),
            confidence=float(table[i, guess[i]]),
            loss=float(loss[i]),
            heat=heat.get(i),
        )
        for i in order.tolist()
    )


def _duplicates(
    train: Split, val: Split, evaluation: Evaluation, *, share: float
) -> tuple[Leak, tuple[Twins, ...], tuple[Twins, ...], tuple[str, ...]]:
    """What is in both sets, the first such pairs; pairs within sets, and which sets."""
    sides, classes = {"training": train, "validation": val}, evaluation.classes

    def twins(pair: duplicates.Duplicate, first: str, second: str) -> Twins:
        one, two = sides[first], sides[second]
        return Twins(
            (_picture(one, pair.first), _picture(two, pair.second)),
            (
                classes[int(one.labels[pair.first])],
                classes[int(two.labels[pair.second])],
            ),
            (first, second),
            pair.mirrored,
        )

    if isinstance(train.images, LazyImages) or isinstance(val.images, LazyImages):
        # All of them would have to be decoded once more.
        none = Leak(0, 0, len(evaluation), evaluation.accuracy, False, is_sought=False)
        return none, (), (), ()
    seen = {
        "training": duplicates.signatures(centre(train.images, share)),
        "validation": duplicates.signatures(val.images),
    }
    across = duplicates.between(seen["training"], seen["validation"])
    both = sorted({pair.second for pair in across})
    conflicts = {
        pair.second
        for pair in across
        if train.labels[pair.first] != val.labels[pair.second]
    }
    rest = np.delete(evaluation.predictions == val.labels, both)
    leak = Leak(
        images=len(both),
        conflicts=len(conflicts),
        total=len(rest),
        accuracy=float(rest.mean()) if len(rest) else float("nan"),
        is_cut=len(across) == duplicates.MOST,
    )
    # Those with two labels first: one of the two is wrong for certain.
    across = sorted(across, key=lambda pair: pair.second not in conflicts)
    leaked = tuple(twins(pair, "training", "validation") for pair in across[:SHOWN])
    searched = tuple(side for side in sides if len(sides[side]) <= LARGEST_SET)
    inside = [
        twins(pair, side, side)
        for side in searched
        for pair in duplicates.within(seen[side])
    ]
    inside.sort(key=lambda pair: pair.labels[0] == pair.labels[1])
    return leak, leaked, tuple(inside), searched


def centre(images: np.ndarray, share: float) -> np.ndarray:
    """The squares in the middle, `share` of the side: a view, not a copy."""
    side = images.shape[1]
    size = max(1, round(share * side))
    corner = (side - size) // 2
    return images[:, corner : corner + size, corner : corner + size]
