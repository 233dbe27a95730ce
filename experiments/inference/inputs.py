"""The images that a command names."""

from collections.abc import Sequence
from pathlib import Path

from experiments.command.console import Console
from experiments.command.options import UsageError
from jaxvision.data import image_files
from jaxvision.data.decode import extensions


def find_images(given: Sequence[Path], *, console: Console | None = None) -> list[Path]:
    """The files themselves, and the images below the folders, as training has them.

    Args:
      given: files and folders.
      console: is told what else the folders hold.

    Raises:
      UsageError: nothing is given, or a folder without images.
    """
    found = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            inside = image_files.find_images(path)
        except ValueError as error:
            raise UsageError(str(error)) from error
        others = image_files.passed_over(inside.others)
        if not inside.images:
            raise UsageError(
                f"{path}: no images in this folder ({' '.join(extensions())})"
                + "".join(f"; {line}" for line in others)
            )
        for line in others:
            if console is not None:
                console.say(f"WARNING: {line}", style="bold yellow")
        found += map(Path, inside.images)
    if not found:
        raise UsageError("name the images, or folders of images")
    return found
