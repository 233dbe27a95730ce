"""Photos with several labels from a list to the report, and what is refused of them."""

import html
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax import nnx
from PIL import Image

from converters.bundle import Bundle, load_bundle
from experiments import analyze, export, predict, transfer
from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.pages.multilabel_page import describe
from experiments.pages.page import About
from experiments.pages.predictions import read_label_predictions
from experiments.runs.comparison import read_results
from experiments.runs.multilabel_outputs import write_multilabel_outputs
from experiments.transfer import Config
from jaxvision.calibration import Certainty
from jaxvision.data.dataset import Dataset, Split
from jaxvision.multilabel import (
    MultilabelEvaluation,
    best_thresholds,
    mean_average_precision,
)
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing
from jaxvision.tensor_file import open_tensors
from tests import runs
from tests.photos import noise
from tests.runs import check_same_run, metrics_of, rows_of, stop_after
from tests.test_predict import write_small

COLOURS = ("red", "green", "blue")
resumed = partial(runs.resumed, Config)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noisy photos whose labels are the colours in them, none or several."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    lines = ["file;tags;split"]
    for index in range(120):
        holds = rng.random(3) < (0.5, 0.4, 0.3)
        pixels = rng.integers(0, 90, (40, 48, 3)) + 150 * holds
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        names = "|".join(n for n, flag in zip(COLOURS, holds, strict=True) if flag)
        lines.append(f"{index}.png;{names};{'train' if index < 80 else 'val'}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def config(photos, tmp_path_factory):
    return Config(
        backbone=("resnet18",),
        data=str(photos / "list.csv"),
        weights="random",
        epochs=3,
        batch_size=8,
        image_size=32,
        optim=Optim(lr=0.02),
        augment=("flips",),
        output=tmp_path_factory.mktemp("runs"),
    )


@pytest.fixture(scope="module")
def finished(config):
    """The folder and the numbers of an unbroken run."""
    numbers = transfer.main(config)
    return config.output / "transfer" / "1", numbers


def test_run_learns_labels_and_keeps_the_best_epoch(finished):
    folder, numbers = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "curves.png",
        "metrics.csv",
        "model.safetensors",
        "predictions.csv",
        "report.html",
        "results.json",
    }
    column = "val_mean_average_precision"
    assert numbers[column] > 0.75  # by chance it is 0.4
    rows = metrics_of(folder)
    assert set(rows[0]) == {"epoch", "train_loss", "val_loss", column, "learning_rate"}
    best = max(float(row[column]) for row in rows)
    assert best == pytest.approx(numbers[column], abs=1e-6)


def test_table_and_model_file_say_the_same(finished, photos):
    folder, numbers = finished
    rows = rows_of(folder / "predictions.csv")
    assert list(rows[0]) == ["path", "labels", "predictions", "blue", "green", "red"]
    bundle = load_bundle(folder / "model.safetensors")
    classes = ("blue", "green", "red")
    assert bundle.classes == classes and len(rows) == 40
    table = np.array([[float(row[name]) for name in classes] for row in rows])
    truth = np.array([[n in row["labels"].split(";") for n in classes] for row in rows])
    given = dict(
        line.split(";")[:2] for line in (photos / "list.csv").read_text().split("\n")
    )
    for row in rows:
        labels = sorted(filter(None, given[Path(row["path"]).name].split("|")))
        assert row["labels"] == ";".join(labels)
    found = mean_average_precision(truth * 1, table)
    assert found == pytest.approx(numbers["val_mean_average_precision"])
    limits = bundle.certainty.label_thresholds
    assert limits == best_thresholds(truth * 1, table.astype(np.float32))
    for row, shares in zip(rows, table, strict=True):
        said = [n for n, p, t in zip(classes, shares, limits, strict=True) if p >= t]
        assert row["predictions"] == ";".join(said)


def test_predict_names_the_labels_above_their_thresholds(finished, tmp_path, capsys):
    folder, _ = finished
    rows = rows_of(folder / "predictions.csv")
    paths = tuple(Path(row["path"]) for row in rows)
    table = tmp_path / "out.csv"
    predict.main(predict.Config(folder, paths, csv=table))
    said = capsys.readouterr().out.replace("\n", " ")
    for row, mine in zip(rows, rows_of(table), strict=True):
        assert "labels" not in mine and mine["predictions"] == row["predictions"]
        shares = [[float(r[n]) for n in COLOURS] for r in (row, mine)]
        np.testing.assert_allclose(*shares, atol=1e-4)
    assert any(not row["predictions"] for row in rows) == ("no label;" in said)
    with pytest.raises(
        UsageError, match="^--precision: the model gives a photo several"
    ):
        predict.main(predict.Config(folder, paths, precision=0.9))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "stablehlo", "safetensors", "torch"])
def test_export_says_the_same_labels(to, finished, tmp_path, capsys):
    folder, numbers = finished
    target, table = tmp_path / "out", tmp_path / "out.csv"
    proof = export.main(export.Config(folder, to=to, output=target))
    assert proof["difference"] < 1e-5 and proof["other_labels"] == 0
    card = (target / "README.md").read_text()
    share = f"{numbers['val_mean_average_precision']:.2%}"
    assert f"Mean average precision on these photos: {share}" in card
    assert f"mean average precision {share} of 40 photos" in card
    assert "`label_thresholds`" in card and "softmax" not in card
    rows = rows_of(folder / "predictions.csv")
    paths = tuple(Path(row["path"]) for row in rows)
    predict.main(predict.Config(target, paths, csv=table))
    said = [row["predictions"] for row in rows_of(table)]
    assert said == [row["predictions"] for row in rows]


def test_table_of_labels_is_read_as_it_was_written(finished, tmp_path):
    folder, _ = finished
    found = read_label_predictions(folder / "predictions.csv", thresholds=(0.5,) * 3)
    rows = rows_of(folder / "predictions.csv")
    for row, flags, shares in zip(rows, found.labels, found.probabilities, strict=True):
        named = [n for n, f in zip(found.classes, flags, strict=True) if f]
        assert row["labels"] == ";".join(named)
        assert [row[name] for name in found.classes] == [str(share) for share in shares]
    assert found.paths == tuple(row["path"] for row in rows)
    text = (folder / "predictions.csv").read_text().split("\n")
    for line, message in (("x,red,red,0.5", "line 2"), ("x,cat,,1,1,1", "line 2")):
        path = tmp_path / "damaged.csv"
        path.write_text(f"{text[0]}\n{line}\n")
        with pytest.raises(ValueError, match=message):
            read_label_predictions(path, thresholds=(0.5,) * 3)


@pytest.mark.slow
def test_run_that_is_stopped_goes_on_to_the_same_bits(
    finished, config, tmp_path, monkeypatch
):
    config = replace(config, output=tmp_path)
    stop_after(monkeypatch, transfer, config, looks=6)
    folder = tmp_path / "transfer" / "1"
    transfer.main(resumed(folder))
    check_same_run(folder, finished[0])


def test_labels_of_other_photos_are_another_run(finished, config, photos, tmp_path):
    other = photos / "other.csv"
    text = (photos / "list.csv").read_text().split("\n")
    text[1] = f"0.png;{'red' if ';red;' not in text[1] else 'blue'};train"
    other.write_text("\n".join(text))
    with pytest.raises(UsageError, match="training photos are not those that the run"):
        transfer.main(resumed(finished[0], "--data", str(other)))


@pytest.mark.slow
def test_weights_smoothing_and_mixing_train(config):
    config = replace(
        config,
        mix="mixup",
        class_weights=("balanced",),
        label_smoothing=0.1,
        accumulate=2,
        dry_run=True,
    )
    numbers = transfer.main(config)
    assert np.isfinite(numbers["train_loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tta": "mirror"}, "^--tta mirror: .* have several labels; give --tta none$"),
        ({"sampler": "balanced"}, "^--sampler balanced: .* give --sampler none$"),
        (
            {"repeats": 2},
            "^2 runs: they are compared by their accuracy, and the photos",
        ),
        ({"folds": 3}, "^3 runs: .* and of --folds one --fold$"),
    ],
)
def test_what_needs_one_class_is_refused(config, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        transfer.main(replace(config, output=tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_programs_for_one_class_say_so_in_a_line(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(UsageError, match="predictions.csv is of photos with several"):
        analyze.main(analyze.Config(folder))
    with pytest.raises(ValueError, match="several labels: runs are compared by accur"):
        read_results(folder / "results.json")


def evaluation(count=30):
    rng = np.random.default_rng(0)
    labels = (rng.random((count, 3)) < 0.4).astype(np.uint8)
    labels[:, 2] = 0
    shares = (0.6 * labels + 0.4 * rng.random((count, 3))).astype(np.float32)
    shares[0, 0], labels[0, 0] = 0.01, 1
    shares[1, 1], labels[1, 1] = 0.99, 0
    paths = tuple(f"<{i}>.jpg" for i in range(count))
    limits = (*best_thresholds(labels, shares)[:2], 0.2)
    return MultilabelEvaluation(paths, labels, shares, ("a<b", "b", "none"), limits)


def test_page_shows_each_label_with_its_mistakes():
    said = evaluation()
    found = describe(np.zeros((30, 8, 8, 3), np.uint8), said)
    rows = {row["name"]: row for row in found["rows"]}
    assert [row["name"] for row in found["rows"]][-1] == "none"
    assert rows["none"]["f1"] is None and rows["none"]["average_precision"] is None
    assert rows["a<b"]["support"] == said.labels[:, 0].sum()
    assert rows["b"]["precision"] == pytest.approx(said.rates.precision[1])
    mistakes = {one["name"]: one for one in found["mistakes"]}
    assert mistakes["a<b"]["missed"][0]["path"] == "<0>.jpg"
    assert mistakes["b"]["given"][0]["path"] == "<1>.jpg"
    given = mistakes["none"]
    assert given["given_count"] == said.said[:, 2].sum() and not given["missed"]
    shares = [one["share"] for one in given["given"]]
    assert shares == sorted(shares, reverse=True) and len(shares) <= 3


def test_photos_of_both_sets_are_named(tmp_path, capsys):
    said = evaluation()
    images = np.stack([noise(32, 32, seed=seed) for seed in range(60)])
    images[40], images[41] = images[3], images[7][:, ::-1]  # also mirrored
    names = tuple(f"train/{i}" for i in range(30))
    train = Split(images[:30], said.labels, names)
    val = Split(images[30:], said.labels, said.paths)
    data = Dataset("set", said.classes, train, val)
    certainty = Certainty(label_thresholds=said.thresholds)
    size = Preprocessing(32, 32)
    bundle = Bundle("cnn_small", nnx.Module(), said.classes, size, certainty)
    history = [{"epoch": 1, "train_loss": 1.0, "val_loss": 1.0}]
    numbers = write_multilabel_outputs(
        tmp_path,
        About("title", {}, {}, history, ["another note"]),
        data,
        said,
        bundle,
        kept="best epoch",
        console=Console(),
    )
    assert numbers["val_macro_f1"] == said.macro_f1
    rest = np.delete(np.arange(30), [10, 11])
    found = mean_average_precision(said.labels[rest], said.probabilities[rest])
    note = (
        "2 validation images are in the training set too, such as <10>.jpg (train/3), "
        f"so the result is flattered; of the other 28 it is {found:.1%}"
    )
    page = html.unescape((tmp_path / "report.html").read_text())
    assert note in page and "another note" in page
    assert note in " ".join(capsys.readouterr().out.split())


def test_report_escapes_names_and_has_no_matrix(finished):
    text = (finished[0] / "report.html").read_text()
    assert "mean average precision" in text and "Label by label" in text
    assert "Confusion" not in text and 'class="matrix' not in text
    for name in COLOURS:
        assert f'<th scope="row">{name}' in html.unescape(text)


def test_model_file_keeps_the_thresholds(tmp_path):
    path = tmp_path / "model.safetensors"
    certainty = Certainty(label_thresholds=(0.1 + 0.2, 0.5, 1.0))
    write_small(path, certainty)
    assert load_bundle(path).certainty == certainty
    # That of one class is what it was before there were others.
    write_small(path, Certainty(2.0, ((0.9, 0.5),)))
    with open_tensors(path) as file:
        said = json.loads(file.metadata()["certainty"])
    assert said == {"temperature": 2.0, "thresholds": [[0.9, 0.5]]}


@pytest.mark.parametrize("limits", [(0.5, 0.5), (0.5, 0.5, 1.5), (0.5, -0.1, 0.5)])
def test_damaged_thresholds_are_one_line(tmp_path, limits):
    path = tmp_path / "model.safetensors"
    write_small(path, Certainty(label_thresholds=limits))
    with pytest.raises(ValueError, match="its metadata are damaged") as caught:
        load_bundle(path)
    assert "\n" not in str(caught.value)


def test_options_say_what_was_trained(finished):
    said = yaml.safe_load((finished[0] / "config.yaml").read_text())
    assert said["sampler"] == "none" and said["data"].endswith("list.csv")


@pytest.mark.slow
def test_streamed_run_says_what_it_does_not_look_for(finished, config, capsys):
    pytest.importorskip("grain", reason="grain is not installed: '.[stream]'")
    transfer.main(replace(config, input="stream"))
    run = max((config.output / "transfer").iterdir(), key=lambda p: int(p.name))
    check_same_run(run, finished[0])
    said = "WARNING: the photos were streamed: validation images that are in the"
    assert said in capsys.readouterr().out
    assert "were not looked for" in html.unescape((run / "report.html").read_text())
