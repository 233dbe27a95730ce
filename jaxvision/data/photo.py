"""A photograph that is not decoded yet, and a source of them: what all data are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
      open: gives it upright, in RGB, or raises UnreadableImageError.
      label: gives the index of its class, or in rising order those of its labels; None
        where there are no classes. Some sources have to read the photograph for it.
      is_gray: whether it is stored as a grey one, whose three channels are equal.
    """

    name: str
    key: str
    open: Callable[[], Image.Image]
    label: Callable[[], Label] = _no_label
    is_gray: Callable[[], bool] = _in_colour


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
