"""The model card of an export: a page of Markdown for who gets the folder."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from experiments.inference.exporting import ANSWER, CROPS, PIXELS, PLATFORMS, RECIPE
from experiments.inference.portable import FORMATS, About
from experiments.pages.cells import guarded

KNOWN = {
    "data": "Trained on",
    "weights": "Began from",
    "epochs": "Epochs",
    "seed": "Seed",
}
"""Options of a run that a card names, and its words for them."""
SHOWN = 40
"""Classes that a card lists; `bundle.json` has all of them."""


class Proof(NamedTuple):
    """What came of running an export in a process of its own.

    Attributes:
      photos: how many were compared.
      source: which those were.
      bound: the largest difference of a probability that is allowed; None where the
        model was made another on purpose.
      difference: the largest that was found.
      other_labels: how many photos got another label than by the run's model.
      accuracy: of the export on these photos; None where their classes are unknown.
      own_accuracy: of the run's model on the same.
      seconds: what the process took, its start included.
    """

    photos: int
    source: str
    bound: float | None
    difference: float
    other_labels: int
    accuracy: float | None
    own_accuracy: float | None
    seconds: float


def model_card(
    about: About,
    proof: Proof,
    *,
    run: Mapping[str, Any],
    judged: str,
    size: int,
    notes: list[str],
) -> str:
    """The text of the card.

    Args:
      about: the model.
      proof: that it is the run's.
      run: the options of the run and its `environment`; empty where nobody knows.
      judged: the accuracy on all the validation photos, in words; empty if unknown.
      size: bytes of the model's file.
      notes: what else there is to say.
    """
    file, mb = FORMATS[about.format].file, size / 1e6
    parts = [
        f"# {about.name} for {len(about.classes)} classes",
        f"`{file}` ({mb:.1f} MB) names what a photo shows: it gives the probability of "
        f"each class. It was exported from a training run of jaxvision.",
        "## Model",
        _table(_facts(about, run, judged)),
        "## Input and output",
        *_interface(about),
        "## Proof",
        *_proved(proof),
        *notes,
        "## Versions",
        _versions(run),
        "## Licence",
        "The licence of the weights is unknown. It hangs on the data that they were "
        "trained on, and on the weights that training began from: ask who gave you "
        "these.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(about: About, run: Mapping[str, Any], judged: str) -> dict[str, str]:
    names = ", ".join(about.classes[:SHOWN])
    more = len(about.classes) - SHOWN
    facts = {"Architecture": about.name}
    facts["Classes"] = names + (f" and {more} more" if more > 0 else "")
    # Of a path the name: the folders above it are nobody else's business.
    facts |= {KNOWN[name]: Path(str(run[name])).name for name in KNOWN if name in run}
    facts["Validation accuracy of the run"] = judged or "unknown"
    return facts


def _table(rows: Mapping[str, str]) -> str:
    lines = ["| | |", "| --- | --- |"]
    for name, value in rows.items():
        cell = guarded(value).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {cell} |")
    return "\n".join(lines)


def _interface(about: About) -> list[str]:
    size = about.preprocessing
    recipe = (
        f"the short side becomes {size.resize} pixels (bilinear with antialiasing, as "
        f"Pillow's), and the middle {size.crop} x {size.crop} are cut out; what is "
        "missing is black"
    )
    where = "the model does" if about.format in _PROGRAMS else "the caller does"
    inside = (
        f"Scaling to [0, 1] and normalisation (mean {_numbers(size.mean)}, standard "
        f"deviation {_numbers(size.std)}) {where}."
    )
    if size.mirror:
        moved = f", and both moved by {size.shift} pixel" if size.shift else ""
        inside += (
            " The answer is the mean of the probabilities over the photo and its "
            f"mirror image{moved}, which {where}."
        )
    order = "Class `i` is the `i`-th of `classes` in `bundle.json`."
    shape = f"uint8 `(n, {size.crop}, {size.crop}, 3)`"
    code = _CODE[about.format].format(crop=size.crop)
    if about.format == "onnx":
        given = (
            f"`{PIXELS}`: uint8 `(n, height, width, 3)`, RGB, upright, whole photos of "
            f"any one size. In the graph {recipe}, to Pillow's bits. "
            f"`{CROPS}` inside is {shape}; the graph from there on alone is "
            "`onnx.utils.extract_model('model.onnx', "
            f"'crops.onnx', ['{CROPS}'], ['{ANSWER}'])`."
        )
    else:
        given = (
            f"The model takes crops, {shape}, RGB. `{RECIPE}` makes them of photos, as "
            f"in training and to the bit: {recipe}. It is not in the model, because a "
            "program of XLA's has fixed sizes and would be compiled for each. JAX "
            "reads the program for six months after the version that wrote it, and "
            f"runs it on {', '.join(PLATFORMS)}."
            if about.format == "stablehlo"
            else f"The network takes crops, {shape}, RGB, from `{RECIPE}`: {recipe}."
        )
    heat = about.certainty.temperature
    words = (
        "probabilities"
        if about.format in _PROGRAMS
        else "logits, of which a softmax makes probabilities"
        + (f", after division by {heat:.6g}" if heat != 1 else "")
    )
    answer = f"The answer is float32 `(n, {len(about.classes)})`: {words}."
    return [given, inside, f"{answer} {order}", f"```python\n{code}\n```"]


_PROGRAMS = ("onnx", "stablehlo")
"""Formats that hold what is computed, and not the tensors alone."""
_CODE = {
    "onnx": """\
import numpy, onnxruntime
from PIL import Image

photo = numpy.asarray(Image.open("photo.jpg").convert("RGB"))
session = onnxruntime.InferenceSession("model.onnx")
(probabilities,) = session.run(None, {{"photos": photo[None]}})""",
    "stablehlo": """\
import jax, numpy
from preprocess import crop

with open("model.stablehlo", "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
probabilities = jax.jit(model.call)(crop("photo.jpg")[None])""",
    "safetensors": """\
import safetensors.torch

model.load_state_dict(safetensors.torch.load_file("model.safetensors"))""",
    "torch": """\
import torch

model.load_state_dict(torch.load("model.pth", weights_only=True))""",
}


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _proved(proof: Proof) -> list[str]:
    bound = (
        "the model is another on purpose, so that there is no bound"
        if proof.bound is None
        else f"the bound is {proof.bound:g}"
    )
    lines = [
        "Before this folder was written, a process of its own loaded it on the CPU "
        f"and predicted {proof.photos} photos ({proof.source}), in "
        f"{proof.seconds:.0f} s altogether. Against the run's own model in float32 the "
        f"probabilities differ by {proof.difference:.1e} at most ({bound}); "
        f"{proof.other_labels} of {proof.photos} photos got another label."
    ]
    if proof.accuracy is not None and proof.own_accuracy is not None:
        lines.append(
            f"Accuracy on these photos: {proof.accuracy:.2%}; of the run's model "
            f"{proof.own_accuracy:.2%}."
        )
    return lines


def _versions(run: Mapping[str, Any]) -> str:
    names = ("jax", "flax", "numpy", "pillow", "onnx", "onnxruntime")
    rows = {}
    for name in names:
        try:
            rows[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    trained = run.get("environment", {})
    if isinstance(trained, dict) and trained.get("git"):
        rows["code of the run"] = str(trained["git"])
    return _table(rows)
