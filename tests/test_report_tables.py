"""The numbers behind the report: the history of a run, and predictions.csv."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.pages import history as curves_of
from experiments.pages.predictions import read_predictions, write_predictions
from tests.test_report import history_of


def test_best_row_is_the_highest_metric_or_the_lowest_loss():
    assert curves_of.best_row(history_of(5)) == 1
    loss_only = [{"val_loss": x} for x in (3.0, float("nan"), 1.0, 1.0, None)]
    assert curves_of.best_row(loss_only) == 2
    psnr = [{"train_loss": 1.0, "val_psnr": x} for x in ("30.5", "31.0", "")]
    assert (curves_of.best_row(psnr), curves_of.judged_by(psnr)) == (1, "psnr")
    assert curves_of.best_row([{"epoch": 1, "train_loss": 1.0}]) is None
    assert curves_of.best_row([{"epoch": 1, "val_loss": float("inf")}]) is None


def test_text_has_the_unit_of_the_metric():
    assert curves_of.text("accuracy", 0.9127) == "91.3 %"
    assert curves_of.text("psnr", 31.254) == "31.25 dB"
    assert curves_of.text("loss", 0.12345) == "0.123"
    assert curves_of.text("loss", float("nan")) == "–"


def test_predictions_come_back_to_the_bit(tmp_path):
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 50).astype(np.float32)
    probabilities[0] = [1.0, 0.0, 1e-30, 3.4e-8]
    classes = ("label", "a,b", 'quote"\nline', "名前")
    labels = generator.integers(0, 4, 50)
    paths = [f"val/{i},x.jpg" for i in range(49)] + ["val/\udcff.jpg"]
    target = tmp_path / "predictions.csv"
    write_predictions(target, paths, jnp.asarray(probabilities), classes, labels=labels)
    got = read_predictions(target)
    assert (got.paths, got.classes) == (tuple(paths), classes)
    np.testing.assert_array_equal(got.labels, labels)
    np.testing.assert_array_equal(got.predictions, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(got.confidences, probabilities.max(axis=1))
    np.testing.assert_array_equal(got.probabilities, probabilities)
    assert got.labels.dtype == np.int32 and got.probabilities.dtype == np.float32


def test_predictions_have_the_columns_of_the_contract(tmp_path):
    target = tmp_path / "predictions.csv"
    write_predictions(
        target,
        ["a.jpg"],
        np.array([[0.75, 0.25]]),
        ("cat", "dog"),
        labels=np.array([1]),
    )
    assert target.read_text() == (
        "path,label,prediction,confidence,cat,dog\na.jpg,dog,cat,0.75,0.75,0.25\n"
    )
    none = np.array([], int)
    write_predictions(target, [], np.zeros((0, 2)), ("cat", "dog"), labels=none)
    assert read_predictions(target).probabilities.shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line must name"),
        ("path,label\n", "first line must name"),
        ("path,label,prediction,confidence,a\nx,a,b,1,1\n", "line 2"),
        ("path,label,prediction,confidence,a\nx,a,a,1\n", "line 2"),
        ("path,label,prediction,confidence,a\nx,a,a,1,1\nx,a,a,1,?\n", "line 3"),
    ],
)
def test_read_predictions_names_the_faulty_line(tmp_path, text, words):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_predictions(tmp_path / "p.csv")


def test_write_predictions_rejects_what_does_not_fit(tmp_path):
    one = np.array([0])
    with pytest.raises(ValueError, match="do not fit 3 classes"):
        write_predictions(
            tmp_path / "p", ["x"], np.ones((1, 2)), ("a", "b", "c"), labels=one
        )
    with pytest.raises(ValueError, match="one name"):
        write_predictions(
            tmp_path / "p", ["x"], np.ones((1, 2)), ("a", "a"), labels=one
        )
    assert list(tmp_path.iterdir()) == []
