"""Photographs in a few large files: ArrayRecord shards, for disks that many share.

A folder of them has `packed.npz`, the table of names, labels and sizes, and the shards,
whose records are image files. A network disk then opens a handful of files instead of a
million, and nothing has to be listed.
"""

import importlib
import importlib.util
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxvision.data.decode import UnreadableImageError, content, formats, open_image
from jaxvision.data.file_photos import FilePhotos, Names
from jaxvision.data.photo import Photo, Source, Write
from jaxvision.data.reader import workers
from jaxvision.data.storage import StorageError, patiently
from jaxvision.files import atomic_folder, read_bytes

TABLE = "packed.npz"
VERSION = 1
SHARD = 1 << 28
"""Bytes after which another file begins."""
QUALITY = 95
"""Of the JPEGs that are written of photographs that were made smaller."""
INSTALL = "pip install 'jaxvision[stream]' (in a checkout: -e '.[stream]')"
_WINDOW = 256
SIDES = ("train", "val")


class PackedPhotos(Sequence[Photo]):
    """The photographs of one split of a packed folder."""

    def __init__(
        self,
        folder: Path,
        side: str,
        names: Names,
        numbers: np.ndarray,
        *,
        labelled: bool,
    ):
        """Opens the shards' tables.

        Args:
          folder: the packed one.
          side: the split's name.
          names: their keys.
          numbers: label and size in bytes of each, int64 `(n, 2)`.
          labelled: whether the labels are asked for.
        """
        module = importlib.import_module("array_record.python.array_record_data_source")
        shards = sorted(str(path) for path in folder.glob(f"{side}-*.array_record"))
        self._records: Any = module.ArrayRecordDataSource(shards) if shards else ()
        self._folder, self._names, self._numbers = folder, names, numbers
        self._labelled = labelled
        if not len(self._records) == len(names) == len(numbers):
            raise ValueError(
                f"{folder} is damaged: its table has {len(names)} photos of {side}, "
                f"its shards {len(self._records)}: pack the photos anew"
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Photo:
        key = os.fsdecode(self._names[index])
        shown = os.fsencode(key).decode("utf-8", "replace")
        return Photo(
            name=f"{self._folder}/{shown}",
            key=key,
            open=partial(self._open, index),
            label=lambda: int(self._numbers[index, 0]) if self._labelled else None,
        )

    def labels(self) -> np.ndarray:
        """Their labels; see `photo.label_array`."""
        return self._numbers[:, 0].astype(np.int32)

    def write_identity(self, write: Write) -> None:
        """See `photo.write_identity`."""
        write(self._names.text.tobytes())
        write(self._names.ends.astype("<i8").tobytes())
        write(self._numbers[:, 1].astype("<i8").tobytes())

    def _open(self, index: int) -> Image.Image:
        try:
            record = patiently(str(self._folder), lambda: self._records[index])
        except StorageError:
            raise
        except Exception as error:  # of array_record: any kind there is
            why = " ".join(str(error).split())[:200]
            raise UnreadableImageError(f"its record is damaged ({why})") from error
        return open_image(io.BytesIO(record))


def is_packed(spec: str) -> bool:
    """Whether `spec` is a folder that `pack` wrote."""
    return spec != "" and os.path.isfile(Path(os.path.expanduser(spec)) / TABLE)


def open_packed(spec: str, *, labelled: bool) -> Source:
    """The photographs of a packed folder, with the classes and splits of the original.

    Raises:
      ValueError: it is damaged, or a package is missing.
      StorageError: not the folder, but what it lies on fails.
    """
    folder = Path(os.path.expanduser(spec))
    _check_package(f"data {spec!r}")
    try:
        table = patiently(str(folder / TABLE), partial(read_bytes, folder / TABLE))
        with np.load(io.BytesIO(table), allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            if facts["version"] != VERSION:
                raise ValueError(f"version {facts['version']}, not {VERSION}")
            classes = tuple(map(str, facts["classes"]))
            tables = [_table(arrays, side, len(classes)) for side in SIDES]
    except StorageError:
        raise
    except Exception as error:  # numpy, zipfile and json raise nearly anything
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder / TABLE} is damaged ({why}): pack the photos anew"
        ) from error
    train, val = (
        PackedPhotos(folder, side, *table, labelled=labelled)
        for side, table in zip(SIDES, tables, strict=True)
    )
    return Source(
        name=str(facts["name"]),
        place=str(folder),
        train=train,
        val=val,
        classes=classes if labelled else (),
    )


def _table(arrays: Any, side: str, classes: int) -> tuple[Names, np.ndarray]:
    text, ends = arrays[f"{side}_names"], arrays[f"{side}_ends"]
    numbers = arrays[f"{side}_numbers"]
    is_sound = (
        (text.dtype, ends.dtype, numbers.dtype) == (np.uint8, np.int64, np.int64)
        and numbers.shape == (len(ends), 2)
        and (np.diff(ends, prepend=0) >= 0).all()
        and (ends[-1:] == len(text)).all()
        and ((numbers[:, 0] >= 0) & (numbers[:, 0] < classes)).all()
    )
    if not is_sound:
        raise ValueError(f"what it says of {side} does not fit together")
    return Names(text, ends), numbers


def _check_package(what: str) -> None:
    if importlib.util.find_spec("array_record") is None:
        raise ValueError(f"{what} needs array_record: {INSTALL}")


class Packed(NamedTuple):
    """What was packed.

    Attributes:
      count: photographs.
      size: bytes of their files, as they were written.
      skipped: one `path: reason` for each photograph that cannot be read.
    """

    count: int
    size: int
    skipped: tuple[str, ...]


def pack(
    source: Source,
    folder: Path,
    *,
    short: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Packed:
    """Writes the photographs of a folder into a new one, whole or not at all.

    Files are copied as they are, once it is seen that they can be read.

    Args:
      source: of a folder with classes.
      folder: the new one.
      short: pixels of the short side to which larger ones are reduced, as JPEG; by
        bilinear interpolation with antialiasing, as everywhere.
      progress: called with the photographs done and all.

    Raises:
      ValueError: the source is no folder, or a package is missing.
      OSError: the disk refuses; StorageError: that of the photographs fails.
    """
    _check_package("packing")
    sides = source.train, source.val
    total, done, size = sum(map(len, sides)), 0, 0
    skipped: list[str] = []
    formats()
    facts = {"version": VERSION, "name": source.name, "classes": source.classes}
    arrays: dict[str, Any] = {}
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with atomic_folder(folder) as into, ThreadPoolExecutor(workers()) as pool:
        for side, photos in zip(SIDES, sides, strict=True):
            if not len(photos):
                photos = FilePhotos("", Names.of(()), labels=np.empty(0, np.int32))
            if not isinstance(photos, FilePhotos):
                raise ValueError(f"{source.place}: only folders of images are packed")
            kept, sizes = [], []
            with _Shards(into, side) as shards:
                for begin in range(0, len(photos), _WINDOW):
                    places = range(begin, min(begin + _WINDOW, len(photos)))
                    read = partial(_file, photos, short)
                    for place, data in zip(places, pool.map(read, places), strict=True):
                        done += 1
                        if isinstance(data, str):
                            skipped.append(f"{photos[place].name}: {data}")
                            continue
                        shards.write(data)
                        kept.append(place)
                        sizes.append(len(data))
                    if progress is not None:
                        progress(done, total)
            names = Names.of(photos.names[place] for place in kept)
            labels = photos.labels()[np.array(kept, np.int64)]
            arrays[f"{side}_names"], arrays[f"{side}_ends"] = names.text, names.ends
            arrays[f"{side}_numbers"] = np.array([labels, sizes], np.int64).T
            size += sum(sizes)
        np.savez(into / TABLE, **arrays)
    return Packed(done - len(skipped), size, tuple(skipped))


class _Shards:
    """Files one after the other, each of about `SHARD` bytes."""

    def __init__(self, folder: Path, side: str):
        self._folder, self._side = folder, side
        self._count = self._size = 0
        self._writer: Any = None

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, data: bytes) -> None:
        if self._writer is not None and self._size >= SHARD:
            self._writer.close()
            self._writer = None
        if self._writer is None:
            module = importlib.import_module("array_record.python.array_record_module")
            name = f"{self._side}-{self._count:05d}.array_record"
            # A record a group: any of them is read by itself.
            self._writer = module.ArrayRecordWriter(
                str(self._folder / name), "group_size:1,uncompressed"
            )
            self._count, self._size = self._count + 1, 0
        self._writer.write(data)
        self._size += len(data)


def _file(photos: FilePhotos, short: int | None, index: int) -> bytes | str:
    """What is stored of a photograph, or why it cannot be read."""
    try:
        path = os.fsdecode(photos.path(index))
        data = patiently(path, partial(content, path))
        image = open_image(io.BytesIO(data))
    except UnreadableImageError as error:
        return str(error)
    except StorageError:
        raise
    except OSError as error:
        return error.strerror or str(error)
    if short is None or min(image.size) <= short:
        return data
    scale = short / min(image.size)
    sides = [max(short, round(scale * side)) for side in image.size]
    image = image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
