"""Packs a folder of photos into a few large files, for disks that many machines share.

python -m experiments.pack PHOTOS PACKED
python -m experiments.transfer --data PACKED
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from experiments.command.console import Console
from experiments.command.limits import at_least, limited
from experiments.command.options import RunError, UsageError, run_cli
from experiments.runs.folder import SHOWN
from experiments.training.data import open_source
from jaxvision.array_folder import reason
from jaxvision.data.packed import pack
from jaxvision.data.storage import StorageError

MODULE = "experiments.pack"


@dataclass(frozen=True)
class Config:
    """Writes the photos of a folder into ArrayRecord files, with classes and splits.

    What cannot be read is left out and named. --data takes the new folder as the old.
    """

    photos: Annotated[Positional[str], arg(metavar="FOLDER")] = ""
    """A folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg."""
    into: Annotated[Positional[Path | None], arg(metavar="OUT")] = None
    """The folder to write, which is not there yet."""
    resize: int | None = limited(None, at_least(16, most=4096))
    """Pixels of the short side to which larger photos are reduced, as JPEG; by default
    files are copied as they are."""


def main(config: Config) -> dict[str, float]:
    """Packs and returns how many photos, and how many bytes of them, were written.

    Raises:
      UsageError: there are no such photos, or the new folder is there.
      RunError: the disk refuses.
    """
    if not config.photos or config.into is None:
        raise UsageError("name the folder of photos, and the one to write")
    if config.into.exists():
        raise UsageError(f"OUT: {config.into} is there already: give another name")
    console = Console()
    source = open_source(config.photos, console=console, where="FOLDER")
    try:
        with console.counting("packing photos") as progress:
            packed = pack(source, config.into, short=config.resize, progress=progress)
    except ValueError as error:
        raise UsageError(f"FOLDER: {error}") from error
    except StorageError:  # of the photos' disk
        raise
    except OSError as error:
        raise RunError(f"{config.into} cannot be written: {reason(error)}") from error
    for line in packed.skipped[:SHOWN]:
        console.say(f"WARNING: left out: {line}", style="bold yellow")
    if more := len(packed.skipped[SHOWN:]):
        console.say(f"WARNING: and {more} more", style="bold yellow")
    console.say(f"{packed.count} photos, {packed.size / 1e6:,.1f} MB: {config.into}")
    return {"photos": packed.count, "bytes": packed.size}


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
