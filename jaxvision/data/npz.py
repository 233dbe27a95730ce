"""A .npz file with Keras's keys, as `keras.datasets` and many exercises keep images."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvision.data.photo import ArrayPhotos, Source

KEYS = ("x_train", "y_train", "x_test", "y_test")
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
    try:
        file = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or "no .npz file, or a damaged one"
        raise ValueError(
            f"cannot read {path}: {why}; write it with numpy.savez, keys {_words(keys)}"
        ) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(
            f"{path} holds a single array: write it with numpy.savez, "
            f"keys {_words(keys)}"
        )
    with file:
        missing = [key for key in keys if key not in file.files]
        if missing:
            raise ValueError(
                f"{path} lacks {_words(missing)} (it has {_words(file.files)}): "
                f"write it with numpy.savez, keys {_words(keys)}"
            )
        return {key: _array(path, key, file) for key in keys}


def _array(path: Path, key: str, file: np.lib.npyio.NpzFile) -> np.ndarray:
    try:
        return file[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        text = " ".join(str(error).split())
        pickled = "allow_pickle" in text
        why = "an array of Python objects" if pickled else f"damaged ({text})"
        raise ValueError(
            f"{path}: {key} is {why}: save it again as an array of uint8 images or "
            "integer labels"
        ) from error


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
