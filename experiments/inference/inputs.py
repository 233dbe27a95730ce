"""The images that a command names."""

from collections.abc import Sequence
from pathlib import Path

from experiments.command.options import UsageError
from jaxvision.data.image_files import EXTENSIONS, find_tree


def find_images(given: Sequence[Path]) -> list[Path]:
    """The files themselves, and the images below the folders, sorted; hidden ones not.

    Raises:
      UsageError: nothing is given, or a folder without images.
    """
    found = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            inside = find_tree(path)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not inside:
            raise UsageError(
                f"{path}: no images in this folder ({' '.join(EXTENSIONS)})"
            )
        found += inside
    if not found:
        raise UsageError("name the images, or folders of images")
    return found
