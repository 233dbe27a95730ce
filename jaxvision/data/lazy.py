"""Photographs that are decoded when they are asked for, in place of an array."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from jaxvision.data.decode import TAKEN_AS, UnreadableImageError, formats
from jaxvision.data.photo import Photo, Some, write_identity
from jaxvision.data.reader import Guesses, workers


class LazyImages:
    """Squares of photographs: each is decoded anew whenever it is asked for.

    Like an array, uint8 `(n, side, side, 3)`, it has `shape`, `dtype` and `len`, and is
    asked by an index, a slice or an array of indices; of several the unreadable are
    left out. Any thread may ask.

    Attributes:
      photos: what is decoded.
      bad: the indices of photographs that could not be read so far, with the reasons.
      guesses: see `reader.Guesses`; of those that were asked for so far.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        convert: Callable[[Image.Image], np.ndarray],
        *,
        side: int,
    ):
        formats()  # here, so that no two threads load Pillow's plugins at once
        # Pillow warns of odd metadata and large images; what fails is in `bad`.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self.photos = photos
        self.bad: dict[int, str] = {}
        self.guesses: Guesses = {}
        self._convert = convert
        self._side = side

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the array that this stands for."""
        return len(self.photos), self._side, self._side, 3

    dtype = np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """4."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self.decode(int(index))
        places = np.arange(len(self))[index].tolist()
        with ThreadPoolExecutor(workers()) as pool:
            found = [
                one for one in pool.map(self.try_decode, places) if one is not None
            ]
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), np.uint8)

    def decode(self, index: int) -> np.ndarray:
        """One square.

        Raises:
          UnreadableImageError: it cannot be read, which is noted in `bad`.
        """
        photo = self.photos[index]
        try:
            image = photo.open()
            if TAKEN_AS in image.info:
                self.guesses[photo.name] = image.info[TAKEN_AS]
            square = self._convert(image)
            self.bad.pop(index, None)
            return square
        except UnreadableImageError as error:
            self.bad[index] = str(error)
            raise

    def try_decode(self, index: int) -> np.ndarray | None:
        """One square, or None where it cannot be read."""
        try:
            return self.decode(index)
        except UnreadableImageError:
            return None

    def only(self, places: np.ndarray) -> "LazyImages":
        """Some of them."""
        photos = Some(self.photos, places)
        return LazyImages(photos, self._convert, side=self._side)

    def identity(self) -> bytes:
        """A digest of what they are, without reading them; see `write_identity`."""
        digest = hashlib.sha256()
        write_identity(self.photos, digest.update)
        return digest.digest()
