"""The layout of a repository of the Hugging Face Hub: read back here, and by timm."""

import json
import math

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

from converters.bundle import load_bundle
from converters.torchvision_import import import_torchvision
from experiments import export, predict
from experiments.command.options import UsageError
from experiments.export import Config
from experiments.inference import hub
from experiments.inference.exporting import write_model
from experiments.inference.portable import About
from experiments.runs.model_card import Proof, model_card
from experiments.training.backbones import in_folder
from jaxvision.calibration import UNKNOWN
from jaxvision.files import write_text
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing, eval_image, normalize, to_float
from tests.exported import CLASSES, bundle_of, random_photos
from tests.runs import rows_of
from tests.test_export import small as small

TIMM_TOO = ("resnet18", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "vgg11_bn")


def about(name, crop=224, resize=256):
    return About("safetensors", name, CLASSES, Preprocessing(resize, crop), UNKNOWN)


@pytest.fixture
def exported(small, tmp_path, capsys):
    target = tmp_path / "out" / "cats"
    export.main(
        Config(small / "model.safetensors", "hub:me/cats", target, small / "photos")
    )
    return target, " ".join(capsys.readouterr().out.split())


def test_folder_is_what_the_hub_expects(exported):
    folder, said = exported
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "bundle.json",
        "config.json",
        "model.safetensors",
        "preprocess.py",
    }
    assert f"nothing was uploaded; to do so: hf upload me/cats {folder}" in said
    start, front, card = (folder / "README.md").read_text().split("---\n", 2)
    assert start == "" and "# cnn_small for 5 classes" in card
    assert yaml.safe_load(front) == {
        "library_name": "jaxvision",
        "pipeline_tag": "image-classification",
        "license": "unknown",
        "tags": ["image-classification", "jaxvision", "safetensors"],
    }
    assert "--weights FOLDER" in card and "hf-hub:" not in card
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "cnn_small" and config["num_classes"] == 5
    assert config["label_names"] == list(CLASSES)
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]


def test_our_own_loaders_read_it_back(exported, small, tmp_path):
    folder, _ = exported
    tables = []
    for place in (folder, small / "model.safetensors"):
        table = tmp_path / "out.csv"
        predict.main(predict.Config(place, (small / "photos",), csv=table))
        tables.append(rows_of(table))
    assert tables[0] == tables[1]
    assert in_folder(str(folder)) == str(folder / "model.safetensors")
    assert load_bundle(in_folder(str(folder))).classes == CLASSES
    with pytest.raises(UsageError, match="there is no model.safetensors in this"):
        in_folder(str(tmp_path))


def test_weights_by_name_are_no_folder(tmp_path, monkeypatch):
    (tmp_path / "random").mkdir()
    monkeypatch.chdir(tmp_path)
    assert in_folder("random") == "random" and in_folder("no.pth") == "no.pth"


@pytest.mark.parametrize(
    "to",
    ["hub:", "hub:me", "hub:me/", "hub:/cats", "hub:me/my/cats", "hub:me/ca ts"]
    + ["hub:-me/cats", "hub:me/cats--x", "hub:me/..", "hub:me/" + "x" * 99, "hub:ü/x"],
)
def test_name_that_the_hub_does_not_take_is_one_line(to, tmp_path):
    with pytest.raises(UsageError, match=r"^--to hub:.*: it is hub:OWNER/NAME"):
        export.main(Config(tmp_path, to))
    assert hub.repository("hub:my-Org_1/a.b") == "my-Org_1/a.b"


def test_form_that_there_is_not_lists_those_that_there_are(tmp_path):
    with pytest.raises(UsageError, match="^--to tflite: it is onnx, .* or hub:OWNER/"):
        export.main(Config(tmp_path, "tflite"))


def test_timm_resizes_to_the_pixel():
    for crop in range(16, 520, 3):
        for resize in range(crop, 2 * crop, 7):
            share = hub.crop_share(Preprocessing(resize, crop))
            assert math.floor(crop / share) == resize
    assert hub.crop_share(Preprocessing(256, 224)) == 0.875


def test_front_matter_names_timm_where_it_has_the_network():
    for name in TIMM_TOO:
        assert "library_name: timm\n" in hub.front_matter(about(name))
        assert "hf-hub:me/cats" in "".join(hub.notes(about(name), "me/cats"))
    for name in ("mobilenet_v2", "mobilenet_v3_large", "googlenet", "cnn_small"):
        assert hub.timm_layers(about(name)) is None
    # On larger maps timm's VGGs compute something else.
    assert hub.timm_layers(about("vgg16", crop=256)) is None


def prepared_by_timm(folder, photos):
    """What timm makes of photos by what the folder says, `(n, 3, h, w)`."""
    torch = pytest.importorskip("torch")
    import_torchvision()  # before timm, which needs it whole
    timm = pytest.importorskip("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    return torch.stack([transform(photo) for photo in photos]), model


@pytest.mark.torch
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_timm_sees_the_whole_photo_too(fit, tmp_path):
    bundle = bundle_of("resnet18", views={"fit": fit})
    hub.write_config(tmp_path, write_model(tmp_path, "safetensors", bundle))
    size = bundle.preprocessing
    photos = [Image.fromarray(p) for p in random_photos(2, height=64, width=128)]
    ours = [eval_image(p, resize=9, crop=size.crop, fit=fit) for p in photos]
    ours = normalize(to_float(np.stack(ours)), mean=size.mean, std=size.std)
    theirs, _ = prepared_by_timm(tmp_path, photos)
    np.testing.assert_allclose(theirs.permute(0, 2, 3, 1), ours, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize(
    "name",
    [TIMM_TOO[0], *(pytest.param(n, marks=pytest.mark.slow) for n in TIMM_TOO[1:])],
)
def test_timm_gives_our_own_logits(name, tmp_path, float64):
    torch = pytest.importorskip("torch")
    import_torchvision()  # before timm, which needs it whole
    timm = pytest.importorskip("timm")
    bundle = bundle_of(name)
    said = write_model(tmp_path, "safetensors", bundle)
    hub.write_config(tmp_path, said)
    size = bundle.preprocessing
    photos = [Image.fromarray(p) for p in random_photos(3, height=90, width=77)]
    inputs, theirs = prepared_by_timm(tmp_path, photos)
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)
    crops = [eval_image(p, resize=size.resize, crop=size.crop) for p in photos]
    images = normalize(to_float(np.stack(crops)), mean=size.mean, std=size.std)
    np.testing.assert_allclose(inputs.permute(0, 2, 3, 1), images, atol=1e-6)
    apply, *arrays = functionalize(bundle.model)
    # In 64 bits: these models' statistics, of small photos, blow rounding up.
    arrays = jax.tree.map(lambda x: np.asarray(x, np.float64), arrays)
    ours, _ = apply(*arrays, inputs.double().permute(0, 2, 3, 1).numpy())
    with torch.no_grad():
        expected = theirs.double()(inputs.double()).numpy()
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)
    # As a start for other classes, too.
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2)
    assert other(inputs).shape == (3, 2)


def test_card_of_a_run_keeps_its_proof_below_the_front_matter(tmp_path):
    proof = Proof(3, "photos", 1e-4, 1e-6, 0, None, None, 1.0)
    what = about("resnet18")
    card = hub.front_matter(what) + model_card(
        what, proof, run={}, judged="", size=1, notes=hub.notes(what, "me/cats")
    )
    write_text(tmp_path / "README.md", card)
    assert card.startswith("---\nlibrary_name: timm\n") and "## Proof" in card
