"""Which files are photographs, by one rule; the others are counted and named."""

import os
import struct
import sys
import threading
import zlib
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from experiments.command.options import UsageError
from experiments.inference.picture import read_picture
from experiments.predict import find_images
from jaxvision.data import decode, open_dataset
from jaxvision.data.decode import UnreadableImageError, open_image
from jaxvision.data.image_files import passed_over
from jaxvision.data.pieces import open_photos
from jaxvision.data.sources import find_source
from tests.photos import SIZES, make_folder, noise, save

READ = [".jfif", ".jpe", ".gif", ".avif", ".jp2", ".apng", ".pbm", ".JPG", ".qoi"]
FORMAT = {".pbm": "PPM", ".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG"}


@pytest.mark.parametrize("suffix", READ)
def test_what_pillow_reads_is_read(tmp_path, suffix):
    root = make_folder(tmp_path, {"a": 2, "b": 2})
    image = Image.fromarray(noise())
    image = image.convert("1") if suffix == ".pbm" else image
    path = tmp_path / "a" / f"x{suffix}"
    image.save(path, FORMAT.get(suffix))
    np.testing.assert_array_equal(open_image(path), Image.open(path).convert("RGB"))
    data = open_dataset(root, **SIZES)
    assert str(path) in data.train.paths + data.val.paths and not data.warnings
    assert path in find_images([tmp_path])


def test_what_is_not_read_is_counted_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decode, "extensions", lambda: (".png",))
    monkeypatch.setattr("jaxvision.data.image_files.extensions", lambda: (".png",))
    root = make_folder(tmp_path, {"a": 3, "b": 3})
    for name in ("a/1.heic", "a/2.HEIC", "b/3.tga", "b/4", "b/5.jpg_large", "b/6.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "7.png").write_bytes(b"")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    inside, outside = open_dataset(root, **SIZES).warnings
    assert inside == (
        "5 files passed over: 2 .heic (pip install 'jaxvision[heif]'), 1 .tga, 1 "
        f"without an ending, 1 .jpg_large; such as {root}/a/1.heic"
    )
    assert outside == (
        "2 files outside the class folders passed over: 1 .png, 1 without an ending; "
        f"such as {root}/7.png"
    )
    pieces = open_photos(str(tmp_path / "a"), crop_size=24)
    assert pieces.warnings[0].startswith("2 files passed over: 2 .heic (pip install")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.cr2").write_bytes(b"")
    with pytest.raises(UsageError, match=r"c: no images .*; 1 file passed over: 1"):
        find_images([tmp_path / "c"])
    assert passed_over(["x/readme.md", "x/a.xml"]) == []


def test_heic_in_a_jpg_names_the_package(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(UnreadableImageError, match=r"pip install 'jaxvision\[heif\]'"):
        open_image(path)


def test_heic_is_read_where_the_package_is(monkeypatch):
    called = []
    module = ModuleType("pillow_heif")
    module.__spec__ = sys.__spec__
    module.register_heif_opener = lambda: called.append(1)  # type: ignore
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
    assert "HEIF" in decode.formats.__wrapped__() and called == [1]


def test_thumbnails_of_file_servers_are_passed_over_by_all(tmp_path):
    counts = {"a": 3, "b": 3, "@eaDir": 2, "a/@eaDir/0.png": 2, "__MACOSX/a": 1}
    root = make_folder(tmp_path / "p", counts)
    names = {f"{root}/{c}/{i}.png" for c in "ab" for i in range(3)}
    data = open_dataset(root, **SIZES)
    assert data.classes == ("a", "b") and {*data.train.paths, *data.val.paths} == names
    assert set(map(str, find_images([tmp_path / "p"]))) == names
    source = find_source(root, labelled=False)
    assert {photo.name for photo in source.train} == names


def test_a_folder_that_cannot_be_listed_is_an_error_for_all(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "p", {"a/deep": 3, "b": 3})
    scan = os.scandir

    def refused(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    message = "cannot list the folder .*/a/deep: Permission denied"
    for use in (
        lambda: open_dataset(root, **SIZES),
        lambda: open_photos(root, crop_size=24),
        lambda: find_images([tmp_path / "p"]),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_files_have_one_order_for_all(tmp_path):
    root = tmp_path / "p"
    for name in ("a/z.png", "a/b/1.png", "a-c/2.png", "a/B/3.png"):
        save(root / name)
    expected = ["a-c/2.png", "a/z.png", "a/B/3.png", "a/b/1.png"]
    source = find_source(str(root), labelled=False)
    assert [photo.key for photo in source.train] == sorted(
        expected, key=lambda n: (f"{root}/{n}".rpartition("/")[0], n)
    )
    assert list(map(str, find_images([root]))) == [p.name for p in source.train]
    labelled = find_source(str(root), labelled=True)
    assert {photo.name for photo in labelled.train} == {p.name for p in source.train}
    of_a = [p.key for p in labelled.train if p.key.startswith("a/")]
    assert of_a == [p.key for p in source.train if p.key.startswith("a/")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="systems with named pipes")
def test_a_named_pipe_among_the_photos_is_named_and_left_out(tmp_path):
    root = make_folder(tmp_path, {"a": 3, "b": 3})
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    data = _in_time(lambda: open_dataset(root, **SIZES))
    assert data.skipped == (f"{root}/a/pipe.jpg: not a regular file",)
    with pytest.raises(UsageError, match=r"pipe.jpg: not a regular file"):
        _in_time(lambda: read_picture(tmp_path / "a" / "pipe.jpg"))


def _in_time(call):
    """What `call` gives, in a thread that the test outlives."""
    found = []

    def work():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it hangs"
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def test_no_other_program_is_started_for_a_file(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    def started(*args, **kwargs):
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    eps = tmp_path / "x.jpg"
    Image.fromarray(noise()).save(eps, "EPS")
    with pytest.raises(UnreadableImageError, match="no image"):
        open_image(eps)
    with pytest.raises(UsageError, match="no image"):
        read_picture(eps)


def png_claiming(width, height, *, depth=8, colour=2):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 3))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(13000, 13000), (1, 170_000_000), (170_000_000, 1)])
def test_pixels_that_no_file_of_its_size_holds_are_not_decoded(
    tmp_path, size, monkeypatch
):
    path = tmp_path / "x.png"
    path.write_bytes(png_claiming(*size))

    def decoded(self):
        raise AssertionError("memory was taken")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(UnreadableImageError, match="pixels in 68 bytes, which cannot"):
        open_image(path)


def test_blank_photos_are_no_bombs(tmp_path):
    for name, options in (("a.webp", {"lossless": True}), ("b.png", {}), ("c.jp2", {})):
        Image.new("RGB", (4000, 3000), "white").save(tmp_path / name, **options)
        assert open_image(tmp_path / name).size == (4000, 3000)


def test_the_limit_of_pixels_can_be_raised(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")  # 50 x 61
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match="bomb.*JAXVISION_MAX_PIXELS"):
        open_image(path)
    monkeypatch.setenv("JAXVISION_MAX_PIXELS", "3050")
    decode.set_pixel_limit()
    with pytest.warns(Image.DecompressionBombWarning):
        assert open_image(path).size == (61, 50)
    monkeypatch.setenv("JAXVISION_MAX_PIXELS", "3048")
    decode.set_pixel_limit()
    with pytest.raises(UnreadableImageError):
        open_image(path)
    monkeypatch.setenv("JAXVISION_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="'many': give it a number"):
        decode.set_pixel_limit()


@pytest.mark.parametrize(
    ("name", "dtype", "top"),
    [
        ("a.png", np.uint16, 4095),
        ("a.png", np.uint16, 255),
        ("a.tif", np.uint16, 4095),
        ("a.tif", np.int32, 255),
        ("a.tif", np.int32, 4095),
        ("a.tif", np.int32, 65535),
    ],
)
def test_values_of_fewer_bits_are_not_black_and_are_spoken_of(
    tmp_path, name, dtype, top
):
    root = make_folder(tmp_path, {"a": 3, "b": 3})
    values = np.random.default_rng(0).integers(0, top + 1, (31, 23))
    values[0, 0] = top
    path = save(tmp_path / "a" / name, Image.fromarray(values.astype(dtype)))
    expected = np.floor(values * 255 / top + 0.5)
    np.testing.assert_array_equal(np.asarray(open_image(path))[..., 0], expected)
    warnings = open_dataset(root, **SIZES).warnings
    if top == 65535:
        assert warnings == ()
    else:
        (line,) = warnings
        assert f"1 as of {top.bit_length()}-bit values" in line and str(path) in line
        assert open_photos(root, crop_size=16).warnings == warnings


def test_what_a_tiff_says_of_its_range_is_not_guessed(tmp_path):
    values = np.full((9, 9), 300, np.uint16)
    tags = {281: 1023}  # MaxSampleValue
    path = save(tmp_path / "a.tif", Image.fromarray(values), tiffinfo=tags)
    photo = open_image(path)
    assert np.asarray(photo)[0, 0, 0] == round(300 * 255 / 1023)
    assert decode.TAKEN_AS not in photo.info


def test_colours_of_twelve_bits_are_refused_with_the_cure(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (9, 9, 3))
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(UnreadableImageError, match="above 4095.*save it as 8-bit"):
        open_image(path)
