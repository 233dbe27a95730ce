"""The model card of an export: a page of Markdown for who gets the folder."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from experiments.inference.exporting import ANSWER, CROPS, PIXELS, PLATFORMS, RECIPE
from experiments.inference.portable import FORMATS, About
from experiments.pages.cells import guarded
from jaxvision.preprocess import MEAN_COLOUR

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
      seconds: what the process took, its start included.
      other_labels: how many photos got another label than by the run's model.
      measure: how it is judged: accuracy or mean average precision.
      score: so of the export on these photos; None where their classes are unknown.
      own_score: of the run's model on the same.
    """

    photos: int
    source: str
    bound: float | None
    difference: float
    seconds: float
    other_labels: int
    measure: str = "accuracy"
    score: float | None = None
    own_score: float | None = None


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
      judged: how right the run was on its validation photos; empty if unknown.
      size: bytes of the model's file.
      notes: what else there is to say.
    """
    file, mb = FORMATS[about.format].file, size / 1e6
    parts = [
        f"# {about.name} for {len(about.classes)} classes",
        f"`{file}` ({mb:.1f} MB) names what a photo shows: it gives the probability of "
        f"each class{_several(about)}. It was exported from a training run of "
        "jaxvision.",
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
    facts["Validation of the run"] = judged or "unknown"
    return facts


def _table(rows: Mapping[str, str]) -> str:
    lines = ["| | |", "| --- | --- |"]
    for name, value in rows.items():
        cell = guarded(value).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {cell} |")
    return "\n".join(lines)


def _interface(about: About) -> list[str]:
    size = about.preprocessing
    recipe = _RECIPES[size.fit].format(
        resize=size.resize, crop=size.crop, colour=_numbers(MEAN_COLOUR)
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
            f"The model takes squares, {shape}, RGB. `{RECIPE}` makes them of photos, "
            f"as in training and to the bit: {recipe}. It is not in the model, because "
            "a program of XLA's has fixed sizes and would be compiled for each. JAX "
            "reads the program for six months after the version that wrote it, and "
            f"runs it on {', '.join(PLATFORMS)}."
            if about.format == "stablehlo"
            else f"The network takes squares, {shape}, RGB, from `{RECIPE}`: {recipe}."
        )
    words = "probabilities" if about.format in _PROGRAMS else _logits(about)
    answer = f"The answer is float32 `(n, {len(about.classes)})`: {words}."
    said = f"{answer} {order}"
    return [given, inside, said, _thresholds(about), f"```python\n{code}\n```"]


def _several(about: About) -> str:
    if not about.certainty.label_thresholds:
        return ""
    return ", of which it may show several or none"


def _logits(about: About) -> str:
    if about.certainty.label_thresholds:
        return "logits, of which the logistic function makes probabilities"
    heat = about.certainty.temperature
    divided = f", after division by {heat:.6g}" if heat != 1 else ""
    return f"logits, of which a softmax makes probabilities{divided}"


def _thresholds(about: About) -> str:
    limits = about.certainty.label_thresholds
    if not limits:
        return ""
    pairs = list(zip(about.classes, limits, strict=True))
    told = ", ".join(f"{name} {limit:.3g}" for name, limit in pairs[:SHOWN])
    more = " ..." if len(pairs) > SHOWN else ""
    return (
        "A photo has each label whose probability reaches its threshold, those of "
        f"`label_thresholds` in `bundle.json`: {told}{more}."
    )


_RECIPES = {
    "crop": (
        "the short side becomes {resize} pixels (bilinear with antialiasing, as "
        "Pillow's), and the middle {crop} x {crop} are cut out; what is missing is "
        "black"
    ),
    "pad": (
        "the long side becomes {crop} pixels (bilinear with antialiasing, as Pillow's "
        "`ImageOps.pad`), and the colour {colour} fills the square of {crop} x {crop}"
    ),
    "stretch": (
        "both sides become {crop} pixels (bilinear with antialiasing, as Pillow's), "
        "whatever its shape"
    ),
}
"""By the fit, what becomes of a photo."""
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
from preprocess import prepare

with open("model.stablehlo", "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
probabilities = jax.jit(model.call)(prepare("photo.jpg")[None])""",
    "safetensors": """\
import safetensors.torch

model.load_state_dict(safetensors.torch.load_file("model.safetensors"))""",
    "torch": """\
import torch

model.load_state_dict(torch.load("model.pth", weights_only=True))""",
}


def _numbers(values: Sequence[float]) -> str:
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
    if proof.score is not None and proof.own_score is not None:
        measure = proof.measure[0].upper() + proof.measure[1:]
        lines.append(
            f"{measure} on these photos: {proof.score:.2%}; of the run's model "
            f"{proof.own_score:.2%}."
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
