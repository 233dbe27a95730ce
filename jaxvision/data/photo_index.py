"""The index of a large folder: what was found there, so that it is listed once.

It is taken for the folder as long as each file has the size and the time that it had,
and each folder the time, which changes with any name in it.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxvision.data.file_photos import FilePhotos, Names
from jaxvision.data.photo import Source
from jaxvision.data.storage import StorageError
from jaxvision.files import atomic_path, regular_file

VERSION = 1
LARGE = 10_000
"""Photographs from which on an index is worth its file."""
_SIDES = ("train", "val")
_COLUMNS = ("names", "ends", "labels", "facts")


def write_index(path: Path, source: Source, *, folder: str) -> bool:
    """Keeps what was found in a folder, where that is large; whether it did.

    Args:
      path: the file to write.
      source: as `folder.open_folder` gives it.
      folder: what it was given.

    Raises:
      OSError: the disk refuses.
    """
    sides = _sides(source)
    if sides is None or sum(len(photos) for _, photos in sides) < LARGE:
        return False
    arrays = {}
    for side, photos in sides:
        table = (photos.names.text, photos.names.ends, photos.labels(), photos.facts())
        arrays |= {f"{side}_{n}": a for n, a in zip(_COLUMNS, table, strict=True)}
    walked = list(_walked(Path(os.path.expanduser(folder)), sides))
    arrays["folders"] = Names.of(walked).text
    arrays["folder_ends"] = Names.of(walked).ends
    arrays["folder_times"] = np.array([_time(one) for one in walked], np.int64)
    facts = {
        "version": VERSION,
        "folder": folder,
        "name": source.name,
        "place": source.place,
        "classes": source.classes,
        "roots": [str(root) for root in source.class_roots or ()],
        "sides": {side: photos.root for side, photos in sides},
        "taken": source.taken,
        "warnings": list(source.warnings),
    }
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return True


def read_index(path: Path, *, folder: str) -> Source | None:
    """What `folder` held when the index was written, if it holds it still.

    None where there is no index, or any file or folder is another than it was: then the
    folder has to be listed anew.
    """
    try:
        with (
            open(path, "rb", opener=regular_file) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            facts = json.loads(arrays["facts"].tobytes())
            if (facts["version"], facts["folder"]) != (VERSION, folder):
                return None
            walked = Names(arrays["folders"], arrays["folder_ends"])
            times = [_time(one) for one in walked]
            if not np.array_equal(times, arrays["folder_times"]):
                return None
            return _source(facts, arrays)
    except StorageError:
        raise
    except Exception:  # of numpy, zipfile or json: an index that is damaged is none
        return None


def _source(facts: dict[str, Any], arrays: Any) -> Source | None:
    sides: dict[str, FilePhotos] = {}
    for side, root in facts["sides"].items():
        names, ends, labels, known = (arrays[f"{side}_{name}"] for name in _COLUMNS)
        folders = Names(arrays["folders"], arrays["folder_ends"])
        photos = FilePhotos(root, Names(names, ends), labels=labels, folders=folders)
        if not np.array_equal(photos.facts(), known):
            return None
        sides[side] = photos
    roots = [Path(root) for root in facts["roots"]]
    return Source(
        name=facts["name"],
        place=facts["place"],
        train=sides["train"],
        val=sides.get("val", ()),
        classes=tuple(facts["classes"]),
        class_roots=(roots[0], roots[1]),
        taken=facts["taken"],
        warnings=facts["warnings"],
    )


def _sides(source: Source) -> list[tuple[str, FilePhotos]] | None:
    """The splits, where they are files in folders of classes."""
    found = []
    for side, photos in zip(_SIDES, (source.train, source.val), strict=True):
        if isinstance(photos, FilePhotos):
            found.append((side, photos))
        elif len(photos):
            return None
    return found if source.class_roots and found else None


def _walked(folder: Path, sides: list[tuple[str, FilePhotos]]) -> Iterator[bytes]:
    """The folders whose names decide what is found."""
    yield os.fsencode(folder)
    for _, photos in sides:
        root = Path(photos.root)
        above = [one for one in root.parents if one.is_relative_to(folder)]
        yield from map(os.fsencode, [root, *above])
        yield from photos.folders


def _time(folder: bytes) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1
