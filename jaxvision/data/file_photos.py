"""Very many photographs that are files: a table of their names, no object for each.

A name, its offset and its label are about 50 bytes; a path and a `Photo` in Python are
over a thousand. With the files' sizes and times it is still less than 150.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from jaxvision.data.image_files import file_photo
from jaxvision.data.photo import Photo
from jaxvision.data.storage import StorageError, patiently

LOOKS = 16
"""Files that are asked for their size at once: a network answers many at a time."""
_BLOCK = 4096


class Names(Sequence[bytes]):
    """Names of files, one after the other in one piece of memory.

    Attributes:
      text: all of them.
      ends: where each ends, int64 `(n,)`.
    """

    def __init__(self, text: bytes | np.ndarray, ends: np.ndarray):
        self.text = np.frombuffer(text, np.uint8) if isinstance(text, bytes) else text
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[bytes]) -> "Names":
        """The table of some names."""
        names = list(names)
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        return cls(b"".join(names), np.cumsum(lengths))

    @classmethod
    def joined(cls, parts: Sequence["Names"]) -> "Names":
        """One table of several."""
        starts = np.cumsum([0, *(len(part.text) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        text = [part.text for part in parts]
        return cls(
            np.concatenate([np.empty(0, np.uint8), *text]),
            np.concatenate([np.empty(0, np.int64), *ends]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        begin = self.ends[index - 1] if index else 0
        return self.text[begin : self.ends[index]].tobytes()


class FilePhotos(Sequence[Photo]):
    """Photographs that are files below a folder.

    Attributes:
      root: the folder.
      names: their paths below it.
      folders: the folders in which they were looked for, where that is known.
    """

    def __init__(
        self,
        root: str | Path,
        names: Names,
        *,
        labels: np.ndarray | None,
        folders: Sequence[bytes] = (),
    ):
        self.root = os.fspath(root)
        self.names = names
        self.folders = folders
        self._labels = labels
        self._facts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Photo:
        label = None if self._labels is None else int(self._labels[index])
        path = os.fsdecode(self.path(index))
        return file_photo(path, root=self.root, label=label)

    def labels(self) -> np.ndarray:
        """Their labels; see `photo.label_array`."""
        if self._labels is None:
            raise ValueError(f"the photos in {self.root} have no labels")
        return self._labels

    def facts(self) -> np.ndarray:
        """Size in bytes and time of the last change in ns, int64 `(n, 2)`.

        -1 where a file cannot be asked. They are asked once, many at a time.

        Raises:
          StorageError: not a file, but what they lie on fails.
        """
        if self._facts is None:
            facts = np.empty((len(self), 2), np.int64)
            with ThreadPoolExecutor(LOOKS) as pool:
                list(pool.map(partial(self._look, facts), range(0, len(self), _BLOCK)))
            self._facts = facts  # all of them, or none after a fault
        return self._facts

    def write_identity(self, write: Callable[[bytes], object]) -> None:
        """See `photo.write_identity`: names and sizes; copies have other times."""
        write(self.names.text.tobytes())
        write(self.names.ends.astype("<i8").tobytes())
        write(self.facts()[:, 0].astype("<i8").tobytes())

    def path(self, index: int) -> bytes:
        """Where one is."""
        return os.path.join(os.fsencode(self.root), self.names[index])

    def _look(self, facts: np.ndarray, begin: int) -> None:
        for index in range(begin, min(begin + _BLOCK, len(self))):
            path = self.path(index)
            try:
                found = patiently(os.fsdecode(path), partial(os.stat, path))
                facts[index] = found.st_size, found.st_mtime_ns
            except StorageError:
                raise
            except OSError:
                facts[index] = -1


def names_below(paths: Iterable[str], root: str | Path) -> Names:
    """The table of paths below a folder, by which they begin."""
    start = len(os.path.join(os.fsencode(root), b""))
    return Names.of(os.fsencode(path)[start:] for path in paths)
