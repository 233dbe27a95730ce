"""What a program does about its data before it reads them."""

from pathlib import Path

from experiments.command.console import Console
from experiments.command.options import RunError, UsageError
from experiments.runs.folder import saved_in
from jaxvision import processes
from jaxvision.data.photo import Source
from jaxvision.data.photo_index import read_index, write_index
from jaxvision.data.sources import fetch_source, find_source
from jaxvision.download import DownloadError

INDEX = "photos.npz"
"""What was found in a large folder of photos, beside the run on them."""


def fetch_data(spec: str, *, console: Console, where: str = "--data") -> None:
    """Downloads what `spec` needs and is not here, with progress.

    Args:
      spec: as for `open_dataset`.
      console: shows the progress.
      where: what said so, for the message of an error.

    Raises:
      UsageError: what is here is not what it should be.
      RunError: something could not be had.
    """
    try:
        with console.progress("fetching data") as show:
            fetch_source(
                spec, tell=lambda what, done, total: show(what, done, total, "")
            )
    except DownloadError as error:
        raise RunError(f"{where}: {error}") from error
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def open_source(
    spec: str,
    *,
    console: Console,
    where: str = "--data",
    run: Path | None = None,
) -> Source:
    """What `spec` names, fetched where need be, listed and not decoded.

    Args:
      spec: as for `open_dataset`.
      console: shows the progress.
      where: what said so, for the message of an error.
      run: the folder of a run that may have its index.

    Raises:
      UsageError: there is none.
      RunError: something could not be had.
    """
    if run is not None and (known := read_index(run / INDEX, folder=spec)):
        return known
    fetch_data(spec, console=console, where=where)
    try:
        return find_source(spec, labelled=True)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def keep_index(source: Source, spec: str, run: Path) -> None:
    """Keeps in a run's folder what was found, if that was much; the first process does.

    Raises:
      RunError: the disk refuses.
    """
    with saved_in(run):
        if processes.is_first():
            write_index(run / INDEX, source, folder=spec)
