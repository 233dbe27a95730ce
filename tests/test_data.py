"""Folders of photographs against ImageFolder, and what is said of bad ones."""

import os
import threading

import numpy as np
import pytest
from PIL import Image

from jaxvision import preprocess
from jaxvision.data import open_dataset
from tests.photos import (
    MODES,
    SIZES,
    bad_file,
    check_error,
    in_mode,
    make_folder,
    noise,
    save,
)


def test_strip_is_not_blown_up(tmp_path, monkeypatch):
    root = tmp_path / "data"
    make_folder(root, {"a": 3, "b": 3})
    save(root / "a" / "strip.png", Image.new("RGB", (4000, 1)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    data = open_dataset(str(root), **SIZES)
    assert data.skipped == (f"{root}/a/strip.png: a strip of 4000 x 1 pixels",)


def test_folder_gives_squares_crops_labels_and_paths(tmp_path):
    root = make_folder(
        tmp_path / "set", {"train/b": 2, "train/a": 3, "val/a": 1, "val/b": 2}
    )
    data = open_dataset(root, **SIZES)
    assert (data.name, data.classes, data.skipped) == ("set", ("a", "b"), ())
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.val.labels.tolist() == [0, 1, 1]
    assert data.train.labels.dtype == np.int32 and data.train.images.dtype == np.uint8
    assert data.val.paths == tuple(f"{root}/val/{x}.png" for x in ("a/0", "b/0", "b/1"))
    assert len(data.train) == 5
    for path, image in zip(data.train.paths, data.train.images, strict=True):
        expected = preprocess.square_image(Image.open(path), size=40)
        np.testing.assert_array_equal(image, expected)
    for path, image in zip(data.val.paths, data.val.images, strict=True):
        expected = preprocess.eval_image(Image.open(path), resize=48, crop=36)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
def test_folder_equals_image_folder_to_the_bit(tmp_path):
    pytest.importorskip("torch")
    from converters.torchvision_import import import_torchvision

    torchvision = import_torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import functional

    for split in ("train", "val"):
        for index, (name, (mode, options)) in enumerate(MODES.items()):
            folder = ("x", "y/deep", "y/deep/er", "Z", "y")[index % 5]
            save(tmp_path / split / folder / name, in_mode(mode), **options)
    save(tmp_path / "val" / "x" / "large.JPG", Image.fromarray(noise(700, 411)))
    preset = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    resize, crop = preset.resize_size[0], preset.crop_size[0]
    data = open_dataset(
        str(tmp_path), train_size=64, eval_resize=resize, eval_crop=crop
    )
    for split, short, side in ((data.train, 64, 64), (data.val, resize, crop)):
        theirs = ImageFolder(tmp_path / ("train" if split is data.train else "val"))
        assert data.classes == tuple(theirs.classes)
        assert list(zip(split.paths, split.labels, strict=True)) == theirs.samples
        for image, (photo, _) in zip(split.images, theirs, strict=True):
            photo = functional.resize(
                photo, [short], interpolation=preset.interpolation, antialias=True
            )
            expected = np.asarray(functional.center_crop(photo, [side]))
            np.testing.assert_array_equal(image, expected)


def test_unreadable_files_are_counted_named_and_left_out(tmp_path):
    root = tmp_path / "data"
    make_folder(root, {"train/a": 4, "train/b": 4, "val/a": 3, "val/b": 3})
    clean = open_dataset(str(root), **SIZES)
    for kind in ("text.jpg", "empty.jpg", "truncated.png"):
        bad_file(root / "train" / "a" / f"0{kind}", kind)
    bad_file(root / "val" / "b" / "1text.jpg", "text.jpg")
    data = open_dataset(str(root), **SIZES)
    assert [line.split(": ")[0] for line in data.skipped] == [
        f"{root}/train/a/0empty.jpg",
        f"{root}/train/a/0text.jpg",
        f"{root}/train/a/0truncated.png",
        f"{root}/val/b/1text.jpg",
    ]
    assert data.skipped[1] == f"{root}/train/a/0text.jpg: no image"
    for split, expected in ((data.train, clean.train), (data.val, clean.val)):
        assert split.paths == expected.paths
        np.testing.assert_array_equal(split.labels, expected.labels)
        np.testing.assert_array_equal(split.images, expected.images)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_validation_folder_may_have_other_names(tmp_path, name):
    root = make_folder(
        tmp_path, {f"{s}/{c}": 1 for s in ("train", name, "zzz") for c in "ab"}
    )
    assert open_dataset(root, **SIZES).val.paths[0] == f"{root}/{name}/a/0.png"
    if name == "validation":
        (tmp_path / "zzz").rename(tmp_path / "test")
        assert open_dataset(root, **SIZES).val.paths[0] == f"{root}/{name}/a/0.png"


def test_hidden_and_other_files_are_passed_over(tmp_path):
    root = tmp_path / "data"
    make_folder(root, {"a": 5, "b": 5, ".cache/c": 1, "a/.thumbnails": 2})
    save(root / "a" / "._0.png")
    (root / "a" / "notes.txt").write_text("no photo")
    (root / "README.md").write_text("no class")
    (root / "b" / "circle").symlink_to(root / "b")
    data = open_dataset(str(root), **SIZES)
    assert (data.classes, len(data.train), len(data.val)) == (("a", "b"), 8, 2)
    assert data.skipped == ()


def test_train_folder_of_images_is_a_class(tmp_path):
    root = make_folder(tmp_path, {"train": 5, "ship": 5})
    assert open_dataset(root, **SIZES).classes == ("ship", "train")


def test_stratified_split_is_a_fifth_of_each_class(tmp_path):
    root = make_folder(tmp_path / "one", {"a": 20, "b": 10, "c": 2, "d": 3})
    data = open_dataset(root, **SIZES)
    assert np.bincount(data.val.labels).tolist() == [4, 2, 1, 1]
    assert np.bincount(data.train.labels).tolist() == [16, 8, 1, 2]
    assert not set(data.train.paths) & set(data.val.paths)
    # Neither the place nor the files' order on the disk changes it; the seed does.
    os.rename(tmp_path / "one", tmp_path / "two")
    for path in sorted((tmp_path / "two" / "a").iterdir(), reverse=True):
        path.rename(path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
    again = open_dataset(str(tmp_path / "two"), **SIZES)
    assert [p.replace("/one/", "/two/") for p in data.val.paths] == list(
        again.val.paths
    )
    np.testing.assert_array_equal(data.val.images, again.val.images)
    other = open_dataset(str(tmp_path / "two"), seed=1, **SIZES)
    assert other.val.paths != again.val.paths


def test_split_works_around_unreadable_files(tmp_path):
    make_folder(tmp_path, {"a": 5, "b": 2})
    before = open_dataset(str(tmp_path), **SIZES)
    for seed in range(6):  # wherever they rank, both sides keep a readable image
        bad_file(tmp_path / "b" / f"x{seed}.jpg", "text.jpg")
    data = open_dataset(str(tmp_path), **SIZES)
    assert len(data.skipped) == 6
    assert (data.train.paths, data.val.paths) == (before.train.paths, before.val.paths)


FOLDER_ERRORS = {
    "empty folder": ({}, "has no class folders.*CLASS"),
    "loose images": ({".": 3}, "has no class folders"),
    "one class": ({"only": 3}, "has one class, 'only'"),
    "one class in train": (
        {"train/only": 3, "val/only": 3},
        "train has one class, 'only'",
    ),
    "no val": ({"train/a": 3, "train/b": 3}, "has train/ but no val/: add .*val/CLASS"),
    "no train": ({"val/a": 3, "val/b": 3}, "has val/ but no train/: add .*train/CLASS"),
    "empty class": (
        {"a": 3, "b": 0},
        "no images of class 'b' in .*/b: add some.*remove",
    ),
    "empty class in val": (
        {"train/a": 3, "train/b": 3, "val/a": 3, "val/b": 0},
        "no images of class 'b' in .*val/b: add some",
    ),
    "class missing in val": (
        {"train/a": 3, "train/b": 3, "train/c": 3, "val/a": 3, "val/b": 3},
        "class 'c' in .*train but not in .*val: add .*val/c or remove .*train/c",
    ),
    "classes missing in train": (
        {"train/a": 1, "train/b": 1, **{f"valid/{c}": 1 for c in "abcd"}},
        "classes 'c', 'd' in .*valid but not in .*train: add .*train/c or remove",
    ),
    "one image": (
        {"a": 3, "b": 1},
        "class 'b' has one readable image in .*/b: two are",
    ),
    "empty train": ({"train": 0, "val/a": 1, "val/b": 1}, "train has no class folders"),
}


@pytest.mark.parametrize("case", FOLDER_ERRORS)
def test_folder_error_names_folder_and_cure(tmp_path, case):
    counts, message = FOLDER_ERRORS[case]
    root = tmp_path / "data"
    root.mkdir()
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            save(root / name / f"{index}.png")
    check_error(str(root), message)


@pytest.mark.parametrize("layout", [("",), ("train/", "val/")])
def test_class_of_unreadable_files_is_an_error(tmp_path, layout):
    make_folder(tmp_path, {f"{split}{name}": 3 for split in layout for name in "ab"})
    folder = tmp_path / layout[-1] / "b"
    for path in folder.iterdir():
        path.write_text("no photo")
    check_error(
        str(tmp_path),
        f"none of the images of class 'b' in {folder} can be read "
        f"\\({folder}/.*png: no image\\): replace them or remove",
    )


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "data '': no such folder; it may be 'demo', .*, a folder .* or a .npz"),
        (
            "/no/where",
            "data '/no/where': no such folder; it may be 'demo', .*, a folder",
        ),
        ("cifar", "data 'cifar': no such folder; it may be 'demo', .*, a folder"),
        ("/no/where.npz", "/no/where.npz: no such file"),
        (__file__, "test_data.py' is a file; it may be 'demo', .*, a folder"),
    ],
)
def test_unknown_spec_says_what_it_may_be(spec, message):
    check_error(spec, message)


def test_progress_counts_every_photo_in_the_main_thread(tmp_path):
    root = make_folder(tmp_path, {"a": 5, "b": 5})
    calls = []

    def progress(done, total):
        assert threading.current_thread() is threading.main_thread()
        calls.append((done, total))

    open_dataset(root, **SIZES, progress=progress)
    assert calls == [(done, 10) for done in range(1, 11)]


@pytest.mark.data
def test_real_folder_of_nine_classes(data_folder):
    data = open_dataset(
        str(data_folder / "nine_classes"), train_size=64, eval_resize=64, eval_crop=56
    )
    assert (len(data.train), len(data.val), data.skipped) == (929, 234, ())
    counts = np.bincount(data.train.labels)
    assert len(data.classes) == 9 and counts.min() == 75 and counts.max() == 126
