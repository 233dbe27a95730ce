"""Names what photographs show, with the model of a run.

python -m experiments.predict RUN IMAGE_OR_FOLDER... --top 3 --csv FILE --explain
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from PIL import Image
from tyro import MISSING
from tyro.conf import Positional, arg

from experiments.command import limits
from experiments.command.console import Console
from experiments.command.limits import at_least, check_limits, limited
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference.classifier import BATCH, Explain, explainer
from experiments.inference.inputs import find_images
from experiments.inference.portable import Portable, open_portable, read_photos
from experiments.inference.unsure import UNSURE, least_sure
from experiments.pages.photos import overlay
from experiments.pages.predictions import write_label_predictions, write_predictions
from jaxvision.calibration import foremost
from jaxvision.data.image_files import file_photo
from jaxvision.data.reader import Guesses, guessed
from jaxvision.files import atomic_path

MODULE = "experiments.predict"
CHUNK = 8 * BATCH
"""Images that are decoded before the next step: what bounds the memory."""
WHOLE = 8
"""The same of photographs that a model takes whole."""
LONGEST = 240
"""Bytes of a picture's name, beside what tells equal ones apart; systems take 255."""


@dataclass(frozen=True)
class Config:
    """Names what photographs show, with the model of a run."""

    run: Annotated[Positional[Path], arg(metavar="RUN")] = MISSING
    """A run's folder, or its model.safetensors, or the folder of an export."""
    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE_OR_FOLDER...")
    ] = ()
    """Image files, and folders whose images are taken, those below them too."""
    top: int = limited(3, at_least(1))
    """How many classes to name for each image. A model of several labels names all
    that reach their thresholds."""
    csv: Path | None = None
    """A table to write: path, prediction, confidence, one probability a class; of
    several labels: path, predictions, one probability a label."""
    precision: float | None = limited(None, limits.chance)
    """The share of answers that must be right, such as 0.95: an image of which the
    model is less sure than that takes, by its validation images, is unsure."""
    explain: bool = False
    """Write a picture of each image and where in it the model found its answer."""
    output: Path = Path("explained")
    """The folder for those pictures: OUTPUT/NAME-CLASS.png."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        check_limits(self)


class Seen(NamedTuple):
    """Images that could be read, as the model sees them."""

    paths: tuple[Path, ...]
    images: Sequence[np.ndarray] | np.ndarray


def main(config: Config) -> dict[str, int]:
    """Predicts, and returns how many images were `predicted` and were `unreadable`.

    With a precision, also of how many it was `unsure`.

    Raises:
      UsageError: there is no such model, or there are no images.
      RunError: some files could not be read, or some pictures not be written; all else
        is.
    """
    console = Console()
    model = open_portable(config.run)
    paths = find_images(config.images, console=console)
    limit = least_sure(model, config.precision)
    explain = _explainer(model) if config.explain else None
    predict = model.make_predict()
    unreadable: list[str] = []
    guesses: Guesses = {}
    done, rows = [], [np.zeros((0, len(model.classes)))]
    for seen in _read(paths, model, unreadable, guesses):
        rows.append(predict(seen.images))
        for path, row in zip(seen.paths, rows[-1], strict=True):
            unsure = f"{UNSURE}; " if row.max() < limit else ""
            console.say(f"{path}: {unsure}{_line(row, model, config.top)}")
        done += seen.paths
    table = np.concatenate(rows)
    for line in guessed(guesses):
        console.say(f"WARNING: {line}", style="bold yellow")
    if config.csv is not None:
        names = [str(path) for path in done]
        if limits := model.certainty.label_thresholds:
            write_label_predictions(
                config.csv, names, table, model.classes, thresholds=limits
            )
        else:
            write_predictions(config.csv, names, table, model.classes, limit=limit)
        console.say(f"table: {config.csv}")
    numbers = {"predicted": len(done), "unreadable": len(unreadable)}
    if config.precision is not None:
        numbers["unsure"] = int((table.max(axis=1, initial=0) < limit).sum())
        console.say(
            f"{UNSURE}: {numbers['unsure']} of {len(done)} images, with a probability "
            f"below {limit:.3f}"
        )
    failed = []
    if explain is not None and done:
        # After the table, which no picture that cannot be written is to prevent.
        labels = foremost(table, model.certainty).tolist()
        answers = dict(zip(done, labels, strict=True))
        failed = _write_explanations(answers, model, explain, config.output)
        console.say(f"explanations: {config.output}")
    for line in unreadable:
        console.say(f"not read: {line}", style="bold yellow")
    for line in failed:
        console.say(f"not written: {line}", style="bold yellow")
    _check_all(unreadable, failed, len(paths))
    return numbers


def _explainer(model: Portable) -> Explain:
    """Grad-CAM, where the model can be looked into.

    Raises:
      UsageError: it cannot.
    """
    if model.bundle is None:
        raise UsageError("--explain: give the run itself; its export has no gradients")
    explain = explainer(model.bundle)
    if explain is None:
        raise UsageError(
            f"--explain: {model.name} has no convolutional maps, and Grad-CAM needs "
            "them"
        )
    return explain


def _check_all(unreadable: Sequence[str], failed: Sequence[str], count: int) -> None:
    """Raises RunError where there is not all that was asked for."""
    words = []
    if unreadable:
        words.append(
            f"{len(unreadable)} of {count} images could not be read, such as "
            f"{unreadable[0]}"
        )
    if failed:
        words.append(
            f"{len(failed)} pictures could not be written, such as {failed[0]}"
        )
    if words:
        raise RunError("; ".join(words))


def _read(
    paths: Sequence[Path],
    model: Portable,
    unreadable: list[str],
    guesses: Guesses | None = None,
) -> Iterator[Seen]:
    """Chunk by chunk; what cannot be read is added to `unreadable`."""
    step = WHOLE if model.whole else CHUNK
    for start in range(0, len(paths), step):
        chunk = paths[start : start + step]
        images, bad = read_photos(
            [file_photo(path) for path in chunk], model, guesses=guesses
        )
        unreadable += [f"{chunk[index]}: {reason}" for index, reason in bad.items()]
        sound = tuple(path for index, path in enumerate(chunk) if index not in bad)
        yield Seen(sound, images)


def _line(row: np.ndarray, model: Portable, top: int) -> str:
    """The likeliest classes; of several labels, all that are said."""
    limits = model.certainty.label_thresholds
    order = np.argsort(-row, kind="stable").tolist()
    if limits:
        best = [index for index in order if row[index] >= limits[index]]
    else:
        best = order[:top]
    words = ", ".join(f"{model.classes[index]} {row[index]:.1%}" for index in best)
    if best:
        return words
    first = order[0]
    return (
        f"no label; {model.classes[first]} {row[first]:.1%} is below "
        f"{limits[first]:.1%}"
    )


def _write_explanations(
    answers: Mapping[Path, int], model: Portable, explain: Explain, output: Path
) -> list[str]:
    """The crops, each beside the same with the heat of the predicted class.

    Returns:
      A line for each that could not be written.
    """
    failed, taken = [], set()
    for seen in _read(list(answers), model, failed):
        guess = np.array([answers[path] for path in seen.paths], np.int64)
        heat = explain(np.asarray(seen.images), guess)
        for place, path in enumerate(seen.paths):
            side = heat.shape[1]
            photo = Image.fromarray(seen.images[place])
            photo = photo.resize((side, side), Image.Resampling.BICUBIC)
            looked = overlay(seen.images[place], heat[place])
            both = np.concatenate([np.asarray(photo), looked], axis=1)
            name = _free(path.stem, model.classes[int(guess[place])], taken)
            try:
                with atomic_path(output / name) as temporary:
                    Image.fromarray(both).save(temporary)
            except OSError as error:
                failed.append(f"{output / name}: {error.strerror or error}")
    return failed


def _free(stem: str, label: str, taken: set[str]) -> str:
    """A file name that no image of this call has: folders may hold equal names."""
    plain = _cut(re.sub(r"[^\w.-]+", "_", label), LONGEST // 4)
    stem = _cut(stem, LONGEST - len(os.fsencode(plain)))
    base = f"{stem}-{plain}"
    name, number = f"{base}.png", 1
    while name in taken:
        number += 1
        name = f"{base}-{number}.png"
    taken.add(name)
    return name


def _cut(text: str, length: int) -> str:
    """As much of a file's name as has so many bytes."""
    while len(os.fsencode(text)) > length:
        text = text[:-1]
    return text


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
