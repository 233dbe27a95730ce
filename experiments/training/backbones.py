"""Which weights a fine-tuning starts from, and the model that holds them."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from converters import download, weights
from converters.bundle import architecture, read_labels
from converters.from_torch import ConversionError, convert, without_optional
from converters.to_torch import torch_call
from experiments.command.console import Console
from experiments.command.options import RunError, UsageError
from experiments.inference.classifier import MODEL
from experiments.training.training import Start
from jaxvision import models
from jaxvision.download import DownloadError
from jaxvision.preprocess import Preprocessing

RANDOM = "The numbers show that everything runs, not what an ImageNet backbone can do."
FILES = ".pth, .pt or .safetensors"
"""What `--weights` takes besides, in words; see `weights.is_file_name`."""


WORDS = ("auto", "imagenet", "v1", "v2", "random")
"""What it takes that is no path."""


class Weights(NamedTuple):
    """The weights that were chosen, before the model exists."""

    arrays: dict[str, np.ndarray] | None
    """Torch's names and layouts; none: random."""
    preprocessing: Preprocessing
    """For 224 px crops."""
    source: str
    """What they are, in words."""
    is_imagenet: bool = False
    """Whether the last layer is ImageNet's own, which no other data set can use."""
    classes: tuple[str, ...] | None = None
    """Those of the last layer, where the file names them."""


def in_folder(which: str) -> str:
    """What `--weights` names; of the folder of a run or an export the model in it.

    Raises:
      UsageError: it is a folder without one.
    """
    path = Path(os.path.expanduser(which))
    if which in WORDS or not path.is_dir():
        return which
    if not (path / MODEL).is_file():
        raise UsageError(f"--weights {which}: there is no {MODEL} in this folder")
    return str(path / MODEL)


def common_weights(
    names: Sequence[str], which: str, *, is_demo: bool, console: Console
) -> tuple[str, str]:
    """What `--weights which` comes to for all of `names`, and a warning or none.

    `auto` is `imagenet`; with the demo photos it is `random` where those of one of the
    backbones cannot be had, which is said.
    """
    lack = ""
    if which == "auto":
        rows = [_find(name, "imagenet") for name in names]
        lack = next(filter(None, map(_lack, rows)), "") if is_demo else ""
        which = "random" if lack else "imagenet"
    if which != "random" or not is_demo:
        return which, ""
    warning = f"The weights are random{lack and ': '}{lack}. {RANDOM}"
    if lack:
        console.say(f"WARNING: {warning}", style="bold yellow")
    return which, warning


def choose_weights(name: str, which: str, *, console: Console) -> Weights:
    """The start of the backbone `name`: `random`, `imagenet`, a version, or a file.

    Raises:
      UsageError: there are no such weights, or the file does not hold weights.
      RunError: the weights could not be fetched.
    """
    if which == "random":
        return Weights(None, Preprocessing(), "random weights")
    if weights.is_file_name(which):
        try:
            path = Path(os.path.expanduser(which))
            arrays = weights.load_state_dict(path)
            _check_twin(name, path, console=console)
        except ValueError as error:
            raise UsageError(f"--weights: {error}") from error
        row = weights.named(path)
        preprocessing = row.preprocessing if row else Preprocessing()
        return Weights(arrays, preprocessing, path.name, classes=_classes(path))
    row = _find(name, which)
    try:
        title = f"fetching {row.file}"
        size = math.ceil(row.mib * 2**20)
        with console.progress(title) as show:
            arrays, row = download.imagenet_state_dict(
                name,
                which=row.version,
                progress=lambda done, total: show(title, done, total or size, ""),
            )
    except DownloadError as error:
        raise RunError(str(error)) from error
    return Weights(arrays, row.preprocessing, f"ImageNet weights {row.file}", True)


def _check_twin(name: str, path: Path, *, console: Console) -> None:
    """Says which of two models a file is taken for that fits both alike.

    Raises:
      ValueError: it is of the other.
    """
    twins = models.twins(name)
    if not twins:
        return
    said = architecture(path)
    if said in twins:
        raise ValueError(f"{path} is of {said}: give --backbone {said}")
    if said != name:
        calls = ", ".join(
            f"for {torch_call(twin, num_classes=1000)} give --backbone {twin}"
            for twin in twins
        )
        mine = torch_call(name, num_classes=1000)
        console.say(f"{name}: {path.name} is taken for {mine}; {calls}")


def resumed_weights(
    name: str, which: str, folder: Path, *, freeze: str, console: Console
) -> Weights:
    """`choose_weights` for a run that has a checkpoint, and whose start may be gone.

    Args:
      name: a row of the models.
      which: what it started from.
      folder: the run's.
      freeze: the part that is not trained.
      console: shows the progress of a download.

    Raises:
      UsageError: there are no such weights, and no model of the run.
      RunError: the weights could not be fetched, and there is no model of the run.
    """
    try:
        return choose_weights(name, which, console=console)
    except (UsageError, RunError):
        # What is trained is in the checkpoint. What is not is the same in the model,
        # which a run that was stopped in its first epoch does not have yet.
        if (folder / MODEL).is_file():
            found = choose_weights(name, str(folder / MODEL), console=console)
        elif freeze == "none":
            found = Weights(None, Preprocessing(), "")
        else:
            raise
        if weights.is_file_name(which):
            return found._replace(source=Path(which).name)
        row = weights.find(name, which=which)
        return found._replace(
            preprocessing=row.preprocessing, source=f"ImageNet weights {row.file}"
        )


def _classes(file: Path) -> tuple[str, ...] | None:
    """The classes that the `model.safetensors` of a run names; None in other files."""
    if file.suffix.lower() != ".safetensors":
        return None
    try:
        return read_labels(file)[1]
    except ValueError:
        return None


def _lack(row: weights.Row) -> str:
    """What is missing to have the weights of `row` here; nothing, an empty text."""
    if download.is_cached(row):
        return ""
    if not download.reachable(row=row):
        return "ImageNet weights are neither cached nor reachable"
    return ""


def build(
    name: str,
    chosen: Weights,
    *,
    num_classes: int,
    size: int,
    seed: int,
    classes: Sequence[str] | None = None,
) -> Start:
    """The model for `num_classes` with the weights that were chosen.

    Its last layer is that of the weights where it fits the number of classes, is not
    ImageNet's own and, as far as both are known, is of the same classes; else a new
    one, drawn as `torch.nn.Linear` draws it.

    Args:
      name: a row of the models.
      chosen: the weights.
      num_classes: width of the last layer.
      size: side of the crops that it is to take; the share of the photo is theirs.
      seed: of what is random.
      classes: their names, if they are known.

    Raises:
      UsageError: the tensors do not fit the backbone.
    """
    rngs = nnx.Rngs(seed)
    preprocessing, source = scaled(chosen.preprocessing, size), chosen.source
    if chosen.arrays is None:
        model = models.create(name, num_classes=num_classes, rngs=rngs)
        return Start(name, model, preprocessing, source)
    head = f"{models.variant(name).head}."
    arrays = dict(chosen.arrays)
    model = models.abstract(name, num_classes=num_classes)
    theirs = None if chosen.is_imagenet else arrays.get(f"{head}bias")
    known = None not in (chosen.classes, classes)
    others = known and tuple(classes or ()) != chosen.classes
    if theirs is not None and theirs.shape == (num_classes,) and not others:
        source += ", with its last layer"
    else:
        models.new_head(name, model, rngs=rngs)
        filled = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
        path = tuple(int(p) if p.isdigit() else p for p in head.rstrip(".").split("."))
        arrays[f"{head}weight"] = np.asarray(filled[*path, "kernel"][...]).T
        arrays[f"{head}bias"] = np.asarray(filled[*path, "bias"][...])
        source += ", with a new last layer"
        if others:
            gone = [n for n in chosen.classes or () if n not in (classes or ())]
            how = f"others, such as {gone[0]!r}" if gone else "in another order"
            source += f" (the classes of its own are {how})"
    fitting = without_optional(model, arrays)
    extra = sorted({key.split(".")[0] for key in arrays.keys() - fitting.keys()})
    if extra and not chosen.is_imagenet:
        source += f", without its {', '.join(extra)}"
    try:
        return Start(name, convert(model, arrays), preprocessing, source)
    except ConversionError as error:
        raise UsageError(f"--weights: {error}") from error


def check_backbones(
    names: Sequence[str],
    which: str,
    *,
    num_classes: int,
    size: int,
    console: Console,
) -> None:
    """Says before the first of several runs what another would fail by, hours later.

    Args:
      names: their backbones.
      which: `--weights`.
      num_classes: width of the last layers.
      size: side of the crops.
      console: shows progress.

    Raises:
      UsageError: the weights or the size do not suit one of them.
    """
    for name in dict.fromkeys(names):
        smallest = models.abstract(name).smallest
        if size < smallest:
            raise UsageError(
                f"--image-size {size}: {name} takes images of {smallest} pixels or more"
            )
        if weights.is_file_name(which):
            chosen = choose_weights(name, which, console=console)
            try:
                build(name, chosen, num_classes=num_classes, size=size, seed=0)
            except UsageError as error:
                raise UsageError(f"{name}: {error}") from error
        elif which != "random":
            _find(name, which)


def _find(name: str, which: str) -> weights.Row:
    try:
        return weights.find(name, which=which)
    except ValueError as error:
        raise UsageError(f"--weights: {error}; or random, or a {FILES} file") from error


def scaled(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """The same share of the photo at another crop size."""
    resize = round(size * preprocessing.resize / preprocessing.crop)
    return replace(preprocessing, resize=resize, crop=size)
