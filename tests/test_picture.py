"""Enlarged files keep what was in them: 16 bits, transparency, profiles, notes."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from experiments.inference import picture
from experiments.inference.picture import read_picture, write_picture

ORIENTATION, ARTIST, CAMERA, PLACE = 0x0112, 0x013B, 0x8769, 0x8825
EXPOSURE, WIDTH, LATITUDE = 0x829A, 0xA002, 1


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def deep(height, width, channels, *, top=65535):
    rng = np.random.default_rng(channels)
    return rng.integers(0, top + 1, (height, width, channels)).astype(np.uint16)


def chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def write_png(path, pixels):
    """A PNG of 16 bits a colour, its rows unfiltered."""
    height, width, channels = pixels.shape
    colours = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def read_png(path):
    """The pixels of a PNG of 16 bits whose rows are all of filter 2."""
    data, place, packed = path.read_bytes(), 8, b""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while place < len(data):
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 :][:4]
        body = data[place + 8 : place + 8 + length]
        assert chunk(kind, body) == data[place : place + 12 + length]
        if kind == b"IHDR":
            width, height, bits, colours = struct.unpack(">IIBB", body[:10])
        packed += body * (kind == b"IDAT")
        place += 12 + length
    raw = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    assert bits == 16 and (raw[:, 0] == 2).all()
    levels = np.cumsum(raw[:, 1:], axis=0, dtype=np.uint8)
    count = {0: 1, 4: 2, 2: 3, 6: 4}[colours]
    return levels.view(">u2").reshape(height, width, count)


def doubled(found):
    """Each pixel four times: an enlargement whose every value is known."""
    return found.pixels.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize(
    ("channels", "suffix"), [(3, ".tif"), (3, ".png"), (4, ".png")]
)
def test_sixteen_bits_a_colour_stay(tmp_path, channels, suffix):
    pixels = deep(90, 7, channels)
    pixels[..., 3:] |= 1  # transparent nowhere
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb",
        compression="zlib",
        iccprofile=PROFILE,
        **extra,
    )
    found = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.pixels, pixels[..., :3])
    assert found.top == 65535 and not found.notes
    write_picture(found, doubled(found), tmp_path / f"b{suffix}")
    read = read_png if suffix == ".png" else tifffile.imread
    made = read(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(made[::2, ::2, :3], pixels[..., :3])
    with Image.open(tmp_path / f"b{suffix}") as again:
        again.load()
        assert again.info["icc_profile"] == PROFILE
        assert again.mode == found.form and again.size == (14, 180)
        if channels == 3:
            np.testing.assert_array_equal(np.asarray(again)[::2, ::2], pixels >> 8)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_png_of_sixteen_bits_a_colour_is_read_as_it_is(tmp_path, channels):
    pytest.importorskip("imagecodecs", reason="the extra [deep] is not installed")
    pixels = deep(9, 6, channels)
    write_png(tmp_path / "a.png", pixels)
    found = read_picture(tmp_path / "a.png")
    assert found.form == {2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    colours = pixels if channels == 3 else pixels[..., :-1]
    shown = found.pixels if channels != 2 else found.pixels[..., :1]
    np.testing.assert_array_equal(shown, colours)
    if channels != 3:
        np.testing.assert_array_equal(found.alpha, pixels[..., -1])
    write_picture(found, doubled(found), tmp_path / "b.png")
    np.testing.assert_array_equal(
        read_png(tmp_path / "b.png")[::2, ::2, : colours.shape[2]], colours
    )


def test_without_the_extra_they_become_eight_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "_read_deep", lambda *_: None)
    write_png(tmp_path / "a.png", deep(9, 6, 3))
    found = read_picture(tmp_path / "a.png")
    assert found.pixels.dtype == np.uint8 and found.top == 255
    (note,) = found.notes
    assert "16 bits a colour became 8" in note and "jaxvision[deep]" in note


@pytest.mark.parametrize("top", [4095, 65535])
def test_deep_grey_stays_in_its_range(tmp_path, top):
    pixels = deep(9, 6, 1, top=top)[..., 0]
    pixels[0, 0] = top
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    assert (found.top, found.form) == (top, "L")
    write_picture(found, doubled(found), tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as made:
        assert made.mode.startswith("I")
        np.testing.assert_array_equal(np.asarray(made)[::2, ::2], pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_photos_are_turned_as_others(orientation):
    pixels = deep(4, 6, 3, top=255).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(picture._turned(pixels, orientation), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_what_was_noted_of_a_photo_is_kept(tmp_path, suffix):
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST], exif[0x0100] = 6, "A. Person", 6
    exif[CAMERA] = {EXPOSURE: 0.5, WIDTH: 6, 0x927C: b"of the maker's own"}
    exif[PLACE] = {LATITUDE: "N"}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    found = read_picture(tmp_path / "a.jpg")
    assert found.pixels.shape == (6, 4, 3)
    write_picture(found, doubled(found), tmp_path / f"b{suffix}")
    with Image.open(tmp_path / f"b{suffix}") as made:
        kept = made.getexif()
        assert kept[ARTIST] == "A. Person" and kept.get(ORIENTATION, 1) == 1
        assert kept.get(0x0100, 8) == 8
        assert kept.get_ifd(CAMERA)[EXPOSURE] == 0.5
        assert kept.get_ifd(CAMERA)[WIDTH] == 8
        assert kept.get_ifd(PLACE)[LATITUDE] == "N"


def test_damaged_notes_are_left_out(tmp_path):
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
    )
    found = read_picture(tmp_path / "a.jpg")
    assert len(found.exif) == 0 and found.pixels.shape == (4, 6, 3)


def test_inks_become_colours_and_it_is_said(tmp_path):
    inks = Image.fromarray(deep(8, 8, 3, top=255).astype(np.uint8)).convert("CMYK")
    inks.save(tmp_path / "a.tif")
    found = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.pixels, np.asarray(inks.convert("RGB")))
    assert found.form == "RGB" and found.notes == ("CMYK became RGB",)
