"""A classification data set: two splits of uint8 squares, of any source."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxvision.data.lazy import LazyImages
from jaxvision.data.photo import ArrayPhotos, Photo, Source, label_array, labels_of
from jaxvision.data.reader import Guesses, Progress, guessed, make_tick
from jaxvision.data.sources import find_source
from jaxvision.data.split import fold_aside, set_aside
from jaxvision.data.squares import read_crops, read_squares, to_crop, to_square


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one size with their labels.

    Attributes:
      images: uint8, `(n, h, w, 3)`, RGB; of a streamed set they are decoded anew
        whenever they are asked for.
      labels: int32, `(n,)`: indices into `Dataset.classes`. Where an image has several
        labels: uint8, `(n, classes)`, 1 where a label holds.
      paths: where each image came from; of images that are no files, a name. A tuple
        where the images are an array.
      sizes: height and width of the photographs themselves, int `(n, 2)`, where they
        are known.
    """

    images: np.ndarray | LazyImages
    labels: np.ndarray
    paths: Sequence[str]
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image has any number of labels, and not one class."""
        return self.labels.ndim == 2

    def only(self, places: np.ndarray) -> "Split":
        """Some of them."""
        images = self.images
        is_lazy = isinstance(images, LazyImages)
        return Split(
            images.only(places) if is_lazy else images[places],
            self.labels[places],
            [self.paths[int(place)] for place in places],
            None if self.sizes is None else self.sizes[places],
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, decoded or decoded as it is used.

    Attributes:
      name: the folder's or file's name, or `demo`.
      classes: their names; of a folder in sorted order, as in ImageFolder. Where an
        image has several labels, those.
      train: squares from which training crops are taken (`preprocess.square_image`).
      val: what evaluation sees (`preprocess.eval_image`).
      skipped: one `path: reason` for each file that could not be read.
      taken: in words, which folders were taken as the splits, where that needs saying.
      warnings: what was passed over or guessed, a line each.
      is_streamed: whether photographs are decoded only as they are used; what cannot be
        read is not known then, and neither left out nor named.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    skipped: tuple[str, ...] = ()
    taken: str = ""
    warnings: tuple[str, ...] = ()
    is_streamed: bool = False


class _Read(NamedTuple):
    """A split, and the photographs that it lacks, with the reasons."""

    split: Split
    bad: list[tuple[Photo, str]]


class Sizes(NamedTuple):
    """How photographs become squares; see `open_dataset`."""

    train: int
    resize: int
    crop: int
    fit: str

    def to_square(self, image: Image.Image) -> np.ndarray:
        """What is trained on of a photograph."""
        return to_square(image, size=self.train, crop=self.crop, fit=self.fit)

    def to_crop(self, image: Image.Image) -> np.ndarray:
        """What evaluation sees of it."""
        return to_crop(image, resize=self.resize, crop=self.crop, fit=self.fit)


@dataclass(frozen=True, eq=False)
class Listing:
    """A classification data set of which no photograph is decoded yet.

    Attributes:
      source: where it is from.
      train, val: the photographs of its splits.
      sizes: of the squares.
      is_divided: whether the splits were made here, by `seed`.
      seed: chose the validation images, where the splits were made here.
      spec: what named it, for messages.
    """

    source: Source
    train: Sequence[Photo]
    val: Sequence[Photo]
    sizes: Sizes
    is_divided: bool
    seed: int
    spec: str

    @property
    def nbytes(self) -> int:
        """What its squares take, decoded."""
        sides = (self.train, self.sizes.train), (self.val, self.sizes.crop)
        return sum(len(photos) * side * side * 3 for photos, side in sides)

    def read(self, *, progress: Progress | None = None) -> Dataset:
        """All of it decoded; see `open_dataset`."""
        source, spec = self.source, self.spec
        guesses: Guesses = {}
        read = partial(
            _read, source, sizes=self.sizes, progress=progress, guesses=guesses
        )
        check = partial(_check_readable, source, spec=spec)
        train, val = read(self.train, self.val)
        if not self.is_divided:
            check(train.split.labels, train.bad, side=0)
            check(val.split.labels, val.bad, side=1)
            return _dataset(source, train, val, guesses)
        if _absent(train.split.labels, source) or _absent(val.split.labels, source):
            # A small class lost one side to damaged files: divide the sound ones anew.
            bad = train.bad + val.bad
            sound = np.concatenate([train.split.labels, val.split.labels])
            check(sound, bad, side=0)
            without = {photo.key for photo, _ in bad}
            train, val = read(*set_aside(source, seed=self.seed, without=without))
            train = train._replace(bad=bad + train.bad)
        return _dataset(source, train, val, guesses)

    def stream(self) -> Dataset:
        """The same, of which nothing is decoded but what is asked for.

        What cannot be read is not known before, and so not left out; see `LazyImages`.
        Arrays of the very size stay arrays.
        """
        sides = []
        for photos, side, convert, array in (
            (self.train, self.sizes.train, self.sizes.to_square, _train_array),
            (self.val, self.sizes.crop, self.sizes.to_crop, _val_array),
        ):
            images = array(photos, self.sizes)
            if images is None:
                images = LazyImages(photos, convert, side=side)
            labels = _labels(photos, self.source)
            sides.append(Split(images, labels, _PhotoNames(photos)))
        nothing = _Read(sides[0], []), _Read(sides[1], [])
        return replace(_dataset(self.source, *nothing, {}), is_streamed=True)


class _PhotoNames(Sequence[str]):
    """The names of photographs, made when they are asked for."""

    def __init__(self, photos: Sequence[Photo]):
        self._photos = photos

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> str:
        return self._photos[index].name


def open_dataset(
    spec: str | Source,
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
        Datasets. All are in `sources.KINDS`. Or what `find_source` gave for one.
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
    listing = list_dataset(
        spec,
        train_size=train_size,
        eval_resize=eval_resize,
        eval_crop=eval_crop,
        fit=fit,
        fold=fold,
        seed=seed,
    )
    return listing.read(progress=progress)


def list_dataset(
    spec: str | Source,
    *,
    train_size: int,
    eval_resize: int,
    eval_crop: int,
    fit: str = "crop",
    fold: tuple[int, int] | None = None,
    seed: int = 0,
) -> Listing:
    """The data set that `spec` names, not decoded; in all else as `open_dataset`."""
    source = find_source(spec, labelled=True) if isinstance(spec, str) else spec
    what = spec if isinstance(spec, str) else source.place
    if twice := [n for n, count in Counter(source.classes).items() if count > 1]:
        raise ValueError(
            f"data {what!r} has two classes called {twice[0]!r}: rename one of them"
        )
    sides = source.train, source.val
    is_divided = not source.val and fold is None
    if fold is not None:
        sides = fold_aside(source, fold[0], folds=fold[1], seed=seed)
    elif is_divided:
        sides = set_aside(source, seed=seed)
    sizes = Sizes(train_size, eval_resize, eval_crop, fit)
    return Listing(source, *sides, sizes, is_divided, seed, what)


def _read(
    source: Source,
    train: Sequence[Photo],
    val: Sequence[Photo],
    *,
    sizes: Sizes,
    progress: Progress | None,
    guesses: Guesses,
) -> list[_Read]:
    """Both splits; arrays of the very size are not sent through the threads."""
    train_size, resize, crop, fit = sizes
    seen: dict[int, tuple[int, int]] = {}
    jobs = (
        (
            train,
            _train_array(train, sizes),
            partial(read_squares, size=train_size, crop=crop, fit=fit),
        ),
        (
            val,
            _val_array(val, sizes),
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


def _train_array(photos: Sequence[Photo], sizes: Sizes) -> np.ndarray | None:
    has_margin = sizes.fit != "crop" and sizes.crop < sizes.train
    return None if has_margin else _array(photos, sizes.train)


def _val_array(photos: Sequence[Photo], sizes: Sizes) -> np.ndarray | None:
    is_whole = sizes.fit != "crop" or sizes.resize == sizes.crop
    return _array(photos, sizes.crop) if is_whole else None


def _labels(photos: Sequence[Photo], source: Source) -> np.ndarray:
    if not source.is_multilabel:
        return label_array(photos)
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
