"""What a program does about its data before it reads them."""

from experiments.command.console import Console
from experiments.command.options import RunError, UsageError
from jaxvision.data.photo import Source
from jaxvision.data.sources import fetch_source, find_source
from jaxvision.download import DownloadError


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


def open_source(spec: str, *, console: Console, where: str = "--data") -> Source:
    """What `spec` names, fetched where need be, listed and not decoded.

    Raises:
      UsageError: there is none.
      RunError: something could not be had.
    """
    fetch_data(spec, console=console, where=where)
    try:
        return find_source(spec, labelled=True)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
