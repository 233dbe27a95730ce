"""A trained classifier in use: what it says of photographs, and where it looks."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.bundle import Bundle, load_bundle
from experiments.command.options import UsageError
from jaxvision import gradcam, models
from jaxvision.calibration import shares
from jaxvision.functional import functionalize, mirrored
from jaxvision.linear_probe import split_head
from jaxvision.precision import fast_dtype
from jaxvision.preprocess import Preprocessing, normalize, to_float
from jaxvision.typing import Tree

MODEL = "model.safetensors"
BATCH = 32
"""Images a step; the last batch is filled up, so that one program serves all."""
SMALLEST = 224
"""Pixels a side of an explanation; smaller crops are enlarged."""

Predict = Callable[[np.ndarray], np.ndarray]
"""`predict(images) -> probabilities`: uint8 crops to float64 `(n, classes)`."""
Explain = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`explain(images, labels) -> heat`: uint8 photos, classes; `(n, h, w)` in [0, 1]."""


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


def make_forward(
    bundle: Bundle, *, half: bool = False
) -> tuple[Callable[..., jax.Array], Tree, Tree]:
    """`forward(params, stats, images) -> logits` of uint8 crops, and its arrays.

    Args:
      bundle: the model.
      half: whether to compute in half precision where that is what is fast.
    """
    apply, params, stats = functionalize(bundle.model, dtype=_dtype() if half else None)
    if bundle.preprocessing.mirror:
        apply = mirrored(apply, shift=bundle.preprocessing.shift)

    def forward(params: Tree, stats: Tree, images: Any) -> jax.Array:
        return apply(params, stats, _prepared(images, bundle.preprocessing))[0]

    return forward, params, stats


def make_predict(
    bundle: Bundle, *, half: bool = True, batch_size: int = BATCH
) -> Predict:
    """What the model says of images that are cropped already.

    Args:
      bundle: the model.
      half: see `make_forward`.
      batch_size: images a step.
    """
    forward, params, stats = make_forward(bundle, half=half)
    forward = jax.jit(forward)

    def predict(images: np.ndarray) -> np.ndarray:
        logits = [
            np.asarray(forward(params, stats, batch), np.float64)[:count]
            for batch, count in batches(images, size=batch_size)
        ]
        scores = np.concatenate([np.zeros((0, len(bundle.classes))), *logits])
        return shares(scores, bundle.certainty)

    return predict


def explainer(bundle: Bundle, *, batch_size: int = BATCH) -> Explain | None:
    """Grad-CAM of the model; None where it has no convolutions.

    The map is that of the last layer that still has several pixels a side.

    Args:
      bundle: the model.
      batch_size: images a step.
    """
    heat = _compiled_heat(bundle.name, len(bundle.classes), bundle.preprocessing)
    if heat is None:
        return None
    _, params, stats = functionalize(bundle.model)
    side = max(bundle.preprocessing.crop, SMALLEST)

    def explain(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        found = np.zeros((len(images), side, side), np.float32)
        start = 0
        for batch, count in batches(images, size=batch_size):
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


def _dtype():
    """As the runs compute: in half precision where that is what is fast."""
    dtype, _ = fast_dtype(jax.devices()[0])
    return None if dtype == "float32" else jnp.dtype(dtype)


def _prepared(images, preprocessing: Preprocessing):
    return normalize(to_float(images), mean=preprocessing.mean, std=preprocessing.std)


def make_features(bundle: Bundle, *, batch_size: int) -> Predict:
    """What comes before the last layer, of uint8 crops: float32 `(n, features)`.

    Args:
      bundle: the model.
      batch_size: images a step.
    """
    head = models.variant(bundle.name).head
    body, _ = split_head(bundle.model, head=head, dtype=_dtype())
    _, params, stats = functionalize(bundle.model)

    @jax.jit
    def forward(params: Tree, stats: Tree, images: Any) -> jax.Array:
        features, _ = body(params, stats, _prepared(images, bundle.preprocessing))
        return features.astype(jnp.float32)

    def features(images: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                np.asarray(forward(params, stats, batch))[:count]
                for batch, count in batches(images, size=batch_size)
            ]
        )

    return features


def batches(
    images: np.ndarray, *, size: int = BATCH
) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of one size, the last filled up, and how many of each count."""
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        missing = size - len(batch)
        yield np.pad(batch, ((0, missing), *[(0, 0)] * 3)), len(batch)
