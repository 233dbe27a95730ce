"""Figures of photos with several labels: by hand, by brute force, by scikit-learn."""

import numpy as np
import pytest

from jaxvision import multilabel
from jaxvision.metrics import PerClass
from jaxvision.multilabel import (
    EVEN,
    MultilabelEvaluation,
    average_precision,
    average_precisions,
    best_threshold,
    best_thresholds,
    cross_fitted_f1,
    label_rates,
    mean_average_precision,
    sigmoid,
)


def drawn(seed, *, count=60, classes=5, levels=None):
    """Labels, and scores that know something of them; with `levels`, many are equal."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, classes)) < rng.uniform(0.05, 0.6, classes)) * 1
    scores = sigmoid(1.5 * labels + rng.normal(size=(count, classes)))
    if levels is not None:
        scores = np.round(scores * levels) / levels
    return labels.astype(np.uint8), scores.astype(np.float32)


def test_average_precision_by_hand():
    # Found at the ranks 1 and 3: (1/1 + 2/3) / 2.
    assert average_precision(
        np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])
    ) == (pytest.approx(5 / 6))
    # Of equal scores all count at once: one of two.
    assert average_precision(np.array([1, 0]), np.array([0.5, 0.5])) == 0.5
    assert average_precision(np.array([0, 1]), np.array([0.2, 0.1])) == 0.5
    assert average_precision(np.array([1, 1]), np.array([0.0, 0.0])) == 1
    assert np.isnan(average_precision(np.array([0, 0]), np.array([0.2, 0.1])))


def brute_force(labels, scores):
    """By the definition: over all thresholds, the recall gained times the precision."""
    total, before = 0.0, 0.0
    for limit in sorted(set(scores.tolist()), reverse=True):
        said = scores >= limit
        recall = labels[said].sum() / labels.sum()
        total += (recall - before) * labels[said].mean()
        before = recall
    return total


@pytest.mark.parametrize("levels", [None, 8, 1])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_its_definition(seed, levels):
    labels, scores = drawn(seed, levels=levels)
    labels[:, -1] = 0
    found = average_precisions(labels, scores)
    assert np.isnan(found[-1])
    expected = [
        brute_force(*pair) for pair in zip(labels.T[:-1], scores.T, strict=False)
    ]
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-12)
    # What no photo has does not count.
    assert mean_average_precision(labels, scores) == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="no photo has a label"):
        mean_average_precision(0 * labels, scores)


@pytest.mark.parametrize("levels", [None, 8])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_scikit_learns(seed, levels):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores = drawn(seed, levels=levels)
    np.testing.assert_allclose(
        average_precisions(labels, scores),
        metrics.average_precision_score(labels, scores, average=None),
        rtol=1e-12,
    )
    said = scores >= 0.6
    rates = label_rates(labels, said)
    theirs = metrics.precision_recall_fscore_support(labels, said, zero_division=0)
    for mine, other in zip(rates[:4], theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12)


def test_rates_of_labels_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    said = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]], bool)
    rates = label_rates(labels, said)
    expected = PerClass(
        precision=np.array([2 / 3, 0, 0]),
        recall=np.array([2 / 3, 0, 0]),
        f1=np.array([2 / 3, 0, 0]),
        support=np.array([3, 1, 0]),
        predicted=np.array([3, 1, 0]),
    )
    for mine, other in zip(rates, expected, strict=True):
        np.testing.assert_allclose(mine, other)
    found = MultilabelEvaluation(
        ("a", "b", "c", "d"), labels, said * 0.9, ("x", "y", "z"), (0.5, 0.9, 0.5)
    )
    assert (found.said == said).all()  # what reaches a threshold is said
    assert found.macro_f1 == pytest.approx(1 / 3)  # nothing is z
    assert found.exact == 0
    assert len(found) == 4


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("seed", range(4))
def test_threshold_has_the_largest_f1(seed, levels):
    labels, scores = drawn(seed, levels=levels)
    limits = best_thresholds(labels, scores)
    found = label_rates(labels, scores >= np.array(limits)).f1
    every = np.linspace(0, 1, 2001)
    others = [label_rates(labels, scores >= limit).f1 for limit in every]
    assert (found >= np.max(others, axis=0) - 1e-12).all()
    # Half way between two scores, so that no rounding tells what is said.
    gaps = np.abs(scores - np.array(limits)).min(axis=0)
    assert (gaps > (0 if levels is None else 0.4 / levels)).all()


def test_threshold_without_an_example():
    assert best_threshold(np.zeros(3), np.array([0.1, 0.2, 0.3])) == EVEN
    assert best_threshold(np.array([1, 0]), np.array([0.99, 0.01])) == 0.5
    assert best_threshold(np.array([1, 1]), np.array([0.4, 0.6])) == 0.2  # all


def test_cross_fitted_f1_is_that_of_other_photos():
    # Scores that say nothing: the thresholds' own photos flatter them.
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 8)) < 0.1).astype(np.uint8)
    scores = rng.random((200, 8)).astype(np.float32)
    own = label_rates(labels, scores >= np.array(best_thresholds(labels, scores)))
    assert cross_fitted_f1(labels, scores) < own.f1.mean() - 0.02
    # Those that say all lose nothing.
    assert cross_fitted_f1(labels, 0.2 + 0.6 * labels) == 1


def test_sigmoid_takes_any_logit():
    scores = np.array([[-1e4, -800.0, 0.0, 3.0, 1e4]])
    expected = [[0, 0, 0.5, 1 / (1 + np.exp(-3)), 1]]
    np.testing.assert_allclose(multilabel.sigmoid(scores), expected)
    assert multilabel.sigmoid(scores.astype(np.float32)).dtype == np.float64
