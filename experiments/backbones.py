"""Which weights a fine-tuning starts from, and the model that holds them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from converters import download, weights
from converters.from_torch import ConversionError, convert
from experiments.config import RunError, UsageError
from experiments.run import Reporter
from jaxvision import models
from jaxvision.preprocess import Preprocessing

RANDOM = "The numbers show that everything runs, not what an ImageNet backbone can do."
FILES = (".pth", ".pt", ".safetensors")


class Start(NamedTuple):
    """The weights that were chosen, before the model exists."""

    arrays: dict[str, np.ndarray] | None
    """Torch's names and layouts; none: random."""
    preprocessing: Preprocessing
    """For 224 px crops."""
    source: str
    """What they are, in words."""
    is_imagenet: bool = False
    """Whether the last layer is ImageNet's own, which no other data set can use."""


def common_weights(
    names: Sequence[str], which: str, *, is_demo: bool, report: Reporter
) -> tuple[str, str]:
    """What `--weights which` comes to for all of `names`, and a warning or none.

    `auto` is `imagenet`; with the demo photos it is `random` where those of one of the
    backbones cannot be had, which is said.
    """
    lack = ""
    if which == "auto":
        rows = [weights.find(name, "imagenet") for name in names]
        lack = next(filter(None, map(_lack, rows)), "") if is_demo else ""
        which = "random" if lack else "imagenet"
    if which != "random" or not is_demo:
        return which, ""
    warning = f"The weights are random{lack and ': '}{lack}. {RANDOM}"
    if lack:
        report.say(f"WARNING: {warning}", style="bold yellow")
    return which, warning


def choose_weights(name: str, which: str, *, report: Reporter) -> Start:
    """The start of the backbone `name`: `random`, `imagenet`, a version, or a file.

    Raises:
      UsageError: there are no such weights, or the file does not hold weights.
      RunError: the weights could not be fetched, or torch is missing to read them.
    """
    if which == "random":
        return Start(None, Preprocessing(), "random weights")
    if Path(which).suffix in FILES:
        try:
            arrays = weights.load_state_dict(Path(which).expanduser())
        except ModuleNotFoundError as error:
            raise RunError(str(error)) from error
        except ValueError as error:
            raise UsageError(f"--weights: {error}") from error
        return Start(arrays, Preprocessing(), Path(which).name)
    try:
        row = weights.find(name, which)
    except ValueError as error:
        raise UsageError(
            f"--weights: {error}; or random, or a {', '.join(FILES)} file"
        ) from error
    try:
        title = f"fetching {row.file}"
        size = math.ceil(row.mib * 2**20)
        with report.progress(title) as show:
            arrays, row = download.imagenet_state_dict(
                name,
                row.version,
                progress=lambda done, total: show(title, done, total or size, ""),
            )
    except (download.WeightsError, ModuleNotFoundError) as error:
        raise RunError(str(error)) from error
    return Start(arrays, row.preprocessing, f"ImageNet weights {row.file}", True)


def _lack(row: weights.Row) -> str:
    """What is missing to have the weights of `row` here; nothing, an empty text."""
    if download.is_cached(row):
        return ""
    if not weights.has_torch():
        return "ImageNet weights are not cached, and converting them needs torch"
    if not download.reachable(row):
        return "ImageNet weights are neither cached nor reachable"
    return ""


def build(
    name: str, start: Start, *, num_classes: int, seed: int
) -> tuple[nnx.Module, str]:
    """The model for `num_classes` and a sentence on where its weights are from.

    Its last layer is that of the weights where it fits the number of classes and is not
    ImageNet's own, else a new one, drawn as `torch.nn.Linear` draws it.

    Raises:
      UsageError: the tensors do not fit the backbone.
    """
    rngs = nnx.Rngs(seed)
    if start.arrays is None:
        return models.create(name, num_classes=num_classes, rngs=rngs), start.source
    head = f"{models.variant(name).head}."
    arrays = dict(start.arrays)
    model = models.abstract(name, num_classes=num_classes)
    theirs = None if start.is_imagenet else arrays.get(f"{head}bias")
    if theirs is not None and theirs.shape == (num_classes,):
        source = f"{start.source}, with its last layer"
    else:
        models.new_head(name, model, rngs=rngs)
        filled = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
        path = tuple(int(p) if p.isdigit() else p for p in head.rstrip(".").split("."))
        arrays[f"{head}weight"] = np.asarray(filled[*path, "kernel"][...]).T
        arrays[f"{head}bias"] = np.asarray(filled[*path, "bias"][...])
        source = f"{start.source}, with a new last layer"
    try:
        return convert(model, arrays), source
    except ConversionError as error:
        raise UsageError(f"--weights: {error}") from error
