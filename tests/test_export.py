"""What is exported is the run's model, and appears only when that is proven."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from converters.bundle import load_bundle, save_bundle
from converters.torchvision_import import import_torchvision
from experiments import export, predict
from experiments.command.options import RunError, UsageError
from experiments.export import Config
from experiments.inference import exporting
from experiments.inference.classifier import make_predict
from experiments.inference.exporting import write_model
from experiments.inference.portable import open_portable
from jaxvision.functional import functionalize, replace_arrays
from jaxvision.preprocess import Preprocessing, eval_image
from tests.analysed_run import run as run
from tests.exported import CLASSES, VIEWS, bundle_of, random_photos, with_labels
from tests.families import ONE_A_FAMILY
from tests.photos import save
from tests.without import hiding

ROOT = Path(__file__).parents[1]
SMALL = "cnn_small"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The file of a tiny model, and a folder of photos whose classes it says."""
    folder = tmp_path_factory.mktemp("small")
    bundle = bundle_of(SMALL)
    _, params, stats = functionalize(bundle.model)
    save_bundle(
        folder / "model.safetensors",
        SMALL,
        params,
        stats,
        classes=CLASSES,
        preprocessing=bundle.preprocessing,
    )
    for place, (height, width) in enumerate(((40, 60), (37, 37), (90, 44))):
        (photo,) = random_photos(1, height=height, width=width)
        path = folder / "photos" / "ad"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
    return folder


@pytest.mark.parametrize("views", VIEWS[:3])
@pytest.mark.parametrize(
    "name",
    [SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in ONE_A_FAMILY)],
)
def test_stablehlo_gives_our_own_probabilities(name, views, tmp_path, monkeypatch):
    # The export's convolutions are XLA's, whatever this machine has; so are ours here.
    monkeypatch.setenv("JAXVISION_CONV", "xla")
    bundle = bundle_of(name, views=views)
    write_model(tmp_path, "stablehlo", bundle)
    crop = bundle.preprocessing.crop
    images = random_photos(5, height=crop, width=crop)
    ours = make_predict(bundle, half=False)(images)
    model = open_portable(tmp_path)
    assert (model.classes, model.preprocessing) == (CLASSES, bundle.preprocessing)
    theirs = model.make_predict()(images)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert (theirs.argmax(1) == ours.argmax(1)).all()
    assert ours.std(0).max() > 1e-3, "the photos must tell classes apart"


@pytest.mark.parametrize("which", ["safetensors", "torch"])
def test_tensors_come_back_to_the_bit(which, tmp_path):
    bundle = bundle_of(SMALL)
    write_model(tmp_path, which, bundle)
    images = random_photos(3, height=32, width=32)
    theirs = open_portable(tmp_path).make_predict()(images)
    np.testing.assert_array_equal(theirs, make_predict(bundle)(images))
    if which == "safetensors":
        assert load_bundle(tmp_path / "model.safetensors").classes == CLASSES


@pytest.mark.torch
def test_torch_loads_the_torch_export(tmp_path):
    torch = pytest.importorskip("torch")
    torchvision = import_torchvision()
    write_model(tmp_path, "torch", bundle_of("mobilenet_v2"))
    theirs = torchvision.models.mobilenet_v2(num_classes=len(CLASSES))
    tensors = torch.load(tmp_path / "model.pth", weights_only=True)
    theirs.load_state_dict(tensors, strict=True)


@pytest.mark.parametrize("which", ["stablehlo", "safetensors", "torch"])
def test_labels_have_probabilities_of_their_own(which, tmp_path):
    bundle = with_labels(bundle_of(SMALL))
    write_model(tmp_path, which, bundle)
    images = random_photos(3, height=32, width=32)
    ours = make_predict(bundle)(images)
    model = open_portable(tmp_path)
    assert model.certainty == bundle.certainty
    np.testing.assert_allclose(model.make_predict()(images), ours, atol=1e-5)
    assert np.abs(ours.sum(1) - 1).min() > 1e-2, "a softmax would pass too"


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("resize, crop", [(37, 32), (32, 32), (20, 32), (33, 32)])
def test_recipe_gives_the_bits_of_training(resize, crop, fit, tmp_path):
    size = Preprocessing(resize, crop, fit=fit)
    (tmp_path / "recipe.py").write_text(exporting.recipe(size))
    prepare = runpy.run_path(str(tmp_path / "recipe.py"))["prepare"]
    sizes = ((50, 81), (81, 50), (32, 32), (9, 40), (37, 38), (1, 3), (1, 300))
    for height, width in sizes:
        (photo,) = random_photos(1, height=height, width=width)
        image = Image.fromarray(photo)
        ours = eval_image(image, resize=resize, crop=crop, fit=fit)
        np.testing.assert_array_equal(prepare(image), ours)


def test_recipe_turns_a_photo_upright(tmp_path):
    write_model(tmp_path, "safetensors", bundle_of(SMALL))
    prepare = runpy.run_path(str(tmp_path / exporting.RECIPE))["prepare"]
    (photo,) = random_photos(1, height=40, width=60)
    image = Image.fromarray(photo)
    exif = image.getexif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.png", image, exif=exif)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    ours = eval_image(upright, resize=37, crop=32)
    np.testing.assert_array_equal(prepare(path), ours)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["stablehlo", "safetensors", "torch"])
def test_export_proves_itself_and_predict_takes_it(which, small, tmp_path, capsys):
    if which == "stablehlo":
        pytest.importorskip("flatbuffers")
    target = tmp_path / "out"
    model = small / "model.safetensors"
    config = Config(run=model, to=which, output=target, check=small / "photos")
    numbers = export.main(config)
    assert numbers["difference"] < 1e-5 and numbers["other_labels"] == 0
    card = (target / "README.md").read_text()
    assert "3 of the 3 photos in photos" in card and "0 of 3 photos got another" in card
    assert "licence of the weights is unknown" in card and "| jax |" in card
    assert json.loads((target / "bundle.json").read_text())["classes"] == list(CLASSES)
    said = predict.main(predict.Config(run=target, images=(small / "photos",)))
    assert said == {"predicted": 3, "unreadable": 0}
    with pytest.raises(UsageError, match="there already"):
        export.main(config)


@pytest.mark.slow
def test_export_of_a_run_names_its_accuracy(run, tmp_path):
    target = tmp_path / "out"
    export.main(Config(run=run.folder, to="safetensors", output=target))
    card = (target / "README.md").read_text()
    assert f"{run.numbers['val_accuracy']:.2%} of " in card
    assert "validation photos of the run" in card and "| Began from | random |" in card


@pytest.mark.slow
def test_another_model_is_not_written(small, tmp_path, monkeypatch):
    right = exporting.WRITERS["torch"]

    def wrong(path, bundle):
        _, params, stats = functionalize(bundle.model)
        replace_arrays(bundle.model, jax.tree.map(lambda x: 1.1 * x, params), stats)
        right(path, bundle)

    monkeypatch.setitem(exporting.WRITERS, "torch", wrong)
    target = tmp_path / "deep" / "out"
    model = small / "model.safetensors"
    with pytest.raises(RunError, match="nothing is written"):
        export.main(
            Config(run=model, to="torch", output=target, check=small / "photos")
        )
    assert list(target.parent.iterdir()) == []


def test_a_missing_package_is_one_line(small):
    argv = ["export", str(small / "model.safetensors"), "--to", "onnx"]
    code = hiding({"onnx"}, f"import sys; sys.argv = {argv!r}\n") + (
        "from experiments.command.options import run_cli\n"
        "from experiments.export import Config, main\n"
        "run_cli(Config, main, prog='export')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "jaxvision[export]" in done.stderr


def test_what_cannot_be_exported_is_said(small, tmp_path):
    model = small / "model.safetensors"
    for config, word in (
        (Config(run=model, to="torch", output=tmp_path / "x"), "give --check"),
        (Config(run=model, to="torch", quantize="int8"), "only --to onnx"),
        (Config(run=tmp_path / "none", to="torch"), "no such run"),
        (
            Config(run=model, to="torch", output=tmp_path / "x", check=tmp_path / "no"),
            "--check",
        ),
    ):
        with pytest.raises(UsageError, match=word):
            export.main(config)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "x"}', '{"format": "onnx", "classes": [1]}']
)
def test_a_damaged_bundle_is_one_line(text, tmp_path):
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(UsageError, match="bundle.json is damaged"):
        open_portable(tmp_path)


def test_an_export_cannot_be_explained(small, tmp_path):
    write_model(tmp_path, "torch", bundle_of(SMALL))
    config = predict.Config(run=tmp_path, images=(small / "photos",), explain=True)
    with pytest.raises(UsageError, match="--explain"):
        predict.main(config)
