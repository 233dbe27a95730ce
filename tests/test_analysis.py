"""The numbers of the analysis against SciPy, closed forms and counts by hand."""

import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxvision import analysis, duplicates, metrics


def random_predictions(seed, number=400, classes=5, skill=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number)
    scores = rng.standard_normal((number, classes)) + skill * np.eye(classes)[labels]
    table = np.exp(scores)
    return labels, table / table.sum(1, keepdims=True)


# --- calibration


def test_calibration_counts_each_bin_as_guo_et_al_do():
    labels, table = random_predictions(0)
    got = analysis.calibration(labels, table)
    sure, right = table.max(1), table.argmax(1) == labels
    error = 0.0
    for m in range(15):
        inside = (sure > m / 15) & (sure <= (m + 1) / 15)
        assert got.count[m] == inside.sum()
        if inside.any():
            assert got.confidence[m] == pytest.approx(sure[inside].mean())
            assert got.accuracy[m] == pytest.approx(right[inside].mean())
            gap = abs(right[inside].mean() - sure[inside].mean())
            error += inside.sum() / len(labels) * gap
        else:
            assert np.isnan(got.accuracy[m])
    assert got.error == pytest.approx(error, abs=1e-12)
    assert got.surplus == pytest.approx(sure.mean() - right.mean())


def test_calibration_of_a_boaster_and_of_an_honest_model():
    labels = np.array([0] * 6 + [1] * 4)
    boasts = np.tile([1.0, 0.0], (10, 1))
    assert analysis.calibration(labels, boasts).error == pytest.approx(0.4)
    assert analysis.calibration(labels, boasts).surplus == pytest.approx(0.4)
    honest = np.tile([0.6, 0.4], (10, 1))
    assert analysis.calibration(labels, honest).error == pytest.approx(0, abs=1e-12)
    modest = np.tile([0.5 + 1e-9, 0.5 - 1e-9], (10, 1))
    assert analysis.calibration(labels, modest).surplus == pytest.approx(-0.1)


def test_a_bin_includes_its_upper_edge():
    got = analysis.calibration(np.array([0]), np.array([[0.6, 0.4]]), bins=5)
    assert got.count.tolist() == [0, 0, 1, 0, 0]


# --- intervals and tests


def test_bootstrap_is_that_of_resampled_images():
    labels, table = random_predictions(1, number=120)
    predictions = table.argmax(1)
    matrix = metrics.confusion_matrix(labels, predictions, 5)
    got = analysis.bootstrap(matrix, resamples=4000)
    assert got == analysis.bootstrap(matrix, resamples=4000)
    assert got != analysis.bootstrap(matrix, seed=1, resamples=4000)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(1500):
        pick = rng.integers(0, 120, 120)
        again = metrics.confusion_matrix(labels[pick], predictions[pick], 5)
        f1 = metrics.per_class(again).f1[2]
        drawn.append((metrics.accuracy(again), metrics.macro_f1(again), f1))
    expected = np.quantile(drawn, [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(got.accuracy, expected[0], atol=0.012)
    np.testing.assert_allclose(got.macro_f1, expected[1], atol=0.012)
    np.testing.assert_allclose(got.f1[2], expected[2], atol=0.03)
    assert got.macro_f1[0] < metrics.macro_f1(matrix) < got.macro_f1[1]


def test_bootstrap_leaves_out_classes_that_are_not_there():
    """Otherwise the unused third class would halve the F1."""
    got = analysis.bootstrap(np.diag([5, 5, 0]))
    assert got.accuracy == got.macro_f1 == (1.0, 1.0)
    assert got.f1 == ((1.0, 1.0), (1.0, 1.0), (0.0, 0.0))
    with pytest.raises(ValueError, match="no image"):
        analysis.bootstrap(np.zeros((2, 2), int))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 2), (13, 13), (40, 19)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    truth = np.zeros(b + c + 5, int)
    first, second = truth.copy(), truth.copy()
    second[:b] = 1
    first[b : b + c] = 1
    first[-1] = second[-1] = 2
    got = analysis.mcnemar(truth, first, second)
    assert got[:4] == (4, b, c, 1)
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert got.p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_thousands_of_images_does_not_overflow():
    truth = np.zeros(10_000, int)
    first, second = truth.copy(), np.ones_like(truth)
    assert analysis.mcnemar(truth, first, second).p_value < 1e-300
    with pytest.raises(ValueError, match="one length"):
        analysis.mcnemar(truth, first, second[:5])


def test_t_interval_is_students():
    got = analysis.t_interval(np.array([0.91, 0.93, 0.92, 0.95, 0.90]))
    assert got.mean == pytest.approx(0.922)
    assert got.std == pytest.approx(0.0192353841)
    # 2.776445 is the 97.5 % point for four degrees of freedom in every table.
    assert got.high - got.mean == pytest.approx(2.776445 * got.std / math.sqrt(5))
    assert got.mean - got.low == pytest.approx(got.high - got.mean)
    alone = analysis.t_interval(np.array([0.5]))
    assert alone.mean == 0.5 and math.isnan(alone.std) and math.isnan(alone.low)
    with pytest.raises(ValueError, match="at least one"):
        analysis.t_interval(np.array([]))


# --- single images


def test_losses_are_cross_entropies_and_finite():
    labels, table = random_predictions(2, number=9)
    expected = [-math.log(row[label]) for row, label in zip(table, labels, strict=True)]
    np.testing.assert_allclose(analysis.losses(labels, table), expected)
    assert np.isfinite(analysis.losses(np.array([1]), np.array([[1.0, 0.0]]))).all()
    with pytest.raises(ValueError, match=r"\(n, classes\)"):
        analysis.losses(labels, table[:4])


def test_label_issues_follow_the_confident_joint_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.9, 0.8, 0.1, 0.2, 0.45, 0.61])
    # Thresholds: (0.9 + 0.8 + 0.1) / 3 = 0.6 and (0.8 + 0.55 + 0.39) / 3 = 0.58.
    table = np.stack([first, 1 - first], axis=1)
    got = analysis.label_issues(labels, table)
    # Image 5 is just above class 0's threshold, image 2 far above that of class 1;
    # image 4 is confident of neither.
    assert [(i.index, i.suggestion) for i in got] == [(2, 1), (5, 0)]
    assert got[0].own == pytest.approx(0.1) and got[0].other == pytest.approx(0.9)


def test_label_issues_find_swapped_labels():
    labels, table = random_predictions(3, number=1000, skill=5.0)
    swapped = np.array([3, 50, 700, 999])
    noisy = labels.copy()
    noisy[swapped] = (labels[swapped] + 1) % 5
    got = analysis.label_issues(noisy, table)
    wrong = np.flatnonzero(table.argmax(1) != labels)
    found = [issue.index for issue in got]
    assert set(swapped) <= set(found) <= {*swapped, *wrong}
    assert [issue.suggestion for issue in got] == labels[found].tolist()
    # By the paper's thresholds alone, one at 92 % would pass for a right label.
    assert min(issue.other for issue in got) < 0.93 < table.max(1).mean()


def test_a_class_without_images_is_never_suggested():
    table = np.array([[0.05, 0.05, 0.9], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    issues = analysis.label_issues(np.array([0, 0, 1]), table)
    assert 2 not in [issue.suggestion for issue in issues]


# --- classes and epochs


def test_missed_classes_are_hardly_ever_recognised():
    matrix = np.array([[30, 0, 0, 0], [20, 1, 0, 0], [25, 0, 5, 0], [0, 0, 0, 0]])
    assert analysis.missed_classes(matrix) == ((1, 21, 1, 1),)
    assert analysis.missed_classes(np.array([[0, 5], [5, 0]])) == (
        (0, 5, 5, 0),
        (1, 5, 5, 0),
    )
    assert analysis.missed_classes(np.diag([3, 3])) == ()


FALLING = [1.0, 0.8, 0.6, 0.4, 0.2, 0.1]


@pytest.mark.parametrize(
    ("train", "val", "start"),
    [
        (FALLING, [1.0, 0.7, 0.6, 0.7, 0.8, 0.9], 2),
        (FALLING, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], None),  # still learning
        (FALLING, [1.0, 0.7, 0.6, 0.605, 0.61, 0.605], None),  # noise
        (FALLING, [1.0, 0.7, 0.6, 0.9, 0.9, 0.605], None),  # it recovered
        (FALLING, [1.0, 0.9, 0.8, 0.7, 0.6, 0.9], None),  # one epoch is too few
        ([1.0, 0.5, 0.2, 0.4, 0.6, 0.8], [1.0, 0.7, 0.6, 0.7, 0.8, 0.9], None),
        (FALLING, [np.nan, 0.7, np.nan, 0.8, np.nan, 0.9], 1),
        ([], [], None),
    ],
)
def test_overfitting_starts_at_the_smallest_validation_loss(train, val, start):
    """In the sixth case training diverges: that is something else."""
    assert analysis.overfitting(np.array(train), np.array(val)) == start


# --- near-duplicates


def picture(seed, size=96):
    """A scene of soft blobs, which a hash tells from others as it does photographs."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    large = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), int)
    return np.clip(large + rng.integers(-9, 9, large.shape), 0, 255).astype(np.uint8)


def altered(pixels, kind):
    image = Image.fromarray(pixels)
    size = image.size
    if kind == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=30)
        image = Image.open(buffer).convert("RGB")
    elif kind == "resized":
        image = image.resize((40, 40)).resize(size, Image.Resampling.BICUBIC)
    elif kind == "mirrored":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif kind == "grey":
        image = image.convert("L").convert("RGB")
    elif kind == "darker":
        image = image.point(lambda value: int(0.8 * value))
    return np.asarray(image)


@pytest.mark.parametrize(
    "kind", ["same", "jpeg", "resized", "mirrored", "grey", "darker"]
)
def test_near_duplicates_are_found_and_nothing_else(kind):
    train = np.stack([picture(seed) for seed in range(40)])
    val = np.stack([picture(seed) for seed in range(100, 120)])
    val[7] = altered(train[31], kind)
    found = duplicates.between(duplicates.signatures(train), duplicates.signatures(val))
    assert [(pair.first, pair.second) for pair in found] == [(31, 7)]
    assert found[0].mirrored == (kind == "mirrored")
    assert found[0].distance <= 6 and found[0].correlation > 0.97


def test_sets_of_other_sizes_are_compared():
    train = np.stack([picture(seed) for seed in range(5)])
    smaller = np.stack([np.asarray(Image.fromarray(x).resize((50, 50))) for x in train])
    found = duplicates.between(
        duplicates.signatures(train), duplicates.signatures(smaller)
    )
    assert sorted((p.first, p.second) for p in found) == [(i, i) for i in range(5)]


def test_pairs_within_a_set_come_once_and_blocks_do_not_matter(monkeypatch):
    images = np.stack([picture(seed) for seed in range(30)])
    images[20], images[29] = altered(images[3], "jpeg"), images[3, :, ::-1]
    seen = duplicates.signatures(images)
    found = duplicates.within(seen)
    assert {pair[:2] for pair in found} == {(3, 20), (3, 29), (20, 29)}
    monkeypatch.setattr(duplicates, "_BLOCK", 70)
    assert duplicates.within(seen) == found


def test_images_of_one_colour_are_no_duplicates_and_floods_end(monkeypatch):
    flat = np.full((6, 32, 32, 3), 128, np.uint8)
    flat[3:] += 1
    assert duplicates.within(duplicates.signatures(flat)) == ()
    monkeypatch.setattr(duplicates, "MOST", 20)
    same = np.repeat(picture(0)[None], 50, axis=0)
    assert len(duplicates.within(duplicates.signatures(same))) == 20
    empty = duplicates.signatures(np.zeros((0, 8, 8, 3), np.uint8))
    assert duplicates.between(empty, empty) == duplicates.within(empty) == ()


@pytest.mark.data
@pytest.mark.slow
def test_real_photos_hold_five_pairs_of_which_none_is_false(data_folder):
    from jaxvision.data import open_dataset

    data = open_dataset(
        str(data_folder / "nine_classes"),
        train_size=224,
        eval_resize=224,
        eval_crop=224,
    )
    train, val = (
        duplicates.signatures(split.images) for split in (data.train, data.val)
    )
    leaked = {
        data.val.paths[pair.second][-40:] for pair in duplicates.between(train, val)
    }
    assert len(leaked) == 3 and len(duplicates.within(train)) == 2
    assert duplicates.within(val) == ()
