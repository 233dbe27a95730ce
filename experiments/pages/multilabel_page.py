"""The part of a report that is of photos with several labels: each label's figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.pages.photos import jpeg
from jaxvision import multilabel
from jaxvision.data.lazy import LazyImages
from jaxvision.metrics import wilson_interval
from jaxvision.multilabel import MultilabelEvaluation

LARGEST = 24
"""Labels whose mistakes have pictures; of more, those with the lowest F1."""
SHOWN = 3
"""Photos of each kind of mistake of a label."""
SIDE = 224
"""Pixels of the longest side of a picture."""


def describe(
    images: np.ndarray | LazyImages, evaluation: MultilabelEvaluation
) -> dict[str, Any]:
    """What `labels.html` shows.

    Args:
      images: the validation photos, uint8 `(n, h, w, 3)`.
      evaluation: what was said of them.

    Raises:
      ValueError: no photo has a label.
    """
    rates, precisions = evaluation.rates, evaluation.average_precisions
    limits = np.asarray(evaluation.thresholds)
    # Best first; what no photo has has no figures, and comes last.
    order = np.argsort(-np.nan_to_num(precisions, nan=-1), kind="stable").tolist()
    rows = []
    for index in order:
        support, predicted = int(rates.support[index]), int(rates.predicted[index])
        right = round(float(rates.recall[index]) * support)
        rows.append(
            {
                "name": evaluation.classes[index],
                "average_precision": float(precisions[index]) if support else None,
                "f1": float(rates.f1[index]) if support else None,
                "precision": right / predicted if predicted else None,
                "recall": right / support if support else None,
                "precision_range": _range(right, predicted),
                "recall_range": _range(right, support),
                "threshold": float(limits[index]),
                "support": support,
                "predicted": predicted,
            }
        )
    scored = [row for row in rows if row["f1"] is not None]
    total = len(evaluation)
    return {
        "rows": rows,
        "scored": scored,
        "total": total,
        "map": evaluation.mean_average_precision,
        "guess": float(rates.support[rates.support > 0].mean()) / total,
        "macro_f1": evaluation.macro_f1,
        "cross_f1": multilabel.cross_fitted_f1(
            evaluation.labels, evaluation.probabilities
        ),
        "exact": evaluation.exact,
        "mean_labels": float((evaluation.labels != 0).sum(1).mean()),
        "mistakes": _mistakes(images, evaluation),
    }


def _range(count: int, total: int) -> tuple[float, float] | None:
    return wilson_interval(count, total) if total else None


def _mistakes(
    images: np.ndarray | LazyImages, evaluation: MultilabelEvaluation
) -> list[dict[str, Any]]:
    """Of each label the photos that were missed, and those that it was said of."""
    truth, said, f1 = evaluation.labels != 0, evaluation.said, evaluation.rates.f1
    wrong = truth != said
    labels = [int(i) for i in np.argsort(f1, kind="stable") if wrong[:, i].any()]
    found = []
    for label in labels[:LARGEST]:
        shares = evaluation.probabilities[:, label]
        missed = np.nonzero(truth[:, label] & ~said[:, label])[0]
        given = np.nonzero(~truth[:, label] & said[:, label])[0]
        found.append(
            {
                "name": evaluation.classes[label],
                "missed_count": len(missed),
                "given_count": len(given),
                "support": int(truth[:, label].sum()),
                "missed": _photos(
                    images, evaluation, missed[np.argsort(shares[missed])], label
                ),
                "given": _photos(
                    images, evaluation, given[np.argsort(-shares[given])], label
                ),
            }
        )
    return found


def _photos(
    images: np.ndarray | LazyImages,
    evaluation: MultilabelEvaluation,
    chosen: np.ndarray,
    label: int,
) -> list[dict[str, Any]]:
    return [
        {
            "image": jpeg(np.asarray(images[i]), longest=SIDE),
            "path": evaluation.paths[i],
            "share": float(evaluation.probabilities[i, label]),
            "labels": names(evaluation.labels[i], evaluation.classes) or "no label",
        }
        for i in chosen[:SHOWN].tolist()
    ]


def names(flags: np.ndarray, classes: Sequence[str]) -> str:
    """The labels of a photo in words."""
    return ", ".join(classes[int(i)] for i in np.nonzero(flags)[0])
