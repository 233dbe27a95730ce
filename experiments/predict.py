"""Names what photographs show, with the model of a run.

python -m experiments.predict RUN IMAGE_OR_FOLDER... --top 3 --csv FILE --explain
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from PIL import Image
from tyro import MISSING
from tyro.conf import Positional, arg

from converters.bundle import Bundle
from experiments.command.console import Console
from experiments.command.limits import at_least, check_limits, limited
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference.classifier import (
    BATCH,
    Explain,
    Predict,
    explainer,
    make_predict,
    open_model,
)
from experiments.inference.inputs import find_images
from experiments.pages.photos import overlay
from experiments.pages.predictions import write_predictions
from jaxvision.data.image_files import file_photo
from jaxvision.data.squares import read_crops
from jaxvision.files import atomic_path

MODULE = "experiments.predict"
CHUNK = 8 * BATCH
"""Images that are decoded before the next step: what bounds the memory."""


@dataclass(frozen=True)
class Config:
    """Names what photographs show, with the model of a run."""

    run: Annotated[Positional[Path], arg(metavar="RUN")] = MISSING
    """A run's folder, or its model.safetensors, which is enough."""
    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE_OR_FOLDER...")
    ] = ()
    """Image files, and folders whose images are taken, those below them too."""
    top: int = limited(3, at_least(1))
    """How many classes to name for each image."""
    csv: Path | None = None
    """A table to write: path, prediction, confidence, one probability a class."""
    explain: bool = False
    """Write a picture of each image and where in it the model found its answer."""
    output: Path = Path("explained")
    """The folder for those pictures: OUTPUT/NAME-CLASS.png."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        check_limits(self)


class Predicted(NamedTuple):
    """Images that could be read, as the model sees them, and what it says of them."""

    paths: tuple[Path, ...]
    images: np.ndarray
    probabilities: np.ndarray


def main(config: Config) -> dict[str, int]:
    """Predicts, and returns how many images were `predicted` and were `unreadable`.

    Raises:
      UsageError: there is no such model, or there are no images.
      RunError: some files could not be read; all others are predicted.
    """
    console = Console()
    bundle = open_model(config.run)
    paths = find_images(config.images)
    predict = make_predict(bundle)
    explain = explainer(bundle) if config.explain else None
    if config.explain and explain is None:
        raise UsageError(
            f"--explain: {bundle.name} has no convolutional maps, and Grad-CAM needs "
            "them"
        )
    unreadable: list[str] = []
    done, rows, taken = [], [], set()
    for part in _predicted(paths, bundle, predict, unreadable):
        for path, row in zip(part.paths, part.probabilities, strict=True):
            console.say(f"{path}: {_line(row, bundle.classes, config.top)}")
        if explain is not None:
            _write_explanations(part, explain, bundle.classes, config.output, taken)
        done += part.paths
        rows.append(part.probabilities)
    if config.csv is not None:
        table = np.concatenate([np.zeros((0, len(bundle.classes))), *rows])
        names = [str(path) for path in done]
        write_predictions(config.csv, names, table, bundle.classes)
        console.say(f"table: {config.csv}")
    if explain is not None and done:
        console.say(f"explanations: {config.output}")
    if unreadable:
        for line in unreadable:
            console.say(f"not read: {line}", style="bold yellow")
        raise RunError(
            f"{len(unreadable)} of {len(paths)} images could not be read, such as "
            f"{unreadable[0]}"
        )
    return {"predicted": len(done), "unreadable": len(unreadable)}


def _predicted(
    paths: Sequence[Path], bundle: Bundle, predict: Predict, unreadable: list[str]
) -> Iterator[Predicted]:
    """Chunk by chunk; what cannot be read is added to `unreadable`."""
    seen = bundle.preprocessing
    for start in range(0, len(paths), CHUNK):
        chunk = paths[start : start + CHUNK]
        photos = [file_photo(path) for path in chunk]
        images, bad = read_crops(photos, resize=seen.resize, crop=seen.crop)
        unreadable += [f"{chunk[index]}: {reason}" for index, reason in bad.items()]
        sound = tuple(path for index, path in enumerate(chunk) if index not in bad)
        yield Predicted(sound, images, predict(images))


def _line(row: np.ndarray, classes: Sequence[str], top: int) -> str:
    best = np.argsort(-row, kind="stable")[:top].tolist()
    return ", ".join(f"{classes[index]} {row[index]:.1%}" for index in best)


def _write_explanations(
    part: Predicted,
    explain: Explain,
    classes: Sequence[str],
    output: Path,
    taken: set[str],
) -> None:
    """The crop, and beside it the same with the heat of the predicted class."""
    guess = part.probabilities.argmax(axis=1)
    heat = explain(part.images, guess)
    for place, path in enumerate(part.paths):
        side = heat.shape[1]
        photo = Image.fromarray(part.images[place])
        photo = photo.resize((side, side), Image.Resampling.BICUBIC)
        looked = overlay(part.images[place], heat[place])
        name = _free(path.stem, classes[int(guess[place])], taken)
        both = np.concatenate([np.asarray(photo), looked], axis=1)
        with atomic_path(output / name) as temporary:
            Image.fromarray(both).save(temporary)


def _free(stem: str, label: str, taken: set[str]) -> str:
    """A file name that no image of this call has: folders may hold equal names."""
    plain = re.sub(r"[^\w.-]+", "_", label)
    base = f"{stem}-{plain}"
    name, number = f"{base}.png", 1
    while name in taken:
        number += 1
        name = f"{base}-{number}.png"
    taken.add(name)
    return name


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
