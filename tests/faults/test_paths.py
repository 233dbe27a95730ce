"""Checkpoints are saved and read wherever a folder can be."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.command.options import UsageError
from experiments.runs.folder import new_run, open_run
from jaxvision import array_folder, checkpoint, manifest
from jaxvision.checkpoint import CheckpointError

NAMES = {
    "brackets": "runs [v2]",
    "star": "a*b",
    "question": "a?b",
    "braces": "a{b,c}%d#e",
    "space": " a  b ",
    "newline": "a\nb",
    "quotes": "a'b\"c\\d$e;f",
    "four bytes": "🦜🦜",
    "long": "x" * 200,
    "no utf-8": os.fsdecode(b"caf\xe9"),
    "scheme": "gs:",
    "home": "~",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_what_is_saved_below_any_name_comes_back(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    for step in range(3):
        checkpoint.save(folder, step, {"x": jnp.full(5, step)}, metadata={"s": step})
    assert sorted(os.listdir(folder)) == ["1", "2"]
    found = checkpoint.restore(folder, {"x": jnp.zeros(5, int)})
    assert found is not None and found.tree["x"].tolist() == [2] * 5


def test_a_folder_for_temporary_files_may_have_brackets_too(tmp_path, monkeypatch):
    (tmp_path / "tmp [1]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp [1]"))
    checkpoint.save(tmp_path / "[2]", 1, {"x": jnp.ones(1)}, metadata={})
    assert checkpoint.restore(tmp_path / "[2]", {"x": jnp.ones(1)}) is not None


def test_what_cannot_be_read_again_replaces_nothing(tmp_path, monkeypatch):
    tree = {"x": jnp.ones(3)}
    checkpoint.save(tmp_path, 1, tree, metadata={}, keep=1)
    read = array_folder.read_arrays

    def damaged(path, names):
        return {name: np.nextafter(x, 9) for name, x in read(path, names).items()}

    monkeypatch.setattr(array_folder, "read_arrays", damaged)
    with pytest.raises(CheckpointError, match="x is not what was written"):
        checkpoint.save(tmp_path, 2, tree, metadata={}, keep=1)
    assert os.listdir(tmp_path) == ["1"]


def test_what_cannot_be_read_later_is_passed_over(tmp_path, monkeypatch):
    """A step of which every byte is as written, but of an Orbax that lost it."""
    tree = {"x": jnp.ones(3)}
    for step in (1, 2):
        checkpoint.save(tmp_path, step, tree, metadata={})
    state = tmp_path / "2" / "state"
    for path in [*state.rglob("*")]:
        if path.is_file():
            path.unlink()
    digests = manifest._digests(tmp_path / "2")
    digests.pop("manifest.json")
    manifest.write_text(tmp_path / "2" / "manifest.json", json.dumps(digests))
    found = checkpoint.restore(tmp_path, tree)
    assert found is not None and found.step == 1
    assert "2 cannot be read" in found.skipped[0] and "\n" not in found.skipped[0]


def test_a_run_whose_name_is_no_text_is_refused_at_the_start(tmp_path):
    path = tmp_path / NAMES["no utf-8"]
    with pytest.raises(UsageError, match=r"caf\\udce9.*not UTF-8"):
        new_run(path, "transfer", {})
    assert os.listdir(tmp_path) == []
    path.mkdir()
    with pytest.raises(UsageError, match=r"--resume .*not UTF-8"):
        open_run(path)
