"""Names of classes and files are shown as they are, and pictures wait for the table."""

import json
import os

import numpy as np
import pytest
from flax import nnx
from rich.table import Table
from safetensors import safe_open
from safetensors.numpy import save_file

from converters.bundle import load_bundle, save_bundle
from converters.weights import load_state_dict
from experiments import predict
from experiments.command.console import Console
from experiments.command.options import RunError, read_yaml
from experiments.predict import Config
from experiments.training.backbones import build, choose_weights
from experiments.transfer import Config as TransferConfig
from jaxvision import models
from jaxvision.files import write_text
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing
from tests.photos import save


def write_model(path, name="cnn_small", classes=("a", "b/c", "d"), **sizes):
    model = models.create(name, num_classes=len(classes), rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    seen = Preprocessing(**{"resize": 36, "crop": 32, **sizes})
    save_bundle(path, name, params, stats, classes=classes, preprocessing=seen)
    return path


def test_brackets_and_colons_of_a_name_are_no_markup(capsys):
    names = ["[red]", "bird [adult]", "[/]", ":dog:", "[link=x]y", r"back\[slash]"]
    table = Table("class")
    for name in names:
        table.add_row(name)
    console = Console()
    console.table(table)
    for name in names:
        console.say(name)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line.strip("│┃ ") for line in lines if names[0] in line][-1] == "[red]"
    text = "\n".join(lines)
    assert all(text.count(name) == 2 for name in names)


def test_the_table_is_written_whatever_becomes_of_the_pictures(tmp_path, monkeypatch):
    model = write_model(tmp_path / "m.safetensors")
    photos = [save(tmp_path / "p" / f"{i * 120 * 'n'}{i}.png", seed=i) for i in (1, 2)]
    options = {"run": model, "images": (tmp_path / "p",), "explain": True}
    table, output = tmp_path / "x.csv", tmp_path / "e"
    found = predict.main(Config(**options, csv=table, output=output))
    assert found["predicted"] == 2 and len(table.read_text().splitlines()) == 3
    names = sorted(os.listdir(output))
    assert len(names) == 2 and max(map(len, map(os.fsencode, names))) <= 255
    assert names[0].startswith(photos[0].stem[:120])
    table.unlink()

    def full(*args, **kwargs):
        assert table.exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict, "atomic_path", full)
    with pytest.raises(RunError, match="^2 pictures could not be written, such as"):
        predict.main(Config(**options, csv=table, output=output))
    assert len(table.read_text().splitlines()) == 3


def test_equal_names_that_are_cut_stay_apart():
    taken = set()
    names = [predict._free("é" * 200, "ü" * 200, taken) for _ in range(12)]
    assert len(set(names)) == 12
    assert max(len(os.fsencode(name)) for name in names) <= 255


def test_a_file_may_have_the_longest_name(tmp_path):
    for name in ("n" * 255, "é" * 125 + ".json", "a." + "s" * 253):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("crop", [0, -1, "x", 100_000, 10**30, 2.5, True, None, 31])
def test_hostile_preprocessing_is_one_line(tmp_path, crop):
    path = write_model(tmp_path / "m.safetensors")
    with safe_open(path, framework="np") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "sha256"}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    said = json.loads(metadata["preprocessing"]) | {"crop": crop}
    save_file(arrays, path, {**metadata, "preprocessing": json.dumps(said)})
    with pytest.raises(ValueError, match=f"crop is {crop!r}") as caught:
        load_bundle(path)
    assert "\n" not in str(caught.value)


def test_the_last_layer_of_other_classes_is_not_kept(tmp_path):
    path = write_model(tmp_path / "m.safetensors", "resnet18", ("ant", "bee", "cat"))
    chosen = choose_weights("resnet18", str(path), console=Console())
    sizes = {"num_classes": 3, "size": 32, "seed": 1}
    same = build("resnet18", chosen, **sizes, classes=("ant", "bee", "cat"))
    other = build("resnet18", chosen, **sizes, classes=("ant", "bee", "dog"))
    turned = build("resnet18", chosen, **sizes, classes=("bee", "ant", "cat"))
    assert chosen.arrays is not None
    theirs = chosen.arrays["fc.bias"]
    for start, is_kept in ((same, True), (other, False), (turned, False)):
        bias = np.asarray(functionalize(start.model)[1]["fc"]["bias"])
        assert np.array_equal(bias, theirs) == is_kept, start.source
    assert same.source.endswith("with its last layer")
    assert (
        "new last layer (the classes of its own are others, such as 'cat'"
        in other.source
    )
    assert "in another order" in turned.source


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="systems with named pipes")
def test_named_pipes_are_no_files(tmp_path):
    for name in ("c.yaml", "w.pth", "w.safetensors"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file"):
        read_yaml(TransferConfig, tmp_path / "c.yaml")
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(ValueError, match="not a regular file"):
            load_state_dict(tmp_path / name)
    with pytest.raises(ValueError, match="not a regular file"):
        load_bundle(tmp_path / "w.safetensors")
