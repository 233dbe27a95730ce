"""Image files below a folder, found in one way whatever they are for."""

import os
from pathlib import Path
from typing import NoReturn

from jaxvision.data.decode import is_gray_file, open_image
from jaxvision.data.photo import Photo

# torchvision's IMG_EXTENSIONS.
EXTENSIONS = tuple(".jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp".split())


def find_images(folder: Path) -> list[str]:
    """The images in `folder` and below it, in ImageFolder's order.

    Hidden files and folders are passed over. Links are followed, but a folder that was
    met before is not walked again.

    Raises:
      ValueError: a folder cannot be listed.
    """
    found, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=_cannot_list, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # links may go in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            (root, name)
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return [os.path.join(root, name) for root, name in sorted(found)]


def find_tree(folder: Path) -> list[Path]:
    """The same images by name, the folders among the files beside them.

    Raises:
      ValueError: a folder cannot be listed.
    """
    return sorted(map(Path, find_images(folder)))


def find_subfolders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden ones.

    Raises:
      ValueError: it cannot be listed.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        _cannot_list(error)
    return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def file_photo(
    path: str | Path, *, root: Path | None = None, label: int | None = None
) -> Photo:
    """The photograph in a file; its key is its path, below `root` where that is given.

    `name` is the path with bytes that are no UTF-8 replaced: it is written to reports.
    """
    path = os.fspath(path)
    return Photo(
        name=os.fsencode(path).decode("utf-8", "replace"),
        key=Path(path).relative_to(root).as_posix() if root is not None else path,
        open=lambda: open_image(path),
        label=lambda: label,
        is_gray=lambda: is_gray_file(path),
    )


def _cannot_list(error: OSError) -> NoReturn:
    raise ValueError(f"cannot list the folder {error.filename}: {error.strerror}")
