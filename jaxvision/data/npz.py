"""A .npz file with Keras's keys, as `keras.datasets` and many exercises keep images."""

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvision.data.photo import ArrayPhotos, Source
from jaxvision.files import regular_file

KEYS = ("x_train", "y_train", "x_test", "y_test")
_ARRAY = b"\x93NUMPY"
"""How a .npy file begins."""
_BLOCK = 1 << 20
CIFAR10_CLASSES = tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split()
)


def open_npz(spec: str, *, labelled: bool) -> Source:
    """The images of a `.npz` file; `x_test` and `y_test` become the validation split.

    Images are uint8, `(n, h, w)` or `(n, h, w, c)` with one or three channels; labels
    are integers from 0, `(n,)` or `(n, 1)`. The classes are called `0`, `1` and so on,
    but ten classes of 32 x 32 colour images are CIFAR-10's. Without classes the labels
    are not asked for.

    Raises:
      ValueError: the file is missing, damaged or pickled; a key is missing; an array
        has another type or shape; a class has no training image.
    """
    path = Path(os.path.expanduser(spec))
    arrays = _load(path, KEYS if labelled else KEYS[::2])
    x_train = _images(path, "x_train", arrays["x_train"])
    x_test = _images(path, "x_test", arrays["x_test"])
    y_train = y_test = None
    classes: tuple[str, ...] = ()
    if labelled:
        y_train = _labels(path, "y_train", arrays["y_train"], count=len(x_train))
        y_test = _labels(path, "y_test", arrays["y_test"], count=len(x_test))
        classes = _classes(path, y_train, y_test)
        if len(classes) == 10 and x_train.shape[1:] == x_test.shape[1:] == (32, 32, 3):
            classes = CIFAR10_CLASSES
    train, val = (
        ArrayPhotos(
            f"{path.name}/{split}",
            # A grey image three times: a copy, as all that follows takes colour.
            np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x,
            labels=labels,
            is_gray=x.shape[-1] == 1,
        )
        for split, x, labels in (("train", x_train, y_train), ("test", x_test, y_test))
    )
    return Source(path.stem, str(path), train, val, classes)


def _classes(path: Path, y_train: np.ndarray, y_test: np.ndarray) -> tuple[str, ...]:
    count = int(max(y_train.max(), y_test.max())) + 1
    present = np.unique(y_train)
    absent = next((i for i, label in enumerate(present) if i != label), len(present))
    if absent < count or count < 2:
        what = f"no image of class {absent}" if absent < count else "one class only"
        raise ValueError(
            f"{path}: y_train has {what} (labels must run from 0 to the number of "
            "classes less one, and training needs at least two): renumber the labels"
        )
    return tuple(map(str, range(count)))


def _load(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    write = f"write it with numpy.savez, keys {_words(keys)}"
    try:
        with open(path, "rb", opener=regular_file) as file:
            if file.read(len(_ARRAY)) == _ARRAY:
                raise ValueError(f"{path} holds a single array: {write}")
            file.seek(0)
            try:
                archive = zipfile.ZipFile(file)
            except Exception as error:  # zipfile raises nearly anything of damage
                raise ValueError(
                    f"cannot read {path}: no .npz file, or a damaged one; {write}"
                ) from error
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            missing = [key for key in keys if key not in members]
            if missing:
                raise ValueError(
                    f"{path} lacks {_words(missing)} (it has {_words(members)}): "
                    f"{write}"
                )
            return {key: _array(path, key, archive) for key in keys}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        why = error.strerror or "it is damaged"
        raise ValueError(f"cannot read {path}: {why}; {write}") from error


def _array(path: Path, key: str, archive: zipfile.ZipFile) -> np.ndarray:
    """One array, whose size is looked at before there is memory for it."""
    try:
        names = archive.namelist()
        member = archive.getinfo(key if key in names else f"{key}.npy")
        if member.flag_bits & 1:
            raise _Refused("encrypted: save it without a password")
        with archive.open(member) as file:
            stream: Any = file
            shape, fortran, dtype = _header(stream)
            if dtype.hasobject:
                raise _Refused(
                    "an array of Python objects: save it again as an array of uint8 "
                    "images or integer labels"
                )
            size = math.prod(shape) * dtype.itemsize
            if size != member.file_size - stream.tell():
                raise _Refused(
                    f"damaged (it says {shape} of {dtype}, {size} bytes, and has "
                    f"{member.file_size - stream.tell()}): save it again"
                )
            data = np.empty(size, np.uint8)
            found = sum(
                stream.readinto(data[start : start + _BLOCK].data)
                for start in range(0, size, _BLOCK)
            )
            # At the end the checksum is looked at.
            if found != size or stream.read(1):
                raise _Refused(f"damaged (it ends after {found} bytes): save it again")
        return data.view(dtype).reshape(shape, order="F" if fortran else "C")
    except _Refused as error:
        raise ValueError(f"{path}: {key} is {error}") from None
    except MemoryError:
        raise ValueError(f"{path}: {key} does not fit into the memory") from None
    except NotImplementedError as error:  # of zipfile
        raise ValueError(
            f"{path}: {key} cannot be read ({error}): write it with numpy.savez"
        ) from error
    except Exception as error:  # of zipfile, zlib and numpy, which raise nearly any
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: {key} is damaged ({text[:200]}): save it again as an array of "
            "uint8 images or integer labels"
        ) from error


class _Refused(Exception):
    """What is wrong with an array, in words that follow its name."""


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, the order and the type that a .npy member begins with."""
    if stream.read(len(_ARRAY)) != _ARRAY:
        raise _Refused("no .npy member: write the file with numpy.savez")
    version = tuple(stream.read(2))
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(stream)
    else:
        raise _Refused("of another version of .npy: save it again")
    shape, fortran, dtype = header
    if any(type(length) is not int or length < 0 for length in shape):
        raise _Refused(f"damaged (it says the shape {shape}): save it again")
    return shape, bool(fortran), dtype


def _images(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    if x.dtype != np.uint8:
        cure = "scale it to 0..255 and " if x.dtype.kind == "f" else ""
        raise ValueError(
            f"{path}: {key} is {x.dtype}, and must be uint8: {cure}"
            "save x.astype('uint8')"
        )
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape:
        first = x.ndim == 4 and x.shape[1] in (1, 3)
        cure = (
            "move the channels last"
            if first
            else "stack the images along the first axis"
        )
        raise ValueError(
            f"{path}: {key} has shape {x.shape}, and must be (n, height, width) or "
            f"(n, height, width, 3) with n > 0: {cure}"
        )
    return x


def _labels(path: Path, key: str, y: np.ndarray, *, count: int) -> np.ndarray:
    if y.shape not in ((count,), (count, 1)):
        one_hot = y.ndim == 2 and len(y) == count
        cure = "save y.argmax(axis=1)" if one_hot else "save one label an image"
        raise ValueError(
            f"{path}: {key} has shape {y.shape}, and must be ({count},) or "
            f"({count}, 1): {cure}"
        )
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {key} is {y.dtype}, and must be integers from 0: "
            "number the classes"
        )
    if y.min() < 0 or y.max() > np.iinfo(np.int32).max:
        raise ValueError(
            f"{path}: {key} runs from {y.min()} to {y.max()}, and must start at 0: "
            "renumber the labels"
        )
    return y.reshape(-1).astype(np.int32)


def _words(keys: Sequence[str]) -> str:
    return ", ".join(keys) or "nothing"
