"""Names what photographs show, with the model of a run.

python -m experiments.predict RUN IMAGE_OR_FOLDER... --top 3 --csv FILE --explain
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tyro import MISSING
from tyro.conf import Positional, arg

from converters.bundle import Bundle, load_bundle
from experiments.config import RunError, UsageError, run_cli
from experiments.run import Reporter
from jaxvision import gradcam, models
from jaxvision.data.decode import Sizes, decode_pair, open_photo
from jaxvision.data.folder import EXTENSIONS
from jaxvision.files import atomic_path
from jaxvision.functional import functionalize, mirrored
from jaxvision.preprocess import Preprocessing, normalize, to_float
from jaxvision.report.findings import Explain
from jaxvision.report.photos import overlay
from jaxvision.report.predictions import write_predictions

MODULE = "experiments.predict"
MODEL = "model.safetensors"
BATCH = 32
"""Images a step; the last batch is filled up, so that one program serves all."""
CHUNK = 8 * BATCH
"""Images that are decoded before the next step: what bounds the memory."""
SMALLEST = 224
"""Pixels a side of an explanation; smaller crops are enlarged."""

Predict = Callable[[np.ndarray], np.ndarray]
"""`predict(images) -> probabilities`: uint8 crops to float64 `(n, classes)`."""


@dataclass(frozen=True)
class Config:
    """Names what photographs show, with the model of a run."""

    run: Annotated[Positional[Path], arg(metavar="RUN")] = MISSING
    """A run's folder, or its model.safetensors, which is enough."""
    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE_OR_FOLDER...")
    ] = ()
    """Image files, and folders whose images are taken, those below them too."""
    top: int = 3
    """How many classes to name for each image."""
    csv: Path | None = None
    """A table to write: path, prediction, confidence, one probability a class."""
    explain: bool = False
    """Write a picture of each image and where in it the model found its answer."""
    output: Path = Path("explained")
    """The folder for those pictures: OUTPUT/NAME-CLASS.png."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        if self.top < 1:
            raise ValueError(f"--top cannot be {self.top}")


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
    report = Reporter()
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
            report.say(f"{path}: {_line(row, bundle.classes, config.top)}")
        if explain is not None:
            _write_explanations(part, explain, bundle.classes, config.output, taken)
        done += part.paths
        rows.append(part.probabilities)
    if config.csv is not None:
        table = np.concatenate([np.zeros((0, len(bundle.classes))), *rows])
        names = [str(path) for path in done]
        write_predictions(config.csv, names, None, table, bundle.classes)
        report.say(f"table: {config.csv}")
    if explain is not None and done:
        report.say(f"explanations: {config.output}")
    if unreadable:
        for line in unreadable:
            report.say(f"not read: {line}", style="bold yellow")
        raise RunError(
            f"{len(unreadable)} of {len(paths)} images could not be read, such as "
            f"{unreadable[0]}"
        )
    return {"predicted": len(done), "unreadable": len(unreadable)}


def open_model(run: Path) -> Bundle:
    """The classifier of a run's folder, or of a `model.safetensors`.

    Raises:
      UsageError: there is none.
    """
    path = run / MODEL if run.is_dir() else run
    if not path.is_file():
        if not run.exists():
            raise UsageError(f"{run}: no such run, nor a model.safetensors")
        inner = sorted(run.glob(f"*/{MODEL}"))
        hint = (
            f"it holds several runs, give one, such as {inner[0].parent}"
            if inner
            else "it is no run, or none that ended an epoch"
        )
        raise UsageError(f"{run}: there is no {MODEL}; {hint}")
    try:
        bundle = load_bundle(path)
        has_classes = bool(models.variant(bundle.name).head)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not has_classes:
        raise UsageError(f"{path}: {bundle.name} enlarges images, and names no classes")
    return bundle


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
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in EXTENSIONS
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not inside:
            raise UsageError(
                f"{path}: no images in this folder ({' '.join(EXTENSIONS)})"
            )
        found += inside
    if not found:
        raise UsageError("name the images, or folders of images, after the run")
    return found


def make_predict(bundle: Bundle) -> Predict:
    """What the model says of images that are cropped already."""
    apply, params, stats = functionalize(bundle.model, dtype=_dtype())
    if bundle.preprocessing.mirror:
        apply = mirrored(apply)

    @jax.jit
    def forward(params, stats, images):
        return apply(params, stats, _prepared(images, bundle.preprocessing))[0]

    def predict(images: np.ndarray) -> np.ndarray:
        logits = [
            np.asarray(forward(params, stats, batch), np.float64)[:count]
            for batch, count in _batches(images)
        ]
        return softmax(np.concatenate([np.zeros((0, len(bundle.classes))), *logits]))

    return predict


def explainer(bundle: Bundle) -> Explain | None:
    """Grad-CAM of the model; None where it has no convolutions.

    The map is that of the last layer that still has several pixels a side.
    """
    heat = _compiled_heat(bundle.name, len(bundle.classes), bundle.preprocessing)
    if heat is None:
        return None
    _, params, stats = functionalize(bundle.model)
    side = max(bundle.preprocessing.crop, SMALLEST)

    def explain(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found = np.zeros((len(images), side, side), np.float32)
        start = 0
        for batch, count in _batches(images):
            asked = np.zeros(len(batch), np.int32)
            asked[:count] = labels[start : start + count]
            found[start : start + count] = heat(params, stats, batch, asked)[:count]
            start += count
        return found

    return explain


@lru_cache(maxsize=4)
def _compiled_heat(
    name: str, num_classes: int, preprocessing: Preprocessing
) -> Callable[..., jax.Array] | None:
    """`heat(params, stats, images, labels)`; all models of a kind share one program."""
    size = preprocessing.crop
    try:
        layer = gradcam.choose_layer(name, size=size)
    except ValueError:
        return None
    model = models.abstract(name, num_classes=num_classes)
    probe = gradcam.probe(layer)
    apply, _, _ = functionalize(model, dtype=_dtype(), forward=probe)

    @jax.jit
    def heat(params, stats, images, labels):
        prepared = _prepared(images, preprocessing)
        maps, _ = gradcam.grad_cam(apply, params, stats, prepared, labels)
        return gradcam.heat(maps, size=max(size, SMALLEST))

    return heat


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, of `(n, classes)` logits."""
    scores = np.asarray(logits, np.float64)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return shares / shares.sum(axis=1, keepdims=True)


def _dtype():
    """As the runs compute: in half precision where that is what is fast."""
    return None if jax.default_backend() == "cpu" else jnp.bfloat16


def _prepared(images, preprocessing: Preprocessing):
    return normalize(to_float(images), mean=preprocessing.mean, std=preprocessing.std)


def _batches(images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of one size, the last filled up, and how many of each count."""
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        missing = BATCH - len(batch)
        yield np.pad(batch, ((0, missing), *[(0, 0)] * 3)), len(batch)


def _predicted(
    paths: Sequence[Path], bundle: Bundle, predict: Predict, unreadable: list[str]
) -> Iterator[Predicted]:
    """Chunk by chunk; what cannot be read is added to `unreadable`."""
    sizes = Sizes(1, bundle.preprocessing.resize, bundle.preprocessing.crop)
    for start in range(0, len(paths), CHUNK):
        chunk = paths[start : start + CHUNK]
        (_, images), (_, bad) = decode_pair([], chunk, open_photo, sizes=sizes)
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
