"""`predict` gives the run's own labels, for any image, and needs no torch."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from converters.bundle import save_bundle
from experiments import predict
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference.classifier import open_model
from experiments.pages.predictions import read_predictions
from experiments.predict import Config
from jaxvision import gradcam, models
from jaxvision.calibration import Certainty, fit_certainty, tempered
from jaxvision.evaluation import softmax
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing, eval_image, normalize, to_float
from tests.analysed_run import run as run
from tests.photos import MODES, bad_file, in_mode, save

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The file of a tiny model with random weights, which compiles in no time."""
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    write_small(path)
    return path


def write_small(path, certainty=None, classes=("a", "b/c", "d")):
    model = models.create("cnn_small", num_classes=3, rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    save_bundle(
        path,
        "cnn_small",
        params,
        stats,
        classes=classes,
        preprocessing=Preprocessing(36, 32),
        certainty=certainty,
    )


def table_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.floor
def test_predictions_are_those_of_the_run(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 10)
    target = tmp_path / "out.csv"
    numbers = predict.main(
        Config(run=run.folder, images=(run.photos / "val",), csv=target, top=2)
    )
    said = read_predictions(run.folder / "predictions.csv")
    certainty = open_model(run.folder).certainty
    assert certainty == fit_certainty(said.labels, said.probabilities)
    theirs = tempered(said, certainty.temperature)
    assert numbers == {"predicted": len(theirs.paths), "unreadable": 0}
    rows = {row["path"]: row for row in table_of(target)}
    assert set(rows) == set(theirs.paths)
    for path, guess, own in zip(
        theirs.paths, theirs.predictions, theirs.probabilities, strict=True
    ):
        assert rows[path]["prediction"] == theirs.classes[guess]
        ours = [float(rows[path][name]) for name in theirs.classes]
        np.testing.assert_allclose(ours, own, atol=1e-5)
        assert float(rows[path]["confidence"]) == max(ours)
    assert list(rows[path]) == ["path", "prediction", "confidence", *theirs.classes]
    line = next(x for x in capsys.readouterr().out.splitlines() if "swapped" in x)
    assert line.count("%") == 2 and "val/blue/swapped.png: green " in line


def test_any_image_is_read_and_the_unreadable_are_named_at_the_end(
    small, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "photos"
    for name, (mode, options) in MODES.items():
        save(folder / name, in_mode(mode), **options)
    turned = Image.fromarray(np.asarray(in_mode("RGB")))
    exif = turned.getexif()
    exif[0x0112] = 6
    save(folder / "sub" / "turned.jpg", turned, exif=exif)
    save(folder / ".hidden.png")
    bad = [bad_file(folder / kind, kind) for kind in ("text.jpg", "truncated.png")]
    target = tmp_path / "t.csv"
    argv = [str(small), str(folder), "/no/such.png", "--csv", str(target), "--top", "1"]
    monkeypatch.setattr(sys, "argv", ["predict", *argv])
    with pytest.raises(SystemExit) as exit_info:
        run_cli(Config, predict.main, prog="predict")
    out, err = capsys.readouterr()
    assert exit_info.value.code == 1
    assert err.startswith("error: 3 of 20 images could not be read, such as ")
    assert err.count("\n") == 1 and "Traceback" not in err
    for path in (*bad, "/no/such.png"):
        assert f"not read: {path}: " in out
    assert "such.png: No such file or directory" in out
    rows = table_of(target)
    assert len(rows) == len(MODES) + 1 and not any("hidden" in x["path"] for x in rows)
    assert {row["prediction"] for row in rows} <= {"a", "b/c", "d"}


@pytest.mark.floor
def test_explain_writes_the_photo_beside_what_grad_cam_finds(small, tmp_path):
    photos = [save(tmp_path / name / "x.png", seed=i) for i, name in enumerate("pqr")]
    output = tmp_path / "why"
    predict.main(Config(run=small, images=(tmp_path,), explain=True, output=output))
    names = sorted(path.name for path in output.iterdir())
    assert len(names) == 3 and all(name.startswith("x-") for name in names)
    assert all(Path(name).suffix == ".png" for name in names)
    with Image.open(output / names[0]) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (224, 448, 3)
    bundle = open_model(small)
    crop = eval_image(Image.open(photos[0]), resize=36, crop=32)
    left = Image.fromarray(crop).resize((224, 224), Image.Resampling.BICUBIC)
    assert any(
        np.array_equal(np.asarray(Image.open(output / name))[:, :224], left)
        for name in names
    )
    heat = predict.explainer(bundle)
    assert heat is not None
    ours = heat(crop[None], np.array([1]))
    bundle = open_model(small)
    probe = gradcam.probe("features.10")
    apply, params, stats = functionalize(bundle.model, forward=probe)
    images = normalize(to_float(crop[None]))
    maps, _ = gradcam.grad_cam(apply, params, stats, images, jnp.array([1]))
    np.testing.assert_allclose(ours, gradcam.heat(maps, size=224), atol=1e-5)


def test_what_the_model_is_too_unsure_of_is_said_so(small, tmp_path, capsys):
    photos = [save(tmp_path / f"{seed}.png", seed=seed) for seed in range(4)]
    bundle = open_model(small)
    crops = np.stack([eval_image(Image.open(p), resize=36, crop=32) for p in photos])
    apply, params, stats = functionalize(bundle.model)
    logits, _ = apply(params, stats, normalize(to_float(crops)))
    shares = softmax(np.asarray(logits) / 0.25)
    limit = float(np.sort(shares.max(axis=1))[1:3].mean())  # two are above it
    path = tmp_path / "m.safetensors"
    write_small(path, Certainty(0.25, ((0.8, 0.0), (0.95, limit))))
    table = tmp_path / "t.csv"
    config = Config(run=path, images=tuple(photos), csv=table, precision=0.9)
    numbers = predict.main(config)
    assert numbers == {"predicted": 4, "unreadable": 0, "unsure": 2}
    said = capsys.readouterr().out
    assert f"unsure: 2 of 4 images, with a probability below {limit:.3f}" in said
    for photo, row, cells in zip(photos, shares, table_of(table), strict=True):
        best = bundle.classes[row.argmax()]
        assert float(cells["confidence"]) == pytest.approx(row.max(), abs=1e-5)
        line = next(x for x in said.splitlines() if x.startswith(f"{photo}: "))
        is_sure = row.max() >= limit
        assert cells["prediction"] == (best if is_sure else "unsure")
        assert line.startswith(f"{photo}: {'' if is_sure else 'unsure; '}{best} ")
    assert predict.main(replace(config, precision=0.8))["unsure"] == 0
    assert "unsure" not in predict.main(replace(config, precision=None))


def test_precision_that_cannot_be_promised_is_refused(small, tmp_path):
    photo = save(tmp_path / "x.png")

    def refused(path, precision, message):
        with pytest.raises(UsageError, match=message) as caught:
            predict.main(Config(run=path, images=(photo,), precision=precision))
        assert "\n" not in str(caught.value)

    refused(small, 0.95, "--precision 0.95: the model file holds no thresholds")
    path = tmp_path / "m.safetensors"
    write_small(path, Certainty(2.0, ((0.9, 0.5),)))
    refused(path, 0.95, "--precision 0.95: no threshold promises .* most was 0.9")
    write_small(path, Certainty(2.0, ((0.9, 0.5),)), classes=("a", "unsure", "b"))
    refused(path, 0.9, "--precision: the model has a class 'unsure' of its own")
    for wrong in (0.0, 1.0, 95, float("nan")):
        with pytest.raises(ValueError, match="--precision cannot be"):
            Config(run=small, images=(photo,), precision=wrong)


def test_wrong_calls_are_refused_in_one_line(small, tmp_path):
    def refused(config, message):
        with pytest.raises(UsageError, match=message) as caught:
            predict.main(config)
        assert "\n" not in str(caught.value)

    photo = save(tmp_path / "x.png")
    refused(Config(run=tmp_path / "none", images=(photo,)), "none: no such run")
    refused(Config(run=tmp_path, images=(photo,)), "it is no run, or none that ended")
    refused(Config(run=small), "name the images, or folders of images")
    (tmp_path / "empty").mkdir()
    refused(Config(run=small, images=(tmp_path / "empty",)), "empty: no images in this")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    refused(Config(run=tmp_path / "bad.safetensors", images=(photo,)), "is damaged")
    inner = tmp_path / "grid" / "a-seed0"
    inner.mkdir(parents=True)
    (inner / "model.safetensors").touch()
    refused(Config(run=tmp_path / "grid", images=(photo,)), "several runs.*a-seed0")
    with pytest.raises(ValueError, match="--top cannot be 0"):
        Config(run=small, images=(photo,), top=0)


def test_nets_without_maps_predict_but_explain_nothing(tmp_path):
    model = models.create("fcn_baseline", num_classes=2, rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    path = tmp_path / "model.safetensors"
    save_bundle(
        path,
        "fcn_baseline",
        params,
        stats,
        classes=("a", "b"),
        preprocessing=Preprocessing(32, 32),
    )
    photo = save(tmp_path / "x.png")
    assert predict.main(Config(run=path, images=(photo,)))["predicted"] == 1
    with pytest.raises(UsageError, match="fcn_baseline has no convolutional maps"):
        predict.main(Config(run=path, images=(photo,), explain=True))
    bad = bad_file(tmp_path / "empty.jpg", "empty.jpg")
    with pytest.raises(RunError, match="1 of 1 images could not be read"):
        predict.main(Config(run=path, images=(bad,), csv=tmp_path / "t.csv"))
    assert table_of(tmp_path / "t.csv") == []


@pytest.mark.slow
def test_the_model_file_alone_predicts_elsewhere_without_torch(run, tmp_path):
    elsewhere = tmp_path / "m.safetensors"
    elsewhere.write_bytes((run.folder / "model.safetensors").read_bytes())
    code = (
        "import sys; from experiments import predict; "
        "from experiments.command.options import run_cli; "
        "run_cli(predict.Config, predict.main, prog='predict'); "
        "sys.exit('torch' in sys.modules)"
    )
    photo = run.photos / "val" / "green" / "0.png"
    done = subprocess.run(
        [sys.executable, "-c", code, str(elsewhere), str(photo)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{photo}: green " in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors"]
