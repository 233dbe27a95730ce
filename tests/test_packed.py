"""Photos packed into ArrayRecord files: the same photos, classes, split and pixels."""

import numpy as np
import pytest

from experiments import pack
from experiments.command.options import UsageError
from jaxvision.data import list_dataset, open_dataset, packed
from jaxvision.data.sources import find_source
from tests.photos import SIZES, bad_file, check_error, make_folder, noise, save

pytest.importorskip(
    "array_record", reason="array_record is not installed: pip install '.[stream]'"
)


def packed_folder(path, source, **options):
    pack.main(pack.Config(str(source), path / "packed", **options))
    return str(path / "packed")


@pytest.mark.parametrize("split", [{}, {"val": 2}])
def test_packed_photos_are_those_of_the_folder(split, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "SHARD", 20_000)  # several files
    sides = {"train": 6, **split} if split else {"": 6}
    counts = {f"{side}/{c}".strip("/"): n for side, n in sides.items() for c in "ab"}
    root = make_folder(tmp_path / "set", counts)
    found = packed_folder(tmp_path, root)
    assert len(list((tmp_path / "packed").glob("train-*.array_record"))) > 1
    ours, theirs = (open_dataset(spec, **SIZES) for spec in (found, root))
    assert (ours.name, ours.classes) == (theirs.name, theirs.classes)
    for one, other in ((ours.train, theirs.train), (ours.val, theirs.val)):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    streamed = list_dataset(found, **SIZES).stream()
    np.testing.assert_array_equal(streamed.train.images[:], theirs.train.images)
    keys = [
        [photo.key for photo in find_source(s, labelled=True).train]
        for s in (found, root)
    ]
    assert keys[0] == keys[1]


def test_resized_photos_keep_their_shape(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        save(tmp_path / "set" / name)  # 50 x 61
    from PIL import Image

    save(tmp_path / "set" / "b" / "2.png", Image.fromarray(noise(20, 30)))
    found = packed_folder(tmp_path, tmp_path / "set", resize=25)
    sizes = [photo.open().size for photo in find_source(found, labelled=True).train]
    assert sizes == [(30, 25)] * 4 + [(30, 20)]


def test_unreadable_photos_are_left_out_and_named(tmp_path, capsys):
    root = make_folder(tmp_path / "set", {"a": 4, "b": 4})
    bad_file(tmp_path / "set" / "a" / "2.png", "truncated.png")
    found = packed_folder(tmp_path, root)
    said = capsys.readouterr().out
    assert "left out" in said and "a/2.png" in said and "7 photos" in said
    assert len(find_source(found, labelled=True).train) == 7


def test_nothing_is_written_over_and_nothing_is_left_half(tmp_path):
    root = make_folder(tmp_path / "set", {"a": 2, "b": 2})
    (tmp_path / "packed").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        packed_folder(tmp_path, root)
    (tmp_path / "packed").rmdir()
    with pytest.raises(UsageError, match="no such folder"):
        packed_folder(tmp_path, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="only folders of images are packed"):
        packed_folder(tmp_path, "demo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize("damage", ["short", "label", "shard", "record"])
def test_damage_is_one_line(damage, tmp_path):
    root = make_folder(tmp_path / "set", {"a": 3, "b": 3})
    found = packed_folder(tmp_path, root)
    table = tmp_path / "packed" / packed.TABLE
    (shard,) = (tmp_path / "packed").glob("train-*")
    if damage == "short":
        table.write_bytes(table.read_bytes()[:100])
    elif damage == "label":
        with np.load(table) as arrays:
            changed = dict(arrays)
        changed["train_numbers"][0, 0] = 7
        np.savez(table, **changed)
    elif damage == "shard":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[300:400] = bytes(100)
        shard.write_bytes(data)
        assert open_dataset(found, **SIZES).skipped
        return
    check_error(found, "pack the photos anew")
