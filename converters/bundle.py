"""`model.safetensors`: a model, its classes and its preprocessing in one file.

Names and layouts are torchvision's, so PyTorch loads it with
`model.load_state_dict(safetensors.torch.load_file(path))`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from converters.from_torch import convert
from converters.to_torch import to_state_dict
from converters.weights import read_safetensors
from jaxvision import models
from jaxvision.files import atomic_path
from jaxvision.preprocess import Preprocessing
from jaxvision.typing import Tree


class Bundle(NamedTuple):
    """What a model file holds."""

    name: str
    """The architecture, a row of `models.names()`."""
    model: nnx.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def save_bundle(
    path: str | Path,
    name: str,
    params: Tree,
    stats: Tree,
    *,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
) -> None:
    """Writes the arrays and, as metadata, what a prediction needs beside them."""
    model = models.abstract(name, num_classes=len(classes))
    metadata = {
        "architecture": name,
        "classes": json.dumps(classes),
        "preprocessing": json.dumps(dataclasses.asdict(preprocessing)),
        "format": "pt",
    }
    with atomic_path(path) as temporary:
        save_file(to_state_dict(model, params, stats), temporary, metadata=metadata)


def load_bundle(path: str | Path) -> Bundle:
    """The model that `save_bundle` wrote, without torch.

    Raises:
      ValueError: the file is damaged, or not one of ours.
    """
    arrays, metadata = read_safetensors(Path(path))
    try:
        name = metadata["architecture"]
        classes = tuple(json.loads(metadata["classes"]))
        values: dict[str, Any] = json.loads(metadata["preprocessing"])
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error.args[0]} in its metadata: it is not the "
            "model.safetensors of a run"
        ) from None
    values |= {key: tuple(values[key]) for key in ("mean", "std")}
    model = convert(models.abstract(name, num_classes=len(classes)), arrays)
    return Bundle(name, model, classes, Preprocessing(**values))


def read_labels(path: str | Path) -> tuple[str, tuple[str, ...]]:
    """The architecture and the classes of a model file, whose tensors stay unread.

    Raises:
      ValueError: the file is damaged, or not one of ours.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
        return metadata["architecture"], tuple(json.loads(metadata["classes"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not the model.safetensors of a run") from error
