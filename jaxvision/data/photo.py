"""A photograph that is not decoded yet, and a source of them: what all data are."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Label = int | tuple[int, ...] | None
"""The index of a class, those of several labels, or None where there are no classes."""


def _no_label() -> None:
    return None


def _in_colour() -> bool:
    return False


@dataclass(frozen=True, eq=False, slots=True)
class Photo:
    """A photograph that is not decoded yet; all calls may come from any thread.

    Attributes:
      name: where it is from, for people; of a file its path, in UTF-8.
      key: its name within its source, wherever that lies; chance goes by it.
      open: gives it upright, in RGB, or raises UnreadableImageError; StorageError where
        it could not be looked at.
      label: gives the index of its class, or in rising order those of its labels; None
        where there are no classes. Some sources have to read the photograph for it.
      is_gray: whether it is stored as a grey one, whose three channels are equal.
    """

    name: str
    key: str
    open: Callable[[], Image.Image]
    label: Callable[[], Label] = _no_label
    is_gray: Callable[[], bool] = _in_colour


Write = Callable[[bytes], object]
"""Takes a piece of what photographs are known by."""


def labels_of(photo: Photo) -> tuple[int, ...]:
    """The indices of a photograph's labels; none where there are no classes."""
    label = photo.label()
    if isinstance(label, tuple):
        return label
    return () if label is None else (label,)


class ArrayPhotos(Sequence[Photo]):
    """Photographs that are the rows of an array, and can be taken as they are.

    Attributes:
      images: uint8 `(n, h, w, 3)`.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        is_gray: bool = False,
    ):
        self.images = images
        self._name = name
        self._labels = labels
        self._is_gray = is_gray

    def __len__(self) -> int:
        return len(self.images)

    def labels(self) -> np.ndarray:
        """Their labels; see `label_array`."""
        if self._labels is None:
            raise ValueError(f"{self._name} has no labels")
        return np.asarray(self._labels, np.int32)

    def write_identity(self, write: Write) -> None:
        """See `write_identity`: the pixels are here."""
        write(self.images.tobytes())

    def __getitem__(self, index: int) -> Photo:
        image = self.images[index]  # an IndexError is what ends an iteration
        label = None if self._labels is None else int(self._labels[index])
        return Photo(
            name=f"{self._name}/{index:05d}",
            key=f"{index:05d}",
            open=lambda: Image.fromarray(image),
            label=lambda: label,
            is_gray=lambda: self._is_gray,
        )


class Some(Sequence[Photo]):
    """Some of other photographs, by their places among these, without a copy of them.

    Attributes:
      places: int `(n,)`.
    """

    def __init__(self, photos: Sequence[Photo], places: np.ndarray):
        self._photos = photos
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Photo:
        return self._photos[int(self.places[index])]

    def labels(self) -> np.ndarray:
        """Their labels; see `label_array`."""
        return label_array(self._photos)[self.places]

    def write_identity(self, write: Write) -> None:
        """See `write_identity`."""
        write(self.places.astype("<i8").tobytes())
        write_identity(self._photos, write)


def label_array(photos: Sequence[Photo]) -> np.ndarray:
    """The labels of photographs of known classes, int32 `(n,)`.

    Sources that hold them as an array say so by a method of their own, `labels()`.
    """
    known: Any = getattr(photos, "labels", None)
    if known is not None:
        return known()
    return np.fromiter((photo.label() for photo in photos), np.int32, len(photos))


def write_identity(photos: Sequence[Photo], write: Write) -> None:
    """Gives, piece by piece, what tells photographs from others without reading them.

    That is their keys. Sources that know more, such as the sizes of files, have a
    method of the same name.
    """
    own: Any = getattr(photos, "write_identity", None)
    if own is not None:
        own(write)
        return
    for photo in photos:
        write(os.fsencode(photo.key) + b"\0")


@dataclass(frozen=True, eq=False)
class Source:
    """Photographs of one place, listed and not decoded.

    Attributes:
      name: the folder's or file's name, `demo`, or the set's.
      place: where the photographs lie that may be divided, for messages.
      train: photographs to train on.
      val: photographs to validate or to judge by. None: some of `train` are to be set
        aside (`split.set_aside`).
      classes: their names, by label; none where the photographs have no labels.
      class_roots: the folders, of `train` and of `val`, in which each class has a
        folder of its own; None where classes are no folders.
      is_multilabel: whether a photograph has any number of labels, and not one class.
      is_list: whether a file at `place` lists the photographs and their labels.
      undivided: gives all photographs whole; None where those of both splits are.
      taken: in words, which folders were taken as the splits; empty where that goes
        without saying.
      warnings: what was passed over, or is not as one would expect, a line each.
    """

    name: str
    place: str
    train: Sequence[Photo]
    val: Sequence[Photo] = ()
    classes: tuple[str, ...] = ()
    class_roots: tuple[Path, Path] | None = None
    is_multilabel: bool = False
    is_list: bool = False
    undivided: Callable[[], Sequence[Photo]] | None = None
    taken: str = ""
    warnings: Sequence[str] = ()

    def whole(self) -> Sequence[Photo]:
        """All photographs, of either split, none of them cut."""
        return self.undivided() if self.undivided else [*self.train, *self.val]
