"""Photos that cannot be read: said before the training, and named, every one."""

import pytest

from experiments import cifar10
from experiments.command.console import Console
from experiments.runs.folder import say_data
from jaxvision.data.pieces import open_photos
from tests.photos import make_folder

pytestmark = pytest.mark.app
CLASSES = ("ants", "daisy", "roses")
HEIC = b"\0\0\0\x18ftypheic"
"""How a photo of a telephone begins; nothing follows."""


@pytest.fixture
def photos(tmp_path):
    """Six sound photos a class, and five damaged ones."""
    for split, count in (("train", 4), ("val", 2)):
        make_folder(tmp_path / "photos" / split, dict.fromkeys(CLASSES, count))
    for name in bad_names():
        (tmp_path / "photos/train" / name).write_bytes(HEIC)
    return tmp_path / "photos"


def bad_names():
    return [f"{name}/bad{index}.jpg" for name in CLASSES for index in range(5)]


def config(photos, **options):
    return cifar10.Config(
        model=("fcn_baseline",),
        data=str(photos),
        batch_size=4,
        epochs=1,
        augment="none",
        **options,
    )


def test_a_dry_run_says_how_many_are_left_out(photos, capsys):
    cifar10.main(config(photos, dry_run=True))
    said = capsys.readouterr().out
    assert "15 photos were left out" in said
    assert said.index("left out") < said.index("one step of")


def test_all_are_named_in_the_run_and_counted_before_it(photos, tmp_path, capsys):
    cifar10.main(config(photos, output=tmp_path / "runs"))
    said = capsys.readouterr().out
    assert said.index("15 photos were left out") < said.index("epoch 1/1")
    listed = (tmp_path / "runs/cifar10/1/skipped.txt").read_text()
    assert all(name in listed for name in bad_names())
    assert len(listed.splitlines()) == 15


def test_super_resolution_counts_them_too(photos, capsys):
    say_data(open_photos(str(photos), crop_size=16, scale=2, val_count=2), Console())
    assert "15 photos were left out" in capsys.readouterr().out
