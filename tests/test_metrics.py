"""The counts and rates of a classifier, against hand calculation and plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision import metrics

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTIONS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 0])
MATRIX = np.array([[3, 1, 0], [0, 2, 1], [2, 0, 1]])


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_confusion_matrix_has_true_classes_in_rows(array):
    matrix = metrics.confusion_matrix(array(LABELS), array(PREDICTIONS), 3)
    np.testing.assert_array_equal(matrix, MATRIX)
    assert matrix.dtype == np.int64


def test_confusion_matrix_keeps_classes_without_images():
    matrix = metrics.confusion_matrix(np.array([1]), np.array([1]), 4)
    assert matrix.shape == (4, 4)
    assert matrix.sum() == matrix[1, 1] == 1
    empty = np.array([], np.int32)
    assert metrics.confusion_matrix(empty, empty, 2).tolist() == [[0, 0], [0, 0]]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 40), st.integers(0, 2**31))
def test_confusion_matrix_equals_a_loop(classes, images, seed):
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, classes, (2, images))
    expected = np.zeros((classes, classes), int)
    for label, prediction in zip(labels, predictions, strict=True):
        expected[label, prediction] += 1
    got = metrics.confusion_matrix(labels, predictions, classes)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("labels", "predictions", "words"),
    [
        ([0, 3], [0, 0], "label 3 is no class: 3 classes"),
        ([0, 1], [0, -1], "prediction -1 is no class"),
        ([0, 1], [0], "of one length"),
    ],
)
def test_confusion_matrix_rejects_what_it_cannot_count(labels, predictions, words):
    with pytest.raises(ValueError, match=words):
        metrics.confusion_matrix(np.array(labels), np.array(predictions), 3)


def test_accuracy_is_the_share_on_the_diagonal():
    assert metrics.accuracy(MATRIX) == 0.6
    with pytest.raises(ValueError, match="no image"):
        metrics.accuracy(np.zeros((2, 2), int))


def test_per_class_equals_the_calculation_by_hand():
    rates = metrics.per_class(MATRIX)
    np.testing.assert_allclose(rates.precision, [3 / 5, 2 / 3, 1 / 2], rtol=1e-15)
    np.testing.assert_allclose(rates.recall, [3 / 4, 2 / 3, 1 / 3], rtol=1e-15)
    np.testing.assert_allclose(rates.f1, [2 / 3, 2 / 3, 2 / 5], rtol=1e-15)
    assert rates.support.tolist() == [4, 3, 3]
    assert rates.predicted.tolist() == [5, 3, 2]
    np.testing.assert_allclose(metrics.macro_f1(MATRIX), 26 / 45, rtol=1e-15)


def test_per_class_gives_zero_for_a_share_of_nothing():
    # Class 0 is never predicted, class 1 has no images, class 2 has neither.
    rates = metrics.per_class(np.array([[0, 5, 0, 1], [0] * 4, [0] * 4, [0, 0, 0, 2]]))
    assert rates.precision.tolist() == [0, 0, 0, 2 / 3]
    assert rates.recall.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(rates.f1, [0, 0, 0, 0.8], rtol=1e-15)
    assert rates.support.tolist() == [6, 0, 0, 2]
    assert rates.predicted.tolist() == [0, 5, 0, 3]


def test_macro_f1_leaves_out_what_neither_occurs_nor_is_predicted():
    # scikit-learn: f1_score([0, 0, 3], [1, 0, 3], average="macro") == 5 / 9.
    matrix = metrics.confusion_matrix(np.array([0, 0, 3]), np.array([1, 0, 3]), 5)
    np.testing.assert_allclose(metrics.macro_f1(matrix), 5 / 9, rtol=1e-15)
    with pytest.raises(ValueError, match="no image"):
        metrics.macro_f1(np.zeros((2, 2), int))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(1, 30), st.integers(0, 2**31))
def test_rates_equal_their_definition_image_by_image(classes, images, seed):
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, classes, (2, images))
    matrix = metrics.confusion_matrix(labels, predictions, classes)
    rates = metrics.per_class(matrix)
    f1_of_seen = []
    for c in range(classes):
        hits = np.sum((labels == c) & (predictions == c))
        said, true = np.sum(predictions == c), np.sum(labels == c)
        precision = hits / said if said else 0.0
        recall = hits / true if true else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        np.testing.assert_allclose(
            [rates.precision[c], rates.recall[c], rates.f1[c]],
            [precision, recall, f1],
            rtol=1e-14,
        )
        if said or true:
            f1_of_seen.append(f1)
    np.testing.assert_allclose(metrics.macro_f1(matrix), np.mean(f1_of_seen))
    assert metrics.accuracy(matrix) == np.mean(labels == predictions)


def test_confused_pairs_come_most_frequent_first():
    classes = ("roses", "tulips", "daisy")
    pairs = metrics.confused_pairs(MATRIX, classes, top=10)
    assert pairs[0] == ("daisy", "roses", 2, 3)
    # Equal counts: the rarer true class first, since its share is larger.
    assert [pair[:2] for pair in pairs[1:]] == [
        ("tulips", "daisy"),
        ("roses", "tulips"),
    ]
    assert str(pairs[0]) == "daisy taken for roses: 2 of 3"
    assert metrics.confused_pairs(MATRIX, classes, top=1) == pairs[:1]
    assert metrics.confused_pairs(np.diag([3, 1, 2]), classes) == []
    assert MATRIX[0, 0] == 3


def test_confused_pairs_need_a_name_for_each_class():
    with pytest.raises(ValueError, match="2 class names"):
        metrics.confused_pairs(MATRIX, ("a", "b"))


@pytest.mark.parametrize(
    ("count", "total", "expected"),
    [
        # R: prop.test(81, 263, correct = FALSE)$conf.int, Newcombe 1998, table 1.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval_equals_published_values(count, total, expected):
    low, high = metrics.wilson_interval(count, total)
    np.testing.assert_allclose((low, high), expected, atol=5e-5)
    assert 0 <= low <= high <= 1


def test_wilson_interval_solves_its_equation():
    for count, total in [(3, 7), (213, 234), (1, 1000)]:
        share = count / total
        for bound in metrics.wilson_interval(count, total):
            distance = metrics.Z_95 * np.sqrt(bound * (1 - bound) / total)
            np.testing.assert_allclose(abs(share - bound), distance, rtol=1e-9)


def test_wilson_interval_rejects_what_is_no_proportion():
    with pytest.raises(ValueError, match="5 of 4 is no proportion"):
        metrics.wilson_interval(5, 4)
