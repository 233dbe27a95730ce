"""CIFAR-10 from its authors' binary archive, without TensorFlow."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxvision.data.archive import Archive, Tell, data_folder, read_members
from jaxvision.data.npz import CIFAR10_CLASSES
from jaxvision.data.photo import ArrayPhotos, Source
from jaxvision.files import regular_file

NAME = "cifar10"
ARCHIVE = Archive(
    folder=NAME,
    file="cifar-10-binary.tar.gz",
    site="https://www.cs.toronto.edu/~kriz",
    size=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
"""Its MD5, which the authors give, is c32a1d4ab5d03f1284b67883e8d87530."""
FOLDER = "cifar-10-batches-bin"
BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
"""Five of training images and one of test images."""
PICKLED = "data_batch_1"
"""A file of the version for Python."""

_RECORD = 1 + 3 * 32 * 32
BATCH = 10_000 * _RECORD
"""Bytes of a batch: for each image its label, then its red, green and blue pixels."""


def is_cifar10(spec: str) -> bool:
    """Whether `spec` is `cifar10`, the archive, or a folder with its files."""
    if spec == NAME:
        return True
    path = Path(os.path.expanduser(spec))
    if path.name == ARCHIVE.file:
        return os.path.isfile(path)
    return spec != "" and _batches_in(path) is not None


def fetch_cifar10(spec: str, *, tell: Tell | None = None) -> None:
    """Sees to it that the archive is in the cache where `spec` is the mere name.

    Raises:
      DownloadError: it cannot be had.
    """
    if spec == NAME and _batches_in(data_folder(NAME)) is None:
        ARCHIVE.fetch(tell=tell)


def open_cifar10(spec: str, *, labelled: bool) -> Source:
    """The 50,000 training and 10,000 test images, in the archive's order.

    Image 17 of the training split is the one that TensorFlow Datasets calls
    `train_00017`; the classes are its too.

    Args:
      spec: `cifar10`, for the archive or its folder `cifar-10-batches-bin` in
        `$JAXVISION_HOME/data/cifar10`, into which it is fetched; the archive's path; or
        that of a folder with its files or with `cifar-10-batches-bin`.
      labelled: whether classes are asked for.

    Raises:
      ValueError: a file is missing, damaged or another than it should be, or there are
        pickles, which are not read because they can run anything.
      DownloadError: the archive cannot be had.
    """
    folder = data_folder(NAME) if spec == NAME else Path(os.path.expanduser(spec))
    batches = _batches_in(folder)
    if batches is not None:
        rows = _read_folder(batches)
    elif spec == NAME:
        rows = _read_archive(ARCHIVE.fetch())
    else:
        ARCHIVE.check(folder)
        rows = _read_archive(folder)
    parts = [_decode(*one) for one in rows]
    source = partial(_photos, labelled=labelled)
    return Source(
        name=NAME,
        place=f"{NAME}/train",
        train=source("train", parts[:-1]),
        val=source("test", parts[-1:]),
        classes=CIFAR10_CLASSES if labelled else (),
    )


def _batches_in(folder: Path) -> Path | None:
    """Where in `folder` the official files are, if they are."""
    for place in (folder, folder / FOLDER, folder / "cifar-10-batches-py"):
        if any(os.path.isfile(place / name) for name in (*BATCHES, PICKLED)):
            return place
    return None


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in BATCHES:
        path = folder / name
        if not os.path.isfile(path):
            _lacks(folder, name)
        try:
            with open(path, "rb", opener=regular_file) as file:
                yield str(path), file.read(BATCH + 1)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _lacks(folder: Path, name: str) -> NoReturn:
    where = f"get {ARCHIVE.url} and unpack it, or give the archive itself"
    if (folder / PICKLED).is_file():
        raise ValueError(
            f"{folder} has CIFAR-10's version for Python, whose pickles can run "
            f"anything and are not read: {where}"
        )
    raise ValueError(f"{folder} lacks {name}: {where}")


def _read_archive(path: Path) -> list[tuple[str, bytes]]:
    names = [f"{FOLDER}/{name}" for name in BATCHES]
    # Beside the batches, the official archive has two small texts.
    found = dict(read_members(path, names, largest=BATCH, most=7 * BATCH))
    return [(f"{name} of {path}", found[name]) for name in names]


def _decode(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A batch's images, uint8 `(n, 32, 32, 3)`, and labels."""
    if len(data) != BATCH:
        more = "more than" if len(data) > BATCH else "not"
        raise ValueError(f"{name} has {more} {BATCH:,} bytes: get {ARCHIVE.url} again")
    rows = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    labels = rows[:, 0].astype(np.int32)
    if labels.max() >= len(CIFAR10_CLASSES):
        raise ValueError(
            f"{name} has the label {labels.max()}, and the classes are 0 to 9: get "
            f"{ARCHIVE.url} again"
        )
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _photos(
    split: str, parts: list[tuple[np.ndarray, np.ndarray]], *, labelled: bool
) -> ArrayPhotos:
    images, labels = (np.concatenate(one) for one in zip(*parts, strict=True))
    return ArrayPhotos(
        f"{NAME}/{split}",
        np.ascontiguousarray(images),
        labels=labels if labelled else None,
    )
