"""`--folds`: every photo is judged once, and a comparison is of all photos together."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from scipy.stats import t as student

from experiments import analyze, compare, transfer
from experiments.command.options import UsageError
from experiments.runs import grid
from jaxvision import analysis, calibration
from jaxvision.data import open_dataset
from jaxvision.data.sources import find_source
from jaxvision.data.split import fold_aside
from jaxvision.optim import Optim
from tests import grids
from tests.grids import LABELS, Page, compared
from tests.grids import quick as quick
from tests.photos import SIZES, make_folder
from tests.runs import rows_of

COUNTS = {"train/a": 9, "train/b": 7, "val/a": 4, "val/b": 3}


# --- the parts


def test_each_photo_is_judged_once_and_the_parts_are_alike(tmp_path):
    source = find_source(make_folder(tmp_path / "set", COUNTS), labelled=True)
    names = {photo.name for photo in (*source.train, *source.val)}
    judged, of_classes, sizes = [], [], []
    for number in range(1, 6):
        train, val = fold_aside(source, number, folds=5, seed=0)
        assert {photo.name for photo in train} == names - {p.name for p in val}
        judged += [photo.name for photo in val]
        of_classes.append(Counter(photo.label() for photo in val))
        sizes.append(len(val))
    assert sorted(judged) == sorted(names) and len(names) == 23
    assert set(sizes) == {4, 5}
    assert all(one[0] in (2, 3) and one[1] == 2 for one in of_classes)
    others = [fold_aside(source, 1, folds=5, seed=seed)[1] for seed in (0, 0, 1)]
    first, again, other = ([photo.name for photo in part] for part in others)
    assert first == again != other


def test_parts_that_there_are_not_are_refused(tmp_path):
    source = find_source(make_folder(tmp_path / "set", COUNTS), labelled=True)
    with pytest.raises(ValueError, match="class 'b' has 10 images in .*no 11 parts"):
        fold_aside(source, 1, folds=11, seed=0)
    with pytest.raises(ValueError, match="no part 6 of 5"):
        fold_aside(source, 6, folds=5, seed=0)


def test_dataset_of_a_fold_has_what_is_sound_of_both_splits(tmp_path):
    root = make_folder(tmp_path / "set", COUNTS)
    (tmp_path / "set" / "val" / "a" / "bad.png").write_bytes(b"x")
    parts = [open_dataset(root, fold=(k, 4), **SIZES) for k in (1, 2, 3, 4)]
    judged = sorted(path for part in parts for path in part.val.paths)
    everything = sorted(
        str(p) for p in Path(root).rglob("*.png") if p.name != "bad.png"
    )
    assert judged == everything
    for part in parts:
        assert sorted(part.train.paths + part.val.paths) == everything
        assert len(part.skipped) == 1 and part.val.images.shape[1:] == (36, 36, 3)


# --- the grid and the comparison


@dataclass(frozen=True)
class Config(grids.Config):
    freeze: tuple[str, ...] = ("none",)
    folds: int | None = 3
    fold: int | None = None


def cells_of(config):
    return grid.expand(config, axes=("net", "freeze"))


def test_each_fold_is_a_run():
    cells = cells_of(Config())
    assert [cell.name for cell in cells] == [
        f"{net}-fold{number}" for net in ("small", "large") for number in (1, 2, 3)
    ]
    assert [cell.config.fold for cell in cells[:3]] == [1, 2, 3]
    (alone,) = cells_of(Config(net=("small",), fold=2))
    assert alone.name == "small-none" and alone.config.fold == 2


def test_folds_are_tested_and_drawn_as_one_set_of_images(tmp_path):
    rng = np.random.default_rng(5)
    wrong = rng.random((2, 3, 40)) < np.array([0.3, 0.15])[:, None, None]

    def mistakes(config):
        return wrong[int(config.net == ("large",)), config.fold - 1]

    page, lines = compared(tmp_path, cells_of(Config()), wrong=mistakes)
    text = Page(page).text
    only = (wrong[0] & ~wrong[1]).sum(), (wrong[1] & ~wrong[0]).sum()
    p_value = binomtest(int(only[1]), int(sum(only))).pvalue
    assert float(lines["small"]["p_against_best"]) == pytest.approx(p_value, rel=1e-5)
    assert f"{sum(only)} images were recognised by only one of the two" in text
    assert "seed" not in text and "of 120 validation images" in text
    assert "on average over 3 folds" in text and "95 % interval over folds" in text
    row, accuracies = lines["large"], 1 - wrong[1].mean(axis=1)
    low, high = student.interval(
        0.95, 2, accuracies.mean(), accuracies.std(ddof=1) / 3**0.5
    )
    assert (row["runs"], row["interval_over"]) == ("3", "folds")
    assert float(row["low"]) == pytest.approx(low, rel=1e-5)
    assert float(row["high"]) == pytest.approx(high, rel=1e-5)
    draws = rng.integers(0, 120, (20_000, 120))
    expected = np.quantile(1 - wrong[1].reshape(-1)[draws].mean(1), [0.025, 0.975])
    found = [float(row["images_low"]), float(row["images_high"])]
    np.testing.assert_allclose(found, expected, atol=0.02)
    # Always sure, and wrong in so many: that is how far its percentages are off.
    table = np.eye(4)[np.where(wrong[1], LABELS + 1, LABELS) % 4].reshape(-1, 4)
    truth, table = np.tile(LABELS, 3), table.astype(np.float32)
    after = analysis.calibration(truth, calibration.cross_fitted(truth, table)).error
    assert (
        f"off by {100 * wrong[1].mean():.1f} points (the expected calibration error "
        f"over all 120 images), and by {100 * after:.1f} after a temperature" in text
    )


def test_folds_that_contradict_other_options_are_refused():
    base = transfer.Config(folds=5)
    for changes, message in (
        ({"repeats": 2}, "--folds and --repeats: give one of the two"),
        ({"fold": 6}, "--fold 6: it goes from 1 to --folds"),
        ({"folds": None, "fold": 1}, "--fold 1: it goes from 1 to --folds"),
    ):
        with pytest.raises(UsageError, match=message):
            transfer.make_cells(replace(base, **changes))
    for cells in (
        transfer.make_cells(replace(base, dry_run=True)),
        transfer.make_cells(replace(base, find_lr=True)),
    ):
        assert [cell.config.fold for cell in cells] == [1]
    with pytest.raises(ValueError, match="--folds cannot be 1; it goes from 2"):
        transfer.Config(folds=1)


# --- from end to end


@pytest.mark.slow
def test_cross_validation_judges_every_photo_and_its_runs_can_be_read(tmp_path):
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    for channel, name in enumerate(("red", "green")):
        (photos / name).mkdir(parents=True)
        for index in range(24):
            pixels = rng.integers(0, 120, (36, 40, 3))
            pixels[..., channel] += 120
            photo = Image.fromarray(pixels.astype(np.uint8))
            photo.save(photos / name / f"{index}.png")
    config = transfer.Config(
        backbone=("resnet18",),
        data=str(photos),
        weights="random",
        epochs=1,
        batch_size=8,
        image_size=32,
        optim=Optim(lr=0.02),
        augment=("none",),
        folds=2,
        output=tmp_path,
    )
    transfer.main(config)
    folder = tmp_path / "transfer" / "1"
    runs = [folder / f"resnet18-none-none-none-fold{k}" for k in (1, 2)]
    judged = [row["path"] for run in runs for row in rows_of(run / "predictions.csv")]
    assert sorted(judged) == sorted(str(path) for path in photos.rglob("*.png"))
    assert (
        "on average over 2 folds" in Page((folder / "comparison.html").read_text()).text
    )
    for run in runs:
        theirs = rows_of(run / "predictions.csv")
        numbers = analyze.main(analyze.Config(run=run))
        right = np.mean([row["label"] == row["prediction"] for row in theirs])
        assert numbers["val_accuracy"] == pytest.approx(right)
    (row,) = compare.main(compare.Config(runs=(folder,), output=tmp_path / "out"))
    assert row.variant.by == "fold" and row.variant.images == 48
