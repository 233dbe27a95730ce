"""A classifier in the forms in which other programs take it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from jax import export

from converters.bundle import Bundle, save_bundle
from converters.to_torch import to_state_dict
from converters.torch_file import write_torch
from experiments.command.options import RunError
from experiments.inference.classifier import make_forward
from experiments.inference.portable import ABOUT, FORMATS, About, write_about
from jaxvision import ops
from jaxvision.files import write_bytes, write_text
from jaxvision.functional import functionalize
from jaxvision.preprocess import MEAN_COLOUR, Preprocessing

PLATFORMS = ("cpu", "cuda", "tpu")
"""What the programs of `jax.export` run on."""
RECIPE = "preprocess.py"
"""The file that makes of photos what the model takes, for who feeds it."""
PIXELS, CROPS, ANSWER = "photos", "crops", "probabilities"
"""What an ONNX graph calls what goes in, the crops in its middle, what comes out."""

_RECIPE = '''\
"""A photograph as the model beside this file takes it. Needs Pillow and numpy alone."""

import numpy as np
from PIL import Image, ImageOps

{sizes}


def prepare(photo):
    """{shows}: uint8 ({crop}, {crop}, 3); a batch stacks several.

    `photo` is a PIL image, or what Image.open takes.
    """
    if not isinstance(photo, Image.Image):
        photo = Image.open(photo)
    photo = ImageOps.exif_transpose(photo).convert("RGB")
{steps}'''

_CROP = """\
    width, height = photo.size
    if width <= height:
        size = RESIZE, int(RESIZE * height / width)
    else:
        size = int(RESIZE * width / height), RESIZE
    if size != photo.size:
        photo = photo.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(photo)
    for axis in (0, 1):
        missing = max(CROP - pixels.shape[axis], 0)
        pads = [(0, 0)] * 3
        pads[axis] = (missing // 2, (missing + 1) // 2)
        pixels = np.pad(pixels, pads)
        start = round((pixels.shape[axis] - CROP) / 2)
        pixels = pixels.take(range(start, start + CROP), axis)
    return pixels
"""
_PAD = """\
    longest = max(photo.size)
    size = tuple(max(1, round(side / longest * SIDE)) for side in photo.size)
    if size != photo.size:
        photo = photo.resize(size, Image.Resampling.BILINEAR)
    square = Image.new("RGB", (SIDE, SIDE), FILL)
    square.paste(photo, tuple(round((SIDE - side) * 0.5) for side in size))
    return np.asarray(square)
"""
_STRETCH = """\
    if photo.size != (SIDE, SIDE):
        photo = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(photo)
"""
_RECIPES = {
    "crop": ("The middle of a photo", "RESIZE, CROP = {resize}, {crop}", _CROP),
    "pad": ("All of a photo", "SIDE, FILL = {crop}, {fill}", _PAD),
    "stretch": ("All of a photo, out of shape", "SIDE = {crop}", _STRETCH),
}
"""By the fit: what is seen of a photo, the numbers, and the steps."""


def recipe(size: Preprocessing) -> str:
    """A program that makes of photos what the model takes, to the bit."""
    shows, sizes, steps = _RECIPES[size.fit]
    numbers = sizes.format(resize=size.resize, crop=size.crop, fill=MEAN_COLOUR)
    return _RECIPE.format(shows=shows, sizes=numbers, crop=size.crop, steps=steps)


def write_model(folder: Path, which: str, bundle: Bundle) -> About:
    """Writes a model, and what a prediction needs beside it, into `folder`.

    Args:
      folder: is there.
      which: a key of `FORMATS`.
      bundle: the model.

    Returns:
      What it says there of the model.

    Raises:
      RunError: the model has no such form.
    """
    size = bundle.preprocessing
    WRITERS[which](folder / FORMATS[which].file, bundle)
    about = About(which, bundle.name, bundle.classes, size, bundle.certainty)
    write_about(folder / ABOUT, about)
    if not FORMATS[which].whole:
        write_text(folder / RECIPE, recipe(size))
    return about


def _network(bundle: Bundle) -> Callable[[jax.Array], jax.Array]:
    """Probabilities of uint8 crops, float32; the weights are constants in it."""
    forward, params, stats = make_forward(bundle)
    if bundle.certainty.label_thresholds:
        return lambda images: jax.nn.sigmoid(forward(params, stats, images))
    heat = bundle.certainty.temperature
    return lambda images: jax.nn.softmax(forward(params, stats, images) / heat)


@contextmanager
def _traced_for_all() -> Iterator[None]:
    """No convolution of this machine's own, and float32 that is float32 anywhere."""
    before = os.environ.get(ops.VARIABLE)
    os.environ[ops.VARIABLE] = "xla"
    try:
        with jax.default_matmul_precision("highest"):
            yield
    finally:
        if before is None:
            del os.environ[ops.VARIABLE]
        else:
            os.environ[ops.VARIABLE] = before


def _write_onnx(path: Path, bundle: Bundle) -> None:
    # Here, because the library comes with an extra.
    from experiments.inference import onnx_graph, onnx_photo, onnx_rules

    size = bundle.preprocessing
    graph = onnx_graph.Graph()
    crops = onnx_photo.add_square(graph, PIXELS, size, output=CROPS)
    try:
        with _traced_for_all():
            closed = onnx_rules.trace(_network(bundle), crop=size.crop)
        images = graph.transposed(crops, onnx_graph.FIRST)
        answer = onnx_rules.translate(graph, closed, images)
    except onnx_rules.UntranslatableError as error:
        raise RunError(f"{bundle.name}: {error}; try --to stablehlo") from None
    graph.add("Identity", answer, output=ANSWER)
    model = graph.model(
        [onnx_graph.images_input(PIXELS, ("n", "height", "width", 3))],
        [onnx_graph.table_output(ANSWER, ("n", len(bundle.classes)))],
        facts={
            "architecture": bundle.name,
            "classes": json.dumps(bundle.classes),
            "preprocessing": json.dumps(asdict(size)),
        },
    )
    write_bytes(path, model.SerializeToString())


def _write_stablehlo(path: Path, bundle: Bundle) -> None:
    (count,) = export.symbolic_shape("n")
    crop = bundle.preprocessing.crop
    shape = jax.ShapeDtypeStruct((count, crop, crop, 3), np.uint8)
    with _traced_for_all():
        program = export.export(jax.jit(_network(bundle)), platforms=PLATFORMS)(shape)
    write_bytes(path, bytes(program.serialize()))


def _write_safetensors(path: Path, bundle: Bundle) -> None:
    _, params, stats = functionalize(bundle.model)
    save_bundle(
        path,
        bundle.name,
        params,
        stats,
        classes=bundle.classes,
        preprocessing=bundle.preprocessing,
        certainty=bundle.certainty,
    )


def _write_torch(path: Path, bundle: Bundle) -> None:
    _, params, stats = functionalize(bundle.model)
    write_torch(path, to_state_dict(bundle.model, params, stats))


WRITERS: dict[str, Callable[[Path, Bundle], None]] = {
    "onnx": _write_onnx,
    "stablehlo": _write_stablehlo,
    "safetensors": _write_safetensors,
    "torch": _write_torch,
}
