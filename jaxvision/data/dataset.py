"""A classification data set: two splits of uint8 squares, of any source."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxvision.data.photo import ArrayPhotos, Photo, Source, labels_of
from jaxvision.data.reader import Guesses, Progress, guessed, make_tick
from jaxvision.data.sources import find_source
from jaxvision.data.split import fold_aside, set_aside
from jaxvision.data.squares import Sizes, read_crops, read_squares


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one size with their labels.

    Attributes:
      images: uint8, `(n, h, w, 3)`, RGB.
      labels: int32, `(n,)`: indices into `Dataset.classes`. Where an image has several
        labels: uint8, `(n, classes)`, 1 where a label holds.
      paths: where each image came from; of images that are no files, a name.
      sizes: height and width of the photographs themselves, int `(n, 2)`, where they
        are known.
    """

    images: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image has any number of labels, and not one class."""
        return self.labels.ndim == 2


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, decoded.

    Attributes:
      name: the folder's or file's name, or `demo`.
      classes: their names; of a folder in sorted order, as in ImageFolder. Where an
        image has several labels, those.
      train: squares from which training crops are taken (`preprocess.square_image`).
      val: what evaluation sees (`preprocess.eval_image`).
      skipped: one `path: reason` for each file that could not be read.
      taken: in words, which folders were taken as the splits, where that needs saying.
      warnings: what was passed over or guessed, a line each.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    skipped: tuple[str, ...] = ()
    taken: str = ""
    warnings: tuple[str, ...] = ()


class _Read(NamedTuple):
    """A split, and the photographs that it lacks, with the reasons."""

    split: Split
    bad: list[tuple[Photo, str]]


class _Sizes(NamedTuple):
    train_size: int
    eval_resize: int
    eval_crop: int
    fit: str


def open_dataset(
    spec: str,
    *,
    train_size: int,
    eval_resize: int,
    eval_crop: int,
    fit: str = "crop",
    fold: tuple[int, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """The data set that `spec` names, decoded into memory.

    Where the source has no validation images, a fifth of each class is set aside.
    A photograph that cannot be read is left out and named in `Dataset.skipped`.

    Args:
      spec: `demo`; `cifar10` or `oxford_iiit_pet`, which are fetched where they are not
        here; a folder with `train/CLASS/*` and `val/CLASS/*`, or with `CLASS/*`,
        which is split; a `.csv` or `.jsonl` list (`photo_list`); a `.npz` file with
        Keras's keys; or `tfds:NAME`, an image classification set of TensorFlow
        Datasets. All are in `sources.KINDS`.
      train_size: side of the training squares, in pixels.
      eval_resize: the short side to which evaluation resizes.
      eval_crop: side of the evaluation crops.
      fit: how a photograph becomes a square; see `preprocess.eval_image`.
      fold: `(k, n)`: the k-th of n parts of all photographs validates; see
        `split.fold_aside`.
      seed: chooses the validation images where the set is split here.
      progress: called with (done, total) after each photograph; once more from the
        start where unreadable files make a set be split anew.

    Raises:
      ValueError: there is no such data set, or it cannot be trained on: the message
        says what is wrong, where, and what to do.
      DownloadError: what is to be fetched cannot be had.
    """
    source = find_source(spec, labelled=True)
    if twice := [n for n, count in Counter(source.classes).items() if count > 1]:
        raise ValueError(
            f"data {spec!r} has two classes called {twice[0]!r}: rename one of them"
        )
    sizes = _Sizes(train_size, eval_resize, eval_crop, fit)
    guesses: Guesses = {}
    read = partial(_read, source, sizes=sizes, progress=progress, guesses=guesses)
    check = partial(_check_readable, source, spec=spec)
    if source.val or fold is not None:
        sides = source.train, source.val
        if fold is not None:
            sides = fold_aside(source, fold[0], folds=fold[1], seed=seed)
        train, val = read(*sides)
        check(train.split.labels, train.bad, side=0)
        check(val.split.labels, val.bad, side=1)
        return _dataset(source, train, val, guesses)
    train, val = read(*set_aside(source, seed=seed))
    if _absent(train.split.labels, source) or _absent(val.split.labels, source):
        # A small class lost one side to damaged files: divide the sound ones anew.
        bad = train.bad + val.bad
        sound = np.concatenate([train.split.labels, val.split.labels])
        check(sound, bad, side=0)
        without = {photo.key for photo, _ in bad}
        train, val = read(*set_aside(source, seed=seed, without=without))
        train = train._replace(bad=bad + train.bad)
    return _dataset(source, train, val, guesses)


def _read(
    source: Source,
    train: Sequence[Photo],
    val: Sequence[Photo],
    *,
    sizes: _Sizes,
    progress: Progress | None,
    guesses: Guesses,
) -> list[_Read]:
    """Both splits; arrays of the very size are not sent through the threads."""
    train_size, resize, crop, fit = sizes
    whole, seen = fit != "crop", Sizes()
    jobs = (
        (
            train,
            None if whole and crop < train_size else _array(train, train_size),
            partial(read_squares, size=train_size, crop=crop, fit=fit),
        ),
        (
            val,
            _array(val, crop) if whole or resize == crop else None,
            partial(read_crops, resize=resize, crop=crop, fit=fit, sizes=seen),
        ),
    )
    total = sum(len(photos) for photos, array, _ in jobs if array is None)
    tick = make_tick(progress, total=total)
    found = []
    for photos, array, decode in jobs:
        images, bad = array, {}
        if images is None:
            images, bad = decode(photos, tick=tick, guesses=guesses)
        kept = [photo for index, photo in enumerate(photos) if index not in bad]
        labels = _labels(kept, source)
        split = Split(images, labels, tuple(photo.name for photo in kept))
        found.append(_Read(split, [(photos[i], why) for i, why in bad.items()]))
    if seen:
        shapes = np.array([seen[index] for index in sorted(seen)])
        found[1] = found[1]._replace(split=replace(found[1].split, sizes=shapes))
    return found


def _labels(photos: Sequence[Photo], source: Source) -> np.ndarray:
    if not source.is_multilabel:
        return np.array([photo.label() for photo in photos], np.int32)
    labels = np.zeros((len(photos), len(source.classes)), np.uint8)
    for row, photo in zip(labels, photos, strict=True):
        row[list(labels_of(photo))] = 1
    return labels


def _array(photos: Sequence[Photo], side: int) -> np.ndarray | None:
    if isinstance(photos, ArrayPhotos) and photos.images.shape[1:3] == (side, side):
        return photos.images
    return None


def _check_readable(
    source: Source,
    labels: np.ndarray,
    bad: Sequence[tuple[Photo, str]],
    *,
    side: int,
    spec: str,
) -> None:
    absent = _absent(labels, source)
    if absent and (source.class_roots or source.is_list):
        name, place, what = source.classes[absent[0]], source.place, "lines"
        if source.class_roots:
            place, what = source.class_roots[side] / name, "folder"
        lines = [f" ({_line(*one)})" for one in bad if absent[0] in labels_of(one[0])]
        raise ValueError(
            f"none of the images of class {name!r} in {place} can be read"
            f"{lines[0] if lines else ''}: replace them or remove the {what}"
        )
    if not len(labels):
        raise ValueError(f"data {spec!r}: no image can be read; {_line(*bad[0])}")


def _absent(labels: np.ndarray, source: Source) -> list[int]:
    labels = np.nonzero(labels)[1] if source.is_multilabel else labels
    present = set(labels.tolist())
    return [label for label in range(len(source.classes)) if label not in present]


def _line(photo: Photo, reason: str) -> str:
    return f"{photo.name}: {reason}"


def _dataset(source: Source, train: _Read, val: _Read, guesses: Guesses) -> Dataset:
    return Dataset(
        name=source.name,
        classes=source.classes,
        train=train.split,
        val=val.split,
        skipped=tuple(_line(*one) for one in (*train.bad, *val.bad)),
        taken=source.taken,
        warnings=(*source.warnings, *guessed(guesses)),
    )
