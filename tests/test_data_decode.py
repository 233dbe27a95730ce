"""One photograph of every kind, and many of them in threads."""

import os
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxvision.data.decode import UnreadableImageError, open_image
from jaxvision.data.photo import Photo
from jaxvision.data.reader import make_tick, read
from jaxvision.data.squares import read_squares
from tests.photos import MODES, bad_file, in_mode, noise, save

# Numpy's way from what a file stores to the upright image, from the EXIF standard.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_what_image_folder_shows(tmp_path, name):
    mode, options = MODES[name]
    path = save(tmp_path / name, in_mode(mode), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of the transparency
        expected = np.asarray(Image.open(path).convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # ours must not warn
        photo = open_image(path)
    assert photo.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(photo), expected)
    assert expected.std() > 5


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".lzw.tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    options = {".webp": {"lossless": True}, ".lzw.tif": {"compression": "tiff_lzw"}}
    tags, extra = exif(orientation), options.get(suffix, {})
    path = save(tmp_path / f"photo{suffix}", exif=tags, **extra)
    # The same file without the tag: what is stored, lossy or not.
    plain = np.asarray(Image.open(save(tmp_path / f"plain{suffix}", **extra)))
    photo = open_image(path)
    np.testing.assert_array_equal(np.asarray(photo), UPRIGHT[orientation](plain))
    np.testing.assert_array_equal(photo, ImageOps.exif_transpose(Image.open(path)))


@pytest.mark.parametrize(
    "tags", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b""]
)
def test_damaged_exif_leaves_the_pixels(tmp_path, tags):
    path = save(tmp_path / "photo.png", exif=tags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(np.asarray(open_image(path)), noise())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big-endian.tif", "a.pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 65536, (31, 23)).astype(np.uint16)
    values[0, :4] = 0, 128, 129, 65535
    dtype = ">u2" if name == "big-endian.tif" else "<u2"
    path = save(tmp_path / name, Image.fromarray(values.astype(dtype)))
    expected = np.rint(values / 65535 * 255)
    expected = np.repeat(expected[..., None], 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(open_image(path)), expected)


def test_sixteen_bit_photo_is_turned_too(tmp_path):
    grey = noise(channels=0)
    image = Image.fromarray(grey.astype(np.uint16) * 257)
    path = save(tmp_path / "a.png", image, exif=exif(6))
    photo = np.asarray(open_image(path))
    np.testing.assert_array_equal(photo[..., 1], np.rot90(grey, -1))


BAD = {
    "truncated.jpg": "truncated",
    "truncated.png": "truncated",
    "corrupt.png": ".",
    "text.jpg": "no image",
    "empty.jpg": "an empty file",
    "float.tif": "floating-point pixels",
    "wide.tif": r"32-bit pixels beyond 0\.\.65535",
    "absent.jpg": "No such file",
}


@pytest.mark.parametrize("kind", BAD)
def test_unreadable_photo_says_why_in_one_line(tmp_path, kind):
    path = bad_file(tmp_path / kind, kind)
    with pytest.raises(UnreadableImageError, match=BAD[kind]) as caught:
        open_image(path)
    assert str(caught.value).strip() and "\n" not in str(caught.value)


def test_decompression_bomb_is_unreadable(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        open_image(path)


def test_interrupt_drops_the_waiting_photos():
    opened = []

    def slow(index):
        opened.append(index)
        time.sleep(0.01)
        return Image.new("RGB", (8, 8))

    def interrupt():
        raise KeyboardInterrupt

    photos = [Photo(f"{i}", f"{i}", partial(slow, i)) for i in range(500)]
    with pytest.raises(KeyboardInterrupt):
        read_squares(photos, size=8, tick=interrupt)
    assert len(opened) < 250


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux's")
@pytest.mark.parametrize("count", [1, 3])
def test_reader_has_no_more_threads_than_processors_it_may_use(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))
    threads, calls = set(), []

    def slow():
        threads.add(threading.get_ident())
        time.sleep(0.005)
        return Image.new("RGB", (8, 8))

    def bad():
        raise UnreadableImageError("why")

    photos = [Photo(f"{i}", f"{i}", bad if i == 7 else slow) for i in range(24)]
    tick = make_tick(lambda *done: calls.append(done), total=24)
    good, reasons = read(photos, lambda i, image: (i, image.size), tick=tick)
    assert good == {i: (i, (8, 8)) for i in range(24) if i != 7}
    assert reasons == {7: "why"}
    assert len(threads) == count and threading.get_ident() not in threads
    assert calls == [(done, 24) for done in range(1, 25)]


@pytest.mark.parametrize("kind", ["text.jpg", "empty.jpg", "truncated.png"])
def test_open_file_is_read_as_its_path_is(tmp_path, kind):
    with open(save(tmp_path / "a.jpg", exif=exif(6)), "rb") as file:
        photo = open_image(file)
    np.testing.assert_array_equal(photo, open_image(tmp_path / "a.jpg"))
    path = bad_file(tmp_path / kind, kind)
    with pytest.raises(UnreadableImageError, match=BAD[kind]), open(path, "rb") as file:
        open_image(file)
