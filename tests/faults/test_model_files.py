"""`model.safetensors`: equal runs, equal bytes; what is damaged is one clear line."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from converters.bundle import load_bundle, save_bundle
from converters.weights import read_safetensors
from jaxvision import models
from jaxvision.calibration import UNKNOWN, Certainty
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing
from jaxvision.tensor_file import check_digest, save_tensors

CLASSES = ("ant", "Käfer", "bee")
SAVE = """
import sys
from tests.faults.test_model_files import write
write(sys.argv[1])
"""


def write(path, *, certainty=None, fit="crop", shift=0):
    model = models.create("cnn", num_classes=len(CLASSES), rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    save_bundle(
        path,
        "cnn",
        params,
        stats,
        classes=CLASSES,
        preprocessing=Preprocessing(resize=32, crop=32, fit=fit, shift=shift),
        certainty=certainty,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write(path)
    return path


def test_equal_models_have_equal_files_also_of_another_process(whole, tmp_path):
    for index in range(2):  # 4 keys: one order of 24 by chance
        write(tmp_path / f"{index}.safetensors")
        assert (tmp_path / f"{index}.safetensors").read_bytes() == whole.read_bytes()
    other = tmp_path / "other.safetensors"
    subprocess.run([sys.executable, "-c", SAVE, str(other)], check=True)
    assert other.read_bytes() == whole.read_bytes()


def test_file_is_as_the_library_reads_it(whole):
    data = whole.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0 and (8 + size) % 8 == 0
    bundle = load_bundle(whole)
    assert bundle.classes == CLASSES and bundle.preprocessing.crop == 32
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    assert list(metadata) == sorted(metadata) and "sha256" in metadata
    assert all(one["data_offsets"][0] % 4 == 0 for one in header.values())


def test_any_flipped_bit_is_noticed(whole, tmp_path):
    data = whole.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    path = tmp_path / "model.safetensors"
    for place in (head, head + 1001, len(data) - 1, data.index(b"ant")):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged|are damaged|not finite"):
            load_bundle(path)


def changed(whole, path, *, arrays=None, preprocessing=None, drop=(), certainty=None):
    """The file with other contents and no digest, as an older version wrote it."""
    with safe_open(whole, framework="np") as file:
        metadata = dict(file.metadata())
    del metadata["sha256"]
    said = json.loads(metadata["preprocessing"]) | (preprocessing or {})
    said = {key: value for key, value in said.items() if key not in drop}
    metadata["preprocessing"] = json.dumps(said)
    if certainty is not None:
        metadata["certainty"] = certainty
    save_file(load_file(whole) | (arrays or {}), path, metadata=metadata)
    return path


def test_file_without_a_digest_still_loads(whole, tmp_path):
    path = changed(whole, tmp_path / "old.safetensors", drop=["mirror"])
    assert load_bundle(path).preprocessing == load_bundle(whole).preprocessing


@pytest.mark.parametrize(
    ("preprocessing", "drop", "message"),
    [
        ({}, ["crop"], "the preprocessing has no crop"),
        ({"std": [0.2, 0, 0.2]}, [], "std is "),
        ({"std": [0.2, float("nan"), 0.2]}, [], "std is "),
        ({"mean": 0.5}, [], "mean is 0.5"),
        ({"mean": [0.5, 0.5]}, [], "mean is "),
        ({"mirror": "false"}, [], "mirror is 'false'"),
        ({"shift": True}, [], "shift is True"),
        ({"shift": -1}, [], "shift is -1"),
        ({"crop": 0}, [], "crop is 0"),
        ({"mean": [10**400, 0, 0]}, [], "mean is "),
        ({"fit": "squash"}, [], "fit is 'squash'"),
        ({"fit": ["pad"]}, [], r"fit is \['pad'\]"),
        ({"fit": None}, [], "fit is None"),
        ({"resize": "37"}, [], "resize is '37'"),
        ({"gamma": 2.2}, [], "gamma, which this version does not know"),
    ],
)
def test_metadata_of_no_use_are_one_line(whole, tmp_path, preprocessing, drop, message):
    path = changed(
        whole, tmp_path / "m.safetensors", preprocessing=preprocessing, drop=drop
    )
    with pytest.raises(ValueError, match=message) as error:
        load_bundle(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_older_versions_read_crops_as_they_do_and_refuse_what_they_do_not_know(
    whole, tmp_path
):
    """They take a file with any other key than these for one of a newer version."""
    known = {"resize", "crop", "mean", "std", "mirror"}
    for options in ({}, {"fit": "pad"}, {"fit": "stretch"}, {"shift": 1}):
        path = tmp_path / "m.safetensors"
        write(path, **options)
        size = load_bundle(path).preprocessing
        assert size == replace(size, **options)
        with safe_open(path, framework="np") as file:
            said = json.loads(file.metadata()["preprocessing"])
        assert set(said) == known | set(options)
    write(path)
    assert path.read_bytes() == whole.read_bytes()


def test_certainty_comes_back_and_older_files_have_none(whole, tmp_path):
    path = tmp_path / "m.safetensors"
    certainty = Certainty(1 / 3, ((0.9, 0.25), (0.95, 0.1 + 0.7)))
    write(path, certainty=certainty)
    assert load_bundle(path).certainty == certainty
    assert load_bundle(whole).certainty == UNKNOWN
    ours, theirs = load_file(path), load_file(whole)
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize(
    ("certainty", "message"),
    [
        ("{", "metadata are damaged"),
        ("[" * 100_000, "metadata are damaged"),
        ("[1.5]", r"certainty \[1.5\]"),
        ('{"bias": [1, 2]}', "its certainty has bias, which this version does"),
        ('{"temperature": 0}', "temperature is 0, and goes from 0.05 to 20"),
        ('{"temperature": NaN}', "temperature is nan"),
        ('{"temperature": -1.5}', "temperature is -1.5"),
        ('{"temperature": true}', "temperature is True"),
        ('{"temperature": "1.5"}', "temperature is '1.5'"),
        (f'{{"temperature": {"9" * 400}}}', "temperature is 9999"),
        ('{"thresholds": 0.5}', "not rising pairs of shares"),
        ('{"thresholds": [[0.9]]}', "not rising pairs"),
        ('{"thresholds": [[0.9, 0.5, 0.1]]}', "not rising pairs"),
        ('{"thresholds": [[0.9, null]]}', "not rising pairs"),
        ('{"thresholds": [[0.9, 1.5]]}', "not rising pairs"),
        ('{"thresholds": [[1.0, 0.5]]}', "not rising pairs"),
        ('{"thresholds": [[0.9, 0.5], [0.8, 0.6]]}', "not rising pairs"),
        ('{"thresholds": [[0.9, 0.5], [0.95, 0.4]]}', "not rising pairs"),
    ],
)
def test_certainty_of_no_use_is_one_line(whole, tmp_path, certainty, message):
    path = changed(whole, tmp_path / "m.safetensors", certainty=certainty)
    with pytest.raises(ValueError, match=message) as error:
        load_bundle(path)
    said = str(error.value)
    assert "\n" not in said and str(path) in said and len(said) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("suffix", "value", "message"),
    [
        ("running_var", -1.0, "negative variances"),
        ("weight", np.nan, "not finite"),
        ("weight", np.inf, "not finite"),
    ],
)
def test_weights_of_no_use_are_one_line(whole, tmp_path, suffix, value, message):
    arrays = load_file(whole)
    name = next(name for name in arrays if name.endswith(suffix))
    arrays[name].flat[0] = value
    path = changed(whole, tmp_path / "m.safetensors", arrays={name: arrays[name]})
    with pytest.raises(ValueError, match=f"{name} holds .*{message}"):
        load_bundle(path)


def test_single_numbers_keep_their_shape(tmp_path):
    """BatchNorm's counter is `()` in torch, which loads no `(1,)` in its place."""
    arrays = {"count": np.zeros((), np.int64), "vector": np.ones((1,), np.float32)}
    save_tensors(tmp_path / "x.safetensors", arrays, {})
    found, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert {name: array.shape for name, array in found.items()} == {
        "count": (),
        "vector": (1,),
    }
    check_digest(tmp_path / "x.safetensors", found, metadata)
