"""Temperature and thresholds: the optimum, what is not flattered, what is promised."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from jaxvision import analysis, calibration
from jaxvision.calibration import (
    FEWEST,
    HOTTEST,
    LEVELS,
    UNKNOWN,
    Certainty,
    fit_certainty,
    fit_temperature,
    fit_thresholds,
)
from jaxvision.evaluation import Evaluation, softmax


def answers(number=400, classes=5, *, spread=2.0, seed=0):
    """Labels that are drawn with the probabilities of the logits: as sure as right."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(number, classes))
    shares = softmax(logits)
    labels = np.array([rng.choice(classes, p=row) for row in shares])
    return labels.astype(np.int32), logits


def sound(seed):
    """A model whose probabilities are right, on few images."""
    labels, logits = answers(60, seed=seed)
    return labels, softmax(logits)


def loss(labels, table):
    return -np.log(table[np.arange(len(labels)), labels]).mean()


# --- the temperature


@pytest.mark.torch
@pytest.mark.parametrize("boast", [0.4, 1.0, 5.0])
def test_temperature_is_the_optimum_of_torchs_lbfgs(boast):
    torch = pytest.importorskip("torch")
    labels, logits = answers()
    scores, truth = torch.tensor(boast * logits), torch.tensor(labels).long()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [log_t],
        max_iter=200,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure():
        search.zero_grad()
        found = torch.nn.functional.cross_entropy(scores / log_t.exp(), truth)
        found.backward()
        return found

    search.step(closure)
    ours = fit_temperature(labels, boast * logits)
    assert ours == pytest.approx(float(log_t.detach().exp()), rel=1e-6)
    # Logits that are so many times as large need so many times the temperature.
    assert ours == pytest.approx(boast * fit_temperature(labels, logits), rel=1e-9)
    assert fit_temperature(labels, logits) == pytest.approx(1, abs=0.15)


def test_temperature_is_the_optimum_of_scipys_search():
    labels, logits = answers(150, 9, seed=3)
    theirs = minimize_scalar(
        lambda log_t: loss(labels, softmax(4 * logits / np.exp(log_t))),
        bounds=(-3, 3),
        options={"xatol": 1e-10},
    )
    ours = fit_temperature(labels, 4 * logits)
    assert ours == pytest.approx(np.exp(theirs.x), rel=1e-5)


def test_without_a_mistake_there_is_no_temperature():
    logits = 3 * np.eye(4)[np.arange(40) % 4]
    assert fit_temperature(np.arange(40) % 4, logits) == 1
    # One that is always wrong is best not believed at all.
    assert fit_temperature((np.arange(40) + 1) % 4, logits) == HOTTEST
    labels, logits = answers()
    assert fit_temperature(labels, logits / 1000) == 1 / HOTTEST


def test_temperature_changes_no_answer_however_close():
    """In float32 the two would become equal, and the first of them the answer."""
    low = np.float32(0.3)
    table = np.array([[low, np.nextafter(low, np.float32(1)), 0.4 - 0.1]] * 2)
    table = table.astype(np.float32)
    said = Evaluation(("a", "b"), np.zeros(2, np.int32), table, ("x", "y", "z"))
    for temperature in (HOTTEST, 1 / HOTTEST):
        cooled = calibration.tempered(said, temperature)
        np.testing.assert_array_equal(cooled.predictions, [1, 1])
        np.testing.assert_allclose(cooled.probabilities.sum(axis=1), 1, rtol=1e-12)
    assert calibration.tempered(said, 1.0).probabilities is table


def test_tempered_probabilities_are_those_of_the_divided_logits():
    labels, logits = answers(30)
    names = tuple(map(str, range(30)))
    table = softmax(logits).astype(np.float32)
    said = Evaluation(names, labels, table, tuple("abcde"))
    got = calibration.tempered(said, 1.7).probabilities
    np.testing.assert_allclose(got, softmax(logits / 1.7), rtol=1e-6)
    # What float32 rounds to 0 is the same before it is rounded, as `predict` has it.
    far = softmax(np.array([[0.0, -50.0, -200.0, -2000.0]]))
    near = far.astype(np.float32)
    assert near[0, 2] == 0 < far[0, 2]
    ours, theirs = (calibration.temper(table, 5.0) for table in (far, near))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


# --- what is measured is not what was fitted on


def test_cross_fitted_answers_do_not_know_their_own_labels():
    labels, logits = answers()
    table = softmax(3 * logits)
    before = calibration.cross_fitted(labels, table)
    parts = list(calibration._parts(len(labels)))
    first, others = parts[0]
    changed = labels.copy()
    changed[first] = (changed[first] + 1) % 5
    after = calibration.cross_fitted(changed, table)
    np.testing.assert_array_equal(after[first], before[first])
    assert not np.allclose(after[others], before[others])
    everyone = list(range(len(labels)))
    assert sorted(i for part, _ in parts for i in part) == everyone
    assert all(sorted([*part, *rest]) == everyone for part, rest in parts)


def test_parts_are_ten_and_fewer_of_very_many_images():
    counts = {20: 10, 1000: 10, 1163: 8, 5000: 2, 10_000: 2, 60_000: 2}
    for count, parts in counts.items():
        assert len(list(calibration._parts(count))) == parts
    assert [len(part) for part, _ in calibration._parts(3)] == [1, 1, 1] + [0] * 7


def test_a_boaster_is_cured_and_a_sound_model_is_left_alone():
    labels, logits = answers(1000)
    boasting = softmax(4 * logits)
    found = fit_certainty(labels, boasting)
    assert found.temperature == pytest.approx(4, rel=0.15)
    errors = [
        analysis.calibration(labels, table).error
        for table in (boasting, calibration.cross_fitted(labels, boasting))
    ]
    assert errors[0] > 0.15 and errors[1] < 0.05
    # Within what the other half says, a temperature near 1 only adds noise.
    kept = [fit_certainty(*sound(seed)).temperature for seed in range(12)]
    assert 1.0 in kept


@pytest.mark.parametrize("seed", range(3))
def test_a_kept_temperature_lowers_the_loss_of_the_other_half(seed):
    labels, logits = answers(80, seed=seed)
    table = softmax(1.3 * logits)
    found = fit_certainty(labels, table)
    gain = loss(labels, table) - loss(labels, calibration.cross_fitted(labels, table))
    assert (found.temperature != 1) == (gain > 0)


def test_foremost_of_several_labels_is_the_one_most_over_its_threshold():
    table = np.array([[0.6, 0.5], [0.9, 0.1]], np.float32)
    several = calibration.Certainty(label_thresholds=(0.7, 0.2))
    assert calibration.foremost(table, calibration.UNKNOWN).tolist() == [0, 0]
    assert calibration.foremost(table, several).tolist() == [1, 0]


def test_too_few_images_and_no_numbers_tell_nothing():
    labels, logits = answers(FEWEST)
    table = softmax(logits)
    assert fit_certainty(labels[1:], table[1:]) == UNKNOWN
    assert fit_certainty(labels, table).thresholds
    table[3, 1] = np.nan
    assert fit_certainty(labels, table) == UNKNOWN
    with pytest.raises(ValueError, match=r"labels \(3,\) and logits"):
        fit_temperature(labels[:3], logits)


def test_of_very_many_images_some_are_taken_wherever_they_stand():
    labels, logits = answers(800)
    order = np.argsort(labels, kind="stable")  # class by class, as folders have them
    many = np.repeat(labels[order], 30), np.repeat(softmax(3 * logits)[order], 30, 0)
    found = fit_certainty(*many)
    assert found == fit_certainty(*many)
    whole = fit_temperature(labels, 3 * logits)
    assert found.temperature == pytest.approx(whole, rel=0.05)


def test_chance_error_is_that_of_labels_drawn_as_the_model_says():
    _, logits = answers(234, 9)
    table = softmax(2 * logits)
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(150):
        drawn = np.array([rng.choice(9, p=row) for row in table])
        errors.append(analysis.calibration(drawn, table).error)
    ours = calibration.chance_error(table, bins=15)
    assert ours == pytest.approx(np.mean(errors), rel=0.1)
    assert ours == calibration.chance_error(table, bins=15)


# --- thresholds


def brute(labels, table, level):
    """The smallest of all limits that may be asked for, by trying each."""
    sure, right = table.max(axis=1), table.argmax(axis=1) == labels
    good = []
    for limit in (0.0, *np.unique(sure)):
        given = sure >= limit
        if right[given].mean() >= level and given.sum() * (1 - level) >= 1 - 1e-9:
            good.append(limit)
    return min(good, default=None)


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_are_the_smallest_that_keep_the_promise(seed):
    labels, logits = answers(300, seed=seed)
    table = softmax(logits).round(2)  # with equal answers
    found = Certainty(1.0, fit_thresholds(labels, table))
    for level in LEVELS:
        expected = brute(labels, table, level)
        if expected is None:
            with pytest.raises(ValueError, match="no threshold promises"):
                found.threshold(level)
        else:
            assert found.threshold(level) == expected
    levels, limits = zip(*found.thresholds, strict=True)
    assert all(a < b for a, b in zip(levels, levels[1:], strict=False))
    assert all(a < b for a, b in zip(limits, limits[1:], strict=False))


def test_precision_between_two_levels_is_that_of_the_higher():
    found = Certainty(1.0, ((0.9, 0.4), (0.95, 0.6)))
    assert found.threshold(0.5) == 0.4 and found.threshold(0.9) == 0.4
    assert found.threshold(0.901) == 0.6
    with pytest.raises(ValueError, match="of 0.96; on the validation.* was 0.95"):
        found.threshold(0.96)
    with pytest.raises(ValueError, match="holds no thresholds"):
        UNKNOWN.threshold(0.5)


def test_promise_is_kept_on_new_images_about_as_often_as_not():
    """It is an estimate: half of the models keep a little more, half a little less."""
    kept = []
    for seed in range(20):
        labels, logits = answers(1000, seed=seed)
        found = calibration.cross_judged(labels, softmax(logits), precision=0.9)
        assert found.images == 1000 and 0 < found.right <= found.answered < 1000
        kept.append(found.right / found.answered)
    assert np.mean(kept) == pytest.approx(0.9, abs=0.02)


def test_right_in_all_is_answered_in_all():
    logits = 3 * np.eye(4)[np.arange(200) % 4]
    rows = fit_thresholds(np.arange(200) % 4, softmax(logits))
    assert rows == ((0.995, 0.0),)  # 200 answers cannot promise one mistake in 1000
