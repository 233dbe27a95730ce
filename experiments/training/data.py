"""What a program does about its data before they are trained on."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.command.console import Console
from experiments.command.memory import choose_input
from experiments.command.options import RunError, UsageError, check_alike
from experiments.runs.folder import saved_in, say_data
from jaxvision import processes
from jaxvision.data import Dataset, Split, list_dataset
from jaxvision.data.lazy import LazyImages
from jaxvision.data.photo import Source
from jaxvision.data.photo_index import read_index, write_index
from jaxvision.data.reader import guessed
from jaxvision.data.sources import fetch_source, find_source
from jaxvision.download import DownloadError
from jaxvision.preprocess import Preprocessing

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


def find_photos(options: Any, size: int, *, console: Console) -> tuple[Source, str]:
    """What `--data` names, not decoded, and what `--input` comes to for it.

    Args:
      options: a program's, with `data`, `resume` and those of `Memory`.
      size: side of the crops, in pixels.
      console: is told what is chosen.

    Raises:
      UsageError: there are no such photos, or they can be neither kept nor streamed.
      RunError: they could not be fetched.
    """
    source = open_source(options.data, console=console, run=options.resume)
    pixels = len(source.train) * square_side(size) ** 2 + len(source.val) * size**2
    return source, choose_input(options, 3 * pixels, console=console)


def square_side(crop: int) -> int:
    """Of training squares: larger than the crop, so that random crops differ."""
    return round(crop * 256 / 224)


def keep_index(source: Source, spec: str, run: Path) -> None:
    """Keeps in a run's folder what was found, if that was much; the first process does.

    Raises:
      RunError: the disk refuses.
    """
    with saved_in(run):
        if processes.is_first():
            write_index(run / INDEX, source, folder=spec)


def open_data(
    source: str | Source,
    preprocessing: Preprocessing,
    *,
    train_size: int,
    console: Console,
    fold: tuple[int, int] | None = None,
    where: str = "--data",
    is_streamed: bool = False,
) -> Dataset:
    """The data set of a source, with progress; its split does not hang on the seed.

    What was taken as what, and left out, is said; all processes have the same.

    Args:
      source: as `open_source` gives it, or what it takes.
      preprocessing: what the model expects of its images.
      train_size: side of the training squares, in pixels.
      console: shows the progress.
      fold: as for `open_dataset`.
      where: what said so, for the message of an error.
      is_streamed: whether nothing is decoded before it is used.

    Raises:
      UsageError: there is none, or it cannot be trained on.
      RunError: it could not be fetched.
    """
    if isinstance(source, str):
        source = open_source(source, console=console, where=where)
    try:
        listing = list_dataset(
            source,
            train_size=train_size,
            eval_resize=preprocessing.resize,
            eval_crop=preprocessing.crop,
            fit=preprocessing.fit,
            fold=fold,
        )
        if is_streamed:
            dataset = listing.stream()
        else:
            with console.counting("reading photos") as progress:
                dataset = listing.read(progress=progress)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    say_data(dataset, console)
    check_alike(
        lambda: {
            "training photos": fingerprint(dataset.train, dataset.classes),
            "validation photos": fingerprint(dataset.val, dataset.classes),
        }
    )
    return dataset


def read_so_far(dataset: Dataset, places: np.ndarray) -> Dataset:
    """A streamed set as it turned out to be: without what no process could read.

    Args:
      dataset: any; of one that is no stream all that is known already.
      places: of the validation images that can be read.
    """
    if not dataset.is_streamed:
        return dataset
    lines, guesses = [], {}
    for images in (dataset.train.images, dataset.val.images):
        if isinstance(images, LazyImages):
            bad = sorted(images.bad.items())
            lines += [f"{images.photos[index].name}: {why}" for index, why in bad]
            guesses |= images.guesses
    told = processes.gather_values([lines, guesses])
    lines = dict.fromkeys(line for theirs, _ in told for line in theirs)
    guesses = {name: what for _, theirs in told for name, what in theirs.items()}
    is_whole = len(places) == len(dataset.val)
    return replace(
        dataset,
        val=dataset.val if is_whole else dataset.val.only(places),
        skipped=tuple(lines),
        warnings=(*dataset.warnings, *guessed(guesses)),
    )


def fingerprint(split: Split, classes: tuple[str, ...]) -> str:
    """A digest of photos, labels and classes, the same for the same ones.

    Of photos that are streamed it takes what is known of them without reading them.
    """
    digest = hashlib.sha256(repr(classes).encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(split.labels).data)
    if isinstance(split.images, LazyImages):
        digest.update(split.images.identity())
    else:
        digest.update(np.ascontiguousarray(split.images).data)
    return digest.hexdigest()
