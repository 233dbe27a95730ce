"""Every kind of data serves every task, and files are found in one way for all."""

import numpy as np
import pytest

from experiments.predict import find_images
from jaxvision.data import open_dataset, photo_index, sources
from jaxvision.data.file_photos import FilePhotos, Names
from jaxvision.data.folder import open_folder
from jaxvision.data.packed import pack
from jaxvision.data.pieces import open_benchmark, open_photos
from jaxvision.data.sources import KINDS, find_source
from tests.archives import home as home
from tests.archives import served as served
from tests.photos import SIZES, make_folder, noise, save
from tests.tiny_photos import photos
from tests.tiny_photos import prepare as prepare
from tests.tiny_photos import tiny_photos as tiny_photos


def write_npz(path):
    images = np.stack([noise(40, 40, seed=seed) for seed in range(6)])
    labels = np.arange(6) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(path)


def write_tfds(request):
    request.getfixturevalue("prepare")(train=photos(6, height=40), test=photos(3))
    return "tfds:tiny_photos"


def write_packed(path):
    root = make_folder(path / "set", {"a": 5, "b": 5})
    pack(find_source(root, labelled=True), path / "packed")
    return str(path / "packed")


def write_list(path):
    make_folder(path, {"a": 5, "b": 5})
    lines = [f"{name}/{index}.png,{name}" for name in "ab" for index in range(5)]
    (path / "list.csv").write_text("\n".join(["path,label", *lines]))
    return str(path / "list.csv")


def put(request, name):
    request.getfixturevalue("served")
    return name


# One for each row, by how its words begin.
SPECS = {
    "'demo'": lambda request, path: "demo",
    "'cifar10'": lambda request, path: put(request, "cifar10"),
    "'oxford_iiit_pet'": lambda request, path: put(request, "oxford_iiit_pet"),
    "a folder that experiments.pack": lambda request, path: write_packed(path),
    "a folder (": lambda request, path: make_folder(path / "set", {"a": 5, "b": 5}),
    "a .csv": lambda request, path: write_list(path / "set"),
    "tfds:NAME": lambda request, path: write_tfds(request),
    "a .npz file": lambda request, path: write_npz(path / "set.npz"),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.words[:12])
def test_every_kind_of_data_serves_every_task(kind, request, tmp_path):
    (write,) = (SPECS[start] for start in SPECS if kind.words.startswith(start))
    spec = write(request, tmp_path)
    assert sources.find_kind(spec) is kind
    data = open_dataset(spec, **SIZES)
    assert len(data.train) and len(data.val) and not data.skipped
    assert max(data.train.labels) == len(data.classes) - 1
    pieces = open_photos(spec, crop_size=24, val_count=3)
    assert pieces.name == data.name and pieces.count and pieces.val
    assert len(open_benchmark(spec)) >= pieces.count
    for labelled in (True, False):
        source = find_source(spec, labelled=labelled)
        for split in (source.train, source.val):
            assert len({photo.key for photo in split}) == len(split)
            found = [photo.label() for photo in split]
            assert all(
                (label in range(len(source.classes))) == labelled for label in found
            )


@pytest.mark.parametrize("labelled", [True, False])
def test_error_of_an_unknown_spec_lists_every_kind(labelled):
    with pytest.raises(ValueError, match="^data 'cifar': no such folder") as caught:
        find_source("cifar", labelled=labelled)
    for kind in KINDS:
        words = kind.words if labelled or kind.unlabelled is None else kind.unlabelled
        assert words in str(caught.value)


def test_a_kind_is_a_row(monkeypatch, tmp_path):
    def open_twice(spec, *, labelled):
        return open_folder(spec.removeprefix("twice:"), labelled=labelled)

    row = sources.Kind(lambda spec: spec.startswith("twice:"), open_twice, "twice:DIR")
    monkeypatch.setattr(sources, "KINDS", (*KINDS, row))
    spec = "twice:" + make_folder(tmp_path / "set", {"a": 5, "b": 5})
    assert len(open_dataset(spec, **SIZES).train) == 8
    assert open_photos(spec, crop_size=24).count == 8
    with pytest.raises(ValueError, match=r"or twice:DIR$"):
        open_benchmark("cifar")


def test_training_and_prediction_find_the_same_files(tmp_path):
    root = tmp_path / "set"
    kept = ["a/0.png", "a/1.JPG", "a/deep/2.webp", "b/3.tif", "b/z/y/4.pgm"]
    hidden = [".c/0.png", "a/.1.png", "b/.thumbnails/2.png"]
    for name in (*kept, *hidden):
        save(root / name)
    (root / "a" / "notes.txt").write_text("no photo")
    (root / "b" / "folder.png").mkdir()  # a name alone is no image
    elsewhere = save(tmp_path / "elsewhere" / "5.png").parent
    (root / "a" / "link").symlink_to(elsewhere)
    (root / "b" / "circle").symlink_to(root / "b")
    (root / "b" / "6.png").symlink_to(elsewhere / "5.png")
    names = {f"{root}/{name}" for name in (*kept, "a/link/5.png", "b/6.png")}
    data = open_dataset(str(root), **SIZES)
    assert sorted(data.train.paths + data.val.paths) == sorted(names)
    assert sorted(map(str, find_images([root]))) == sorted(names)
    whole = [photo.name for photo in open_benchmark(str(root))]
    assert sorted(whole) == sorted(names)
    assert whole == [str(path) for path in find_images([root])]
    source = find_source(str(root), labelled=False)
    assert {photo.key for photo in source.train} == {
        n[len(f"{root}/") :] for n in names
    }
    # A file that is named is taken as it is.
    given = [root / "a" / ".1.png", root / "a" / "notes.txt", root / "none.png"]
    assert find_images(given) == given


def large_folder(path, monkeypatch):
    monkeypatch.setattr(photo_index, "LARGE", 5)
    return make_folder(
        path / "set", {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 2}
    )


def test_index_is_the_folder_as_it_was_listed(tmp_path, monkeypatch):
    root = large_folder(tmp_path, monkeypatch)
    (tmp_path / "set" / "train" / "a" / "empty").mkdir()
    source, index = find_source(root, labelled=True), tmp_path / "photos.npz"
    assert photo_index.write_index(index, source, folder=root)
    known = photo_index.read_index(index, folder=root)
    assert known is not None and known.class_roots == source.class_roots
    for side in ("train", "val"):
        ours, theirs = (
            [(p.name, p.key, p.label()) for p in getattr(one, side)]
            for one in (known, source)
        )
        assert ours == theirs
    assert (known.name, known.classes) == (source.name, source.classes)
    assert photo_index.read_index(index, folder=str(tmp_path)) is None
    index.write_bytes(index.read_bytes()[:200])
    assert photo_index.read_index(index, folder=root) is None
    assert photo_index.read_index(tmp_path / "nothing", folder=root) is None


@pytest.mark.parametrize("change", ["new", "deep", "gone", "other", "split"])
def test_index_of_a_changed_folder_is_none(change, tmp_path, monkeypatch):
    root = large_folder(tmp_path, monkeypatch)
    train = tmp_path / "set" / "train"
    (train / "a" / "deep").mkdir()
    index = tmp_path / "photos.npz"
    photo_index.write_index(index, find_source(root, labelled=True), folder=root)
    assert photo_index.read_index(index, folder=root)
    if change == "gone":
        (train / "a" / "0.png").unlink()
    elif change == "split":
        (tmp_path / "set" / "test").mkdir()
    elif change == "other":
        save(train / "a" / "0.png", seed=77)
    else:
        save(train / "a" / ("deep" if change == "deep" else "") / "9.png")
    assert photo_index.read_index(index, folder=root) is None


def test_million_names_are_a_table(tmp_path):
    """Bytes a photo: of names as long as ImageNet's, labels, sizes and times."""
    names = Names.of(b"n01440764/n01440764_%05d.JPEG" % i for i in range(20_000))
    labels = np.zeros(len(names), np.int32)
    photos = FilePhotos(tmp_path, names, labels=labels)
    tables = (names.text, names.ends, labels, photos.facts())
    assert sum(table.nbytes for table in tables) / len(photos) < 60
    assert photos[19_999].key == "n01440764/n01440764_19999.JPEG"
