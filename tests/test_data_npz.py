"""Data sets in .npz files with Keras's keys, and what is said of bad ones."""

import numpy as np
import pytest
from PIL import Image

from jaxvision import preprocess
from jaxvision.data import open_dataset
from jaxvision.data.pieces import open_benchmark, open_photos
from tests.photos import SIZES, check_error


def npz_arrays(side=32, classes=10):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, side, side, 3), dtype=np.uint8)
    labels = (np.arange(30) % classes)[:, None]
    return {
        "x_train": images[:20],
        "y_train": labels[:20],
        "x_test": images[20:],
        "y_test": labels[20:],
    }


NATIVE = {"train_size": 32, "eval_resize": 32, "eval_crop": 32}


def test_npz_of_the_asked_size_is_taken_as_it_is(tmp_path):
    arrays = npz_arrays()
    np.savez_compressed(tmp_path / "tiny.npz", **arrays)
    data = open_dataset(str(tmp_path / "tiny.npz"), **NATIVE)
    np.testing.assert_array_equal(data.train.images, arrays["x_train"])
    np.testing.assert_array_equal(data.val.images, arrays["x_test"])
    np.testing.assert_array_equal(data.val.labels, arrays["y_test"][:, 0])
    assert data.train.labels.dtype == np.int32 and data.train.labels.shape == (20,)
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert (data.name, data.val.paths[3]) == ("tiny", "tiny.npz/test/00003")


def test_npz_of_another_size_is_resized_like_photos(tmp_path):
    arrays = npz_arrays(side=28, classes=10)
    grey = {**arrays, "x_train": arrays["x_train"][..., 0]}  # (n, h, w)
    grey["x_test"] = arrays["x_test"][..., :1]
    np.savez(tmp_path / "digits.npz", **grey)
    data = open_dataset(str(tmp_path / "digits.npz"), **SIZES)
    assert data.classes == tuple("0123456789")
    photo = Image.fromarray(grey["x_train"][7]).convert("RGB")
    expected = preprocess.square_image(photo, size=40)
    np.testing.assert_array_equal(data.train.images[7], expected)
    photo = Image.fromarray(grey["x_test"][7, ..., 0]).convert("RGB")
    expected = preprocess.eval_image(photo, resize=48, crop=36)
    np.testing.assert_array_equal(data.val.images[7], expected)


NPZ_ERRORS = {
    "missing key": (
        {"x_test": None},
        "lacks x_test .it has x_train, y_train, y_test.*",
    ),
    "pickled": (
        {"y_train": np.array([{}] * 20, object)},
        "y_train is an array of Python objects: save it again",
    ),
    "floats": (
        {"x_train": np.zeros((20, 8, 8, 3))},
        "x_train is float64.*scale it to 0",
    ),
    "channels first": (
        {"x_train": np.zeros((20, 3, 8, 8), np.uint8)},
        r"x_train has shape \(20, 3, 8, 8\).*move the channels last",
    ),
    "flat": ({"x_test": np.zeros((10, 64), np.uint8)}, r"x_test has shape \(10, 64\)"),
    "no images": (
        {"x_test": np.zeros((0, 8, 8, 3), np.uint8)},
        "x_test has shape.*n > 0",
    ),
    "one hot": ({"y_train": np.eye(20, 10, dtype=int)}, r"y_train.*argmax\(axis=1\)"),
    "too few labels": ({"y_train": np.arange(9)}, r"y_train has shape \(9,\).*\(20,\)"),
    "float labels": (
        {"y_train": np.arange(20.0)},
        "y_train is float64.*integers from 0",
    ),
    "text labels": (
        {"y_train": np.array(["a"] * 20)},
        "y_train is <U1.*integers from 0",
    ),
    "negative": ({"y_test": np.arange(10) - 1}, "y_test runs from -1 to 8"),
    "from one": (
        {"y_train": np.arange(20) % 10 + 1},
        "y_train has no image of class 0",
    ),
    "unseen": ({"y_test": np.arange(10) + 1}, "y_train has no image of class 10"),
    "huge": (
        {"y_test": np.arange(10) + 2**31 - 20},
        "y_train has no image of class 10",
    ),
    "one class": (
        {"y_train": np.zeros(20, int), "y_test": np.zeros(10, int)},
        "y_train has one class only",
    ),
}


@pytest.mark.parametrize("case", NPZ_ERRORS)
def test_npz_error_names_key_and_cure(tmp_path, case):
    changes, message = NPZ_ERRORS[case]
    arrays = {k: v for k, v in {**npz_arrays(), **changes}.items() if v is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    check_error(str(tmp_path / "a.npz"), message)


def test_npz_that_is_damaged_is_an_error(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **npz_arrays())
    data = bytearray(path.read_bytes())
    data[200:230] = bytes(30)
    path.write_bytes(data)
    check_error(str(path), "x_train is damaged")
    path.write_bytes(data[:300])
    check_error(str(path), "no .npz file, or a damaged one")
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(path)
    check_error(str(path), "holds a single array: write it with numpy.savez")


def test_npz_serves_super_resolution_and_its_labels_are_not_asked_for(tmp_path):
    arrays = npz_arrays()
    images = {key: arrays[key] for key in ("x_train", "x_test")}
    np.savez(tmp_path / "tiny.npz", **images, y_test="nothing reads this")
    found = open_photos(str(tmp_path / "tiny.npz"), crop_size=16, val_count=4)
    assert (found.name, found.count, len(found.val)) == ("tiny", 20, 4)
    np.testing.assert_array_equal(found.images, images["x_train"])
    for photo in found.val:
        index = int(photo.name.removeprefix("tiny.npz/test/"))
        np.testing.assert_array_equal(photo.image, images["x_test"][index])
        assert not photo.is_gray
    np.savez(tmp_path / "grey.npz", **{k: x[..., 0] for k, x in images.items()})
    whole = open_benchmark(str(tmp_path / "grey.npz"))
    assert len(whole) == 30 and all(photo.is_gray for photo in whole)
    grey = np.repeat(images["x_test"][9, ..., :1], 3, axis=-1)
    np.testing.assert_array_equal(whole[-1].image, grey)
    np.savez(tmp_path / "half.npz", x_train=images["x_train"])
    with pytest.raises(ValueError, match="lacks x_test .*keys x_train, x_test$"):
        open_photos(str(tmp_path / "half.npz"), crop_size=16)


def test_grey_images_of_cifar10s_size_are_not_called_its_classes(tmp_path):
    arrays = npz_arrays()
    grey = {k: x[..., 0] if k[0] == "x" else x for k, x in arrays.items()}
    np.savez(tmp_path / "digits.npz", **grey)
    data = open_dataset(str(tmp_path / "digits.npz"), **NATIVE)
    assert data.classes == tuple("0123456789")
    expected = np.repeat(grey["x_train"][..., None], 3, axis=-1)
    np.testing.assert_array_equal(data.train.images, expected)


def test_npz_of_the_asked_size_is_not_decoded(tmp_path, monkeypatch):
    np.savez(tmp_path / "tiny.npz", **npz_arrays())
    monkeypatch.setattr(Image, "fromarray", None)
    calls = []
    open_dataset(
        str(tmp_path / "tiny.npz"), **NATIVE, progress=lambda *done: calls.append(done)
    )
    assert calls == []
