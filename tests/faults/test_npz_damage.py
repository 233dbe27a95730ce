"""Whatever is wrong with a .npz file is one line, and takes no memory."""

import io
import os
import random
import struct
import zipfile

import numpy as np
import pytest

from jaxvision.data.sources import find_source
from tests.photos import check_error

KEYS = ("x_train", "y_train", "x_test", "y_test")


def arrays():
    images = np.arange(4 * 6 * 6 * 3, dtype=np.uint8).reshape(4, 6, 6, 3)
    labels = np.arange(4) % 2
    return dict(zip(KEYS, (images, labels, images, labels), strict=True))


def npy(array, header=None):
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        data, header or np.lib.format.header_data_from_array_1_0(array)
    )
    return data.getvalue() + array.tobytes()


def write(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for key, array in arrays().items():
            archive.writestr(f"{key}.npy", members.get(key) or npy(array))
    return str(path)


def header(shape, descr="|u1"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


IMAGES = arrays()["x_train"]
MEMBERS = {
    "no npy": (b"GIF89a and more", "x_train is no .npy member"),
    "empty": (b" ", "x_train is no .npy member"),
    "huge": (npy(IMAGES, header((10**9, 10**4, 6, 3))), "x_train is damaged .it says"),
    "overflow": (npy(IMAGES, header((2**62, 2**62, 6, 3))), "x_train is damaged"),
    "bool shape": (npy(IMAGES, header((True, 4, 36, 3))), "the shape .True, 4, 36"),
    "negative": (npy(IMAGES, header((-4, 6, 6, 3))), "the shape .-4, 6"),
    "short": (npy(IMAGES)[:-5], r"432 bytes, and has 427\)"),
    "long": (npy(IMAGES) + b"1", r"432 bytes, and has 433\)"),
    "objects": (npy(IMAGES, header((54,), "|O")), "array of Python objects"),
    "later version": (b"\x93NUMPY\x09\x00" + bytes(90), "another version of .npy"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_member_that_is_no_array_is_named(tmp_path, case):
    member, message = MEMBERS[case]
    check_error(write(tmp_path / "a.npz", x_train=member), message)


def patched(path, offset, value):
    """The file with a 16-bit field of each member's two headers replaced."""
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
        start = data.find(mark)
        while start >= 0:
            struct.pack_into("<H", data, start + place, value)
            start = data.find(mark, start + 4)
    path.write_bytes(data)
    return str(path)


def test_what_zipfile_cannot_read_is_said(tmp_path):
    path = tmp_path / "a.npz"
    write(path)
    check_error(patched(path, 6, 1), "x_train is encrypted: save it without a password")
    write(path)
    check_error(patched(path, 8, 97), "x_train cannot be read .*write it with numpy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="systems with named pipes")
def test_a_named_pipe_is_no_npz(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    check_error(str(tmp_path / "a.npz"), "a.npz: not a regular file")


def test_order_and_type_are_what_was_saved(tmp_path):
    x = np.asfortranarray(IMAGES)
    saved = {**arrays(), "x_train": x, "y_test": np.arange(4, dtype=">i2") % 2}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **saved)
        source = find_source(str(tmp_path / "a.npz"), labelled=True)
        np.testing.assert_array_equal(source.train.images, x)  # type: ignore
        assert [photo.label() for photo in source.val] == [0, 1, 0, 1]


def fuzz(path, seeds):
    for seed in seeds:
        rng = random.Random(seed)
        compression = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        write(path, compression)
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            find_source(str(path), labelled=True)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error), seed


def test_random_damage_is_one_line(tmp_path):
    fuzz(tmp_path / "a.npz", range(100))


@pytest.mark.slow
def test_much_random_damage_is_one_line(tmp_path):
    fuzz(tmp_path / "a.npz", range(100, 1600))
