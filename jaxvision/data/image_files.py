"""Image files below a folder, found in one way whatever they are for."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from jaxvision.data.decode import FORMATS, NEEDS, extensions, is_gray_file, open_image
from jaxvision.data.photo import Label, Photo
from jaxvision.data.storage import StorageError, patiently, storage_fault

BESIDE = tuple(
    ".txt .md .rst .html .json .jsonl .xml .csv .tsv .yaml .yml .ini .db .log .pdf "
    ".py .ipynb .npy .npz .mat .aae .xmp .url .lnk".split()
)
"""Endings of what lies beside photographs and is none: passed over without a word."""
SYSTEM = tuple(
    "@eadir @tmp #recycle #snapshot $recycle.bin __macosx lost+found".split()
) + ("system volume information",)
"""Folders of thumbnails, waste and the like, which file servers and systems make."""


class Found(NamedTuple):
    """What is below a folder.

    Attributes:
      images: the paths of the images, in ImageFolder's order.
      others: the paths of the other files.
      folders: each folder that was walked, with the names of those in it.
    """

    images: list[str]
    others: list[str]
    folders: dict[str, list[str]]


class Listed(NamedTuple):
    """The names in one folder, sorted, without hidden ones and systems' folders."""

    folders: list[str]
    files: list[str]


def find_images(folder: str | Path) -> Found:
    """The images in `folder` and below it, in ImageFolder's order.

    An image is what has one of the endings that are read here; whether it can be is
    for its opening. Hidden files and folders, and those that systems make (`SYSTEM`),
    are passed over. Links are followed, but a folder that was met before is not walked
    again.

    Raises:
      ValueError: a folder cannot be listed.
      StorageError: what it lies on fails.
    """
    images, others, folders = [], [], {}
    waiting, seen, endings = [os.fspath(folder)], set(), extensions()
    while waiting:
        root = waiting.pop()
        real = os.path.realpath(root)
        if real in seen:  # links may go in circles
            continue
        seen.add(real)
        inside, files = list_folder(root)
        folders[root] = inside
        waiting += [os.path.join(root, name) for name in reversed(inside)]
        for name in files:
            kind = images if name.lower().endswith(endings) else others
            kind.append((root, name))
    return Found(
        [os.path.join(root, name) for root, name in sorted(images)],
        [os.path.join(root, name) for root, name in sorted(others)],
        folders,
    )


def list_folder(folder: str | Path) -> Listed:
    """The names of the folders and of all else in `folder`.

    Raises:
      ValueError: it cannot be listed.
      StorageError: not the folder, but what it lies on fails.
    """
    try:
        return patiently(os.fspath(folder), partial(_listed, folder))
    except StorageError:
        raise
    except OSError as error:
        _cannot_list(error)


def _listed(folder: str | Path) -> Listed:
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                is_folder = entry.is_dir()  # asks the storage where it is a link
            except OSError as error:
                if storage_fault(error):  # a class of photographs may be behind it
                    raise
                is_folder = False  # a link in a circle
            if not is_folder:
                files.append(entry.name)
            elif entry.name.lower() not in SYSTEM:
                folders.append(entry.name)
    return Listed(sorted(folders), sorted(files))


def passed_over(paths: Sequence[str], *, where: str = "") -> list[str]:
    """One line that counts, by their endings, files that were not taken; or none.

    Args:
      paths: of any files; those that need no word (`BESIDE`) do not count.
      where: what is special about them.
    """
    endings = [os.path.splitext(os.path.basename(path))[1].lower() for path in paths]
    named = [
        (ending, path)
        for ending, path in zip(endings, paths, strict=True)
        if ending not in BESIDE
    ]
    if not named:
        return []
    counts = Counter(ending for ending, _ in named)
    needs = {e: NEEDS[name] for name in NEEDS for e in FORMATS[name]}
    words = [
        f"{count} {ending or 'without an ending'}"
        + (f" ({needs[ending]})" if ending in set(needs) - set(extensions()) else "")
        for ending, count in counts.most_common()
    ]
    first = _shown(named[0][1])
    return [
        f"{len(named)} file{'s' * (len(named) > 1)} {where}passed over: "
        f"{', '.join(words)}; such as {first}"
    ]


def file_photo(
    path: str | Path,
    *,
    root: str | Path | None = None,
    key: str | None = None,
    label: Label = None,
) -> Photo:
    """The photograph in a file; its key is its path, below `root` where that is given.

    `name` is the path with bytes that are no UTF-8 replaced: it is written to reports.
    """
    path = os.fspath(path)
    if key is None:
        key = Path(path).relative_to(root).as_posix() if root is not None else path
    return Photo(
        name=_shown(path),
        key=key,
        open=lambda: open_image(path),
        label=lambda: label,
        is_gray=lambda: is_gray_file(path),
    )


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def _cannot_list(error: OSError) -> NoReturn:
    raise ValueError(f"cannot list the folder {error.filename}: {error.strerror}")
