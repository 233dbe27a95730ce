"""A model that was exported: what its folder says, and what it says of photographs."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import export
from PIL import Image

from converters.bundle import (
    UNKNOWN,
    Bundle,
    Certainty,
    check_thresholds,
    load_bundle,
    parse_certainty,
    parse_preprocessing,
    told,
    told_certainty,
)
from converters.from_torch import convert
from converters.weights import load_state_dict
from experiments.command.options import RunError, UsageError
from experiments.inference.classifier import (
    BATCH,
    batches,
    make_predict,
    open_model,
)
from jaxvision import models
from jaxvision.data.photo import Photo
from jaxvision.data.reader import Guesses, read
from jaxvision.data.squares import read_crops, resizable
from jaxvision.files import read_text, write_text
from jaxvision.preprocess import Preprocessing

ABOUT = "bundle.json"
"""What stands beside the model: of which format it is, its classes, what it expects."""
INSTALL = "pip install 'jaxvision[export]' (in a checkout: -e '.[export]')"

Predict = Callable[[Sequence[np.ndarray] | np.ndarray], np.ndarray]
"""What is said of uint8 images, crops or whole ones: probabilities, float64."""


class MakePredict(Protocol):
    """Compiles or loads what predicts."""

    def __call__(self, *, batch_size: int = BATCH) -> Predict: ...


class Portable(NamedTuple):
    """A model that names what photographs show, whatever it is computed by.

    Attributes:
      name: the architecture.
      classes: their names, by label.
      preprocessing: what the model expects.
      make_predict: compiles or loads what predicts so many images a step, whole ones
        one by one.
      whole: whether that takes whole photographs, and resizes and crops them itself.
      bundle: the model, where its own layers are at hand.
      certainty: its temperature, which is in the predictions, and its thresholds.
    """

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    make_predict: MakePredict
    whole: bool = False
    bundle: Bundle | None = None
    certainty: Certainty = UNKNOWN


class About(NamedTuple):
    """What a folder says of its model; `format` is a key of `FORMATS`."""

    format: str
    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    certainty: Certainty


class Format(NamedTuple):
    """A kind of exported model.

    Attributes:
      file: its name in the folder.
      open: gives the predictions of the model in a file, of which more is said, with
        so many images a step.
      whole: as in `Portable`.
      needs: packages that nothing else needs.
    """

    file: str
    open: Callable[[Path, About, int], Predict]
    whole: bool = False
    needs: tuple[str, ...] = ()


def open_portable(path: Path) -> Portable:
    """The model of a run, of a `model.safetensors`, or of an exported folder.

    Raises:
      UsageError: there is none, or it is damaged, or a package is missing.
    """
    if not (path / ABOUT).is_file():
        bundle = open_model(path)
        return Portable(
            bundle.name,
            bundle.classes,
            bundle.preprocessing,
            partial(_of_arrays, bundle),
            bundle=bundle,
            certainty=bundle.certainty,
        )
    about = read_about(path / ABOUT)
    check_installed(about.format)
    kind = FORMATS[about.format]
    file = path / kind.file
    if not file.is_file():
        raise UsageError(f"{path}: there is no {kind.file}, of which {ABOUT} speaks")

    def make_predict(*, batch_size: int = BATCH) -> Predict:
        return kind.open(file, about, batch_size)

    return Portable(
        about.name,
        about.classes,
        about.preprocessing,
        make_predict,
        whole=kind.whole,
        certainty=about.certainty,
    )


def read_about(file: Path) -> About:
    """What `write_about` wrote.

    Raises:
      UsageError: the file is damaged.
    """
    try:
        said: dict[str, Any] = json.loads(read_text(file))
        if said["format"] not in FORMATS:
            raise ValueError(f"the format {said['format']!r} is unknown")
        classes = said["classes"]
        if not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError("the classes are no names")
        preprocessing = parse_preprocessing(file, said["preprocessing"])
        certainty = parse_certainty(file, said.get("certainty", {}))
        check_thresholds(file, certainty, classes)
        return About(
            said["format"],
            said["architecture"],
            tuple(classes),
            preprocessing,
            certainty,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{file} is damaged ({reason})") from error


def write_about(file: Path, about: About) -> None:
    """Writes what predictions need beside a model, as JSON."""
    said = {
        "format": about.format,
        "file": FORMATS[about.format].file,
        "architecture": about.name,
        "classes": about.classes,
        "preprocessing": told(about.preprocessing),
        "certainty": told_certainty(about.certainty),
    }
    write_text(file, json.dumps(said, indent=2, ensure_ascii=False) + "\n")


def check_installed(which: str) -> None:
    """Raises UsageError where a package is missing that a format needs."""
    missing = [name for name in FORMATS[which].needs if find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} not installed: {INSTALL}")


def read_photos(
    photos: Sequence[Photo], model: Portable, *, guesses: Guesses | None = None
) -> tuple[Sequence[np.ndarray] | np.ndarray, dict[int, str]]:
    """The photographs as a model takes them, and why others could not be read.

    Args:
      photos: decoded in threads.
      model: takes them whole or as crops.
      guesses: takes those of the photographs.
    """
    size = model.preprocessing
    if not model.whole:
        return read_crops(
            photos, resize=size.resize, crop=size.crop, fit=size.fit, guesses=guesses
        )

    def pixels(index: int, image: Image.Image) -> np.ndarray:
        return np.asarray(resizable(image, size.resize))

    good, bad = read(photos, pixels, guesses=guesses)
    return list(good.values()), bad


def _open_onnx(file: Path, about: About, batch_size: int) -> Predict:
    """An ONNX model in onnxruntime: whole photographs, one by one."""
    import onnxruntime

    del batch_size  # photos differ in size
    try:
        session = onnxruntime.InferenceSession(
            str(file), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no class of their own
        raise RunError(f"{file}: {' '.join(str(error).split())}") from error
    (entry,) = session.get_inputs()

    def predict(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        rows = [
            np.asarray(session.run(None, {entry.name: image[None]})[0], np.float64)
            for image in images
        ]
        return np.concatenate([np.zeros((0, len(about.classes))), *rows])

    return predict


def _open_stablehlo(file: Path, about: About, batch_size: int) -> Predict:
    """A program of `jax.export`: crops, in batches."""
    try:
        call = jax.jit(export.deserialize(bytearray(file.read_bytes())).call)
    except Exception as error:  # nor have these
        raise RunError(f"{file}: {' '.join(str(error).split())}") from error

    def predict(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        rows = [
            np.asarray(call(batch), np.float64)[:count]
            for batch, count in batches(np.asarray(images), size=batch_size)
        ]
        return np.concatenate([np.zeros((0, len(about.classes))), *rows])

    return predict


def _open_safetensors(file: Path, about: About, batch_size: int) -> Predict:
    try:
        return _of_arrays(load_bundle(file), batch_size=batch_size)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _open_torch(file: Path, about: About, batch_size: int) -> Predict:
    try:
        abstract = models.abstract(about.name, num_classes=len(about.classes))
        model = convert(abstract, load_state_dict(file))
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
    bundle = Bundle(about.name, model, *about[2:])
    return _of_arrays(bundle, batch_size=batch_size)


def _of_arrays(bundle: Bundle, *, batch_size: int = BATCH) -> Predict:
    predict = make_predict(bundle, batch_size=batch_size)
    return lambda images: predict(np.asarray(images))


FORMATS = {
    "onnx": Format("model.onnx", _open_onnx, whole=True, needs=("onnx", "onnxruntime")),
    "stablehlo": Format("model.stablehlo", _open_stablehlo, needs=("flatbuffers",)),
    "safetensors": Format("model.safetensors", _open_safetensors),
    "torch": Format("model.pth", _open_torch),
}
