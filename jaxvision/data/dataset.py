"""What every source of photographs comes down to: two splits of uint8 squares."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Progress = Callable[[int, int], None]
"""Called with the photographs done and the photographs in all, in the main thread."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one size with their labels.

    Attributes:
      images: uint8, `(n, h, w, 3)`, RGB.
      labels: int32, `(n,)`: indices into `Dataset.classes`.
      paths: where each image came from; of images that are no files, a name.
    """

    images: np.ndarray
    labels: np.ndarray
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, decoded.

    Attributes:
      name: the folder's or file's name, or `demo`.
      classes: their names; of a folder in sorted order, as in ImageFolder.
      train: squares from which training crops are taken (`preprocess.square_image`).
      val: what evaluation sees (`preprocess.eval_image`).
      skipped: one `path: reason` for each file that could not be read.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    skipped: tuple[str, ...] = ()
