"""The embedded photographs: sizes, bits, and that no pixel is in both splits."""

import sys

import numpy as np
import pytest

from jaxvision.data import demo, demo_photos, open_dataset
from jaxvision.data.pieces import open_benchmark, open_photos

SIZES = {"train_size": 72, "eval_resize": 64, "eval_crop": 64}


@pytest.fixture(scope="module")
def data():
    return open_dataset("demo", **SIZES)


def test_demo_has_the_promised_sizes(data):
    assert data.train.images.shape == (929, 72, 72, 3)
    assert data.val.images.shape == (234, 64, 64, 3)
    assert data.train.images.dtype == data.val.images.dtype == np.uint8
    assert len(data.classes) == 9 and list(data.classes) == sorted(data.classes)
    train, val = np.bincount(data.train.labels), np.bincount(data.val.labels)
    assert (train.min(), train.max()) == (75, 126)
    assert (val.min(), val.max()) == (20, 30)
    assert data.skipped == ()


def test_demo_paths_agree_with_labels(data):
    for name, split in (("train", data.train), ("val", data.val)):
        assert len(set(split.paths)) == len(split)
        for path, label in zip(split.paths, split.labels, strict=True):
            assert path.startswith(f"demo/{name}/{data.classes[label]}/")
    coffee = list(data.classes).index("coffee")
    last = np.flatnonzero(data.train.labels == coffee)[12]
    assert data.train.paths[last] == "demo/train/coffee/0012.png"


def test_demo_is_the_same_at_each_call(data):
    again = open_dataset("demo", **SIZES, seed=5)
    assert again.train.paths == data.train.paths
    np.testing.assert_array_equal(again.train.images, data.train.images)
    np.testing.assert_array_equal(again.val.images, data.val.images)


def test_no_validation_pixel_is_trained_on():
    sizes = {name: x.shape[1::-1] for name, x in demo_photos().items()}
    for name, (train, val) in demo.demo_boxes(sizes).items():
        width, height = sizes[name]
        trained = np.zeros((height, width), bool)
        for left, top, right, bottom in train:
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert right - left == bottom - top
            trained[top:bottom, left:right] = True
        for left, top, right, bottom in val:
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert right - left == bottom - top
            assert not trained[top:bottom, left:right].any(), name
        assert len(set(val)) == len(val)
        scales = [box[2] - box[0] for box in train]
        assert max(scales) > 2 * min(scales)


def test_crops_come_from_their_photo(data):
    boxes = demo.demo_boxes({n: x.shape[1::-1] for n, x in demo_photos().items()})
    flat = [(name, box) for name in data.classes for box in boxes[name][0]]
    photos = demo_photos()
    for index in range(0, 929, 100):
        name, (left, top, right, bottom) = flat[index]
        assert name == data.classes[data.train.labels[index]]
        region = photos[name][top:bottom, left:right].astype(float)
        image = data.train.images[index].astype(float)
        np.testing.assert_allclose(image.mean((0, 1)), region.mean((0, 1)), atol=2.0)


def test_demo_is_neither_trivial_nor_impossible(data):
    """Nearest class by mean colour: well above one in nine, well below all right."""
    train = data.train.images.mean((1, 2))
    centers = np.stack([train[data.train.labels == c].mean(0) for c in range(9)])
    distance = np.square(data.val.images.mean((1, 2))[:, None] - centers).sum(-1)
    accuracy = (distance.argmin(1) == data.val.labels).mean()
    assert 0.4 < accuracy < 0.9


def test_demo_photos_are_whole():
    photos = demo_photos()
    assert tuple(photos) == tuple(demo.PHOTOS)
    assert photos["retina"].shape == (1411, 1411, 3)
    assert photos["coffee"].shape == (400, 600, 3)
    assert all(x.dtype == np.uint8 and x.ndim == 3 for x in photos.values())


def test_missing_scikit_image_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    message = r"^data 'demo' needs scikit-image: pip install 'jaxvision\[app\]'$"
    for read in (
        lambda: open_dataset("demo", **SIZES),
        lambda: open_photos("demo", crop_size=32),
        lambda: open_benchmark("demo"),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_demo_needs_no_network(monkeypatch):
    """scikit-image's downloader is not even asked."""
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setattr("socket.socket.connect", None)
    assert len(demo_photos()) == 9
