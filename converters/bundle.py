"""`model.safetensors`: a model, its classes and its preprocessing in one file.

Names and layouts are torchvision's, so PyTorch loads it with
`model.load_state_dict(safetensors.torch.load_file(path))`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from safetensors import SafetensorError

from converters.from_torch import convert
from converters.to_torch import to_state_dict
from converters.weights import read_safetensors
from jaxvision import models
from jaxvision.calibration import HOTTEST, UNKNOWN, Certainty
from jaxvision.preprocess import FITS, Preprocessing
from jaxvision.tensor_file import check_digest, open_tensors, save_tensors
from jaxvision.typing import Tree

LARGEST = 8192
"""Most pixels a side of what a model sees: more would be gigabytes an image."""


class Bundle(NamedTuple):
    """What a model file holds."""

    name: str
    """The architecture, a row of `models.names()`."""
    model: nnx.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    certainty: Certainty = UNKNOWN


def save_bundle(
    path: str | Path,
    name: str,
    params: Tree,
    stats: Tree,
    *,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    certainty: Certainty | None = None,
) -> None:
    """Writes the arrays and, as metadata, what a prediction needs beside them.

    The arrays are the net's own: a temperature is not multiplied into them. Equal
    arguments give equal files, and a digest in them is checked by `load_bundle`.
    """
    model = models.abstract(name, num_classes=len(classes))
    metadata = {
        "architecture": name,
        "classes": json.dumps(classes),
        "preprocessing": json.dumps(told(preprocessing)),
        "format": "pt",
    }
    if model.revision > 1:
        metadata["revision"] = str(model.revision)
    if certainty is not None:
        metadata["certainty"] = json.dumps(told_certainty(certainty))
    save_tensors(path, to_state_dict(model, params, stats), metadata)


def load_bundle(path: str | Path) -> Bundle:
    """The model that `save_bundle` wrote, without torch.

    Raises:
      ValueError: the file is damaged, or not one of ours.
    """
    arrays, metadata = read_safetensors(Path(path))
    try:
        name = metadata["architecture"]
        classes = json.loads(metadata["classes"])
        said = json.loads(metadata["preprocessing"])
        sure = json.loads(metadata.get("certainty", "{}"))
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error.args[0]} in its metadata: it is not the "
            "model.safetensors of a run"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metadata are damaged ({error})") from None
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"{path}: its metadata are damaged (the classes are no names)")
    preprocessing, certainty = (
        parse_preprocessing(path, said),
        parse_certainty(path, sure),
    )
    check_thresholds(path, certainty, classes)
    check_digest(path, arrays, metadata)
    _check_numbers(path, arrays)
    abstract = models.abstract(name, num_classes=len(classes))
    check_revision(path, metadata, abstract)
    if preprocessing.crop < abstract.smallest:
        raise ValueError(
            f"{path}: its metadata are damaged (the preprocessing's crop is "
            f"{preprocessing.crop}, and {name} takes images of {abstract.smallest} "
            "pixels or more)"
        )
    model = convert(abstract, arrays)
    return Bundle(name, model, tuple(classes), preprocessing, certainty)


def check_revision(
    path: str | Path, metadata: Mapping[str, str], model: models.Network
) -> None:
    """Raises ValueError where the file is of another revision of the network."""
    if metadata.get("revision", "1") != str(model.revision):
        raise ValueError(
            f"{path}: another version's {metadata.get('architecture')}, which computes "
            "something else from the same numbers: train it anew, or use that version"
        )


def architecture(path: str | Path) -> str:
    """The architecture that a file of weights says it is of; mostly it says none."""
    try:
        with open_tensors(path) as file:
            return (file.metadata() or {}).get("architecture", "")
    except (SafetensorError, OSError):
        return ""


def read_labels(path: str | Path) -> tuple[str, tuple[str, ...]]:
    """The architecture and the classes of a model file, whose tensors stay unread.

    Raises:
      ValueError: the file is damaged, or not one of ours.
    """
    try:
        with open_tensors(path) as file:
            metadata = dict(file.metadata() or {})
        return metadata["architecture"], tuple(json.loads(metadata["classes"]))
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not the model.safetensors of a run") from error


_LATER = {"fit": "crop", "shift": 0}
"""What older files and versions, which do not say it, mean."""


def told(preprocessing: Preprocessing) -> dict[str, Any]:
    """What the metadata say of it.

    Versions that know of no fit or shift refuse a file that has one.
    """
    said = dataclasses.asdict(preprocessing)
    return {name: said[name] for name in said if said[name] != _LATER.get(name)}


def told_certainty(certainty: Certainty) -> dict[str, Any]:
    """What the metadata say of it.

    Versions that know of no labels' thresholds refuse a file that has them.
    """
    said = dataclasses.asdict(certainty)
    if not said["label_thresholds"]:
        del said["label_thresholds"]
    return said


def check_thresholds(
    path: str | Path, certainty: Certainty, classes: Sequence[str]
) -> None:
    """Raises ValueError where there are labels' thresholds and not one a class."""
    if len(certainty.label_thresholds) not in (0, len(classes)):
        raise ValueError(
            f"{path}: its metadata are damaged ({len(certainty.label_thresholds)} "
            f"thresholds of {len(classes)} labels)"
        )


def parse_preprocessing(path: str | Path, said: Any) -> Preprocessing:
    """What the metadata say of it, each value looked at.

    Raises:
      ValueError: a value is missing or of no use.
    """
    said = said if isinstance(said, dict) else {}
    said = {"mirror": False} | _LATER | said
    for field in dataclasses.fields(Preprocessing):
        if field.name not in said:
            raise ValueError(
                f"{path}: its metadata are damaged (the preprocessing has no "
                f"{field.name})"
            )
        value = said[field.name]
        if not _USABLE[field.name](value):
            raise ValueError(
                f"{path}: its metadata are damaged (the preprocessing's {field.name} "
                f"is {value!r})"
            )
    names = [field.name for field in dataclasses.fields(Preprocessing)]
    if unknown := sorted(set(said) - set(names)):
        raise ValueError(
            f"{path}: its preprocessing has {', '.join(unknown)}, which this version "
            "does not know"
        )
    values: dict[str, Any] = {name: said[name] for name in names}
    values |= {name: tuple(said[name]) for name in ("mean", "std")}
    return Preprocessing(**values)


def parse_certainty(path: str | Path, said: Any) -> Certainty:
    """What the metadata say of it; older files say nothing.

    Raises:
      ValueError: a value is of no use.
    """
    names = [field.name for field in dataclasses.fields(Certainty)]
    if not isinstance(said, dict):
        raise ValueError(f"{path}: its metadata are damaged (certainty {said!r:.60})")
    if unknown := sorted(set(said) - set(names)):
        raise ValueError(
            f"{path}: its certainty has {', '.join(unknown):.60}, which this version "
            "does not know"
        )
    temperature, rows = said.get("temperature", 1.0), said.get("thresholds", [])
    if not _is_number(temperature) or not 1 / HOTTEST <= temperature <= HOTTEST:
        raise ValueError(
            f"{path}: its metadata are damaged (the temperature is "
            f"{temperature!r:.60}, and goes from {1 / HOTTEST:g} to {HOTTEST:g})"
        )
    if not isinstance(rows, list) or not all(map(_is_row, rows)) or not _rise(rows):
        raise ValueError(
            f"{path}: its metadata are damaged (the thresholds are not rising pairs of "
            "shares)"
        )
    limits = said.get("label_thresholds", [])
    if not isinstance(limits, list) or not all(map(_is_share, limits)):
        raise ValueError(
            f"{path}: its metadata are damaged (the labels' thresholds are not shares)"
        )
    return Certainty(
        float(temperature),
        tuple((level, limit) for level, limit in rows),
        tuple(limits),
    )


def _is_number(value: Any) -> bool:
    # By comparison: a whole number may have too many digits for a float.
    return type(value) in (int, float) and abs(value) < 1e300


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_row(value: Any) -> bool:
    """Whether it is a precision with its threshold."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_is_number, value))
        and 0 < value[0] < 1
        and 0 <= value[1] <= 1
    )


def _rise(rows: list[list[float]]) -> bool:
    """Whether each column grows from row to row."""
    columns = zip(*rows, strict=True)
    return all(a < b for column in columns for a, b in pairwise(column))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


_USABLE = {
    "resize": _is_size,
    "crop": _is_size,
    "mean": _is_colour,
    "std": lambda value: _is_colour(value) and min(value) > 0,
    "mirror": lambda value: isinstance(value, bool),
    "shift": lambda value: type(value) is int and 0 <= value < 16,
    "fit": lambda value: isinstance(value, str) and value in FITS,
}


def _check_numbers(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for weights by which nothing can be computed."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite")
        if name.endswith(".running_var") and (array < 0).any():
            raise ValueError(f"{path}: {name} holds negative variances")
