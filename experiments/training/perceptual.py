"""The perceptual loss and distance of super-resolution, from VGG16's weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from converters import weights
from converters.from_torch import ConversionError
from converters.perceptual import vgg16_params
from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.training.backbones import FILES, choose_weights
from jaxvision import perceptual
from jaxvision.image_metrics import LUMA
from jaxvision.perceptual import Perceptual
from jaxvision.preprocess import to_float
from jaxvision.typing import Array, Batch, LossFn, Metrics

COLOUR = 0.2
"""Weight of the error of the colours, red less luma say, beside the luma's."""
MEASURED = 8
"""Photographs by which the features of the perceptual loss are measured."""


def open_perceptual(vgg: str, layers: Sequence[str], *, console: Console) -> Perceptual:
    """The perceptual loss by the weights of `--vgg`.

    Args:
      vgg: imagenet, or a file.
      layers: of VGG16.
      console: shows the progress of a download.

    Raises:
      UsageError: there is no such layer, or the file lacks what a layer needs.
      RunError: the weights could not be fetched.
    """
    if vgg != "imagenet" and not weights.is_file_name(vgg):
        raise UsageError(f"--vgg {vgg!r}: give imagenet, or a file ({FILES})")
    try:
        for layer in layers:
            perceptual.node(layer)
    except ValueError as error:
        raise UsageError(f"--perceptual-layers: {error}") from error
    try:
        start = choose_weights("vgg16", vgg, console=console)
        params = vgg16_params(start.arrays or {}, layers=layers)
    except UsageError as error:
        raise UsageError(str(error).replace("--weights", "--vgg")) from error
    except ConversionError as error:
        raise UsageError(f"--vgg: {error}") from error
    return perceptual.make_perceptual(params, layers=dict.fromkeys(layers, 1.0))


def squared(out: Array, target: Array) -> Array:
    """The mean squared error of the luma, and `COLOUR` times that of the colours."""
    luma, colours = _errors(out, target)
    return jnp.square(luma).mean() + COLOUR * jnp.square(colours).mean()


def absolute(out: Array, target: Array) -> Array:
    """The mean absolute error of the luma, and `COLOUR` times that of the colours."""
    luma, colours = _errors(out, target)
    return jnp.abs(luma).mean() + COLOUR * jnp.abs(colours).mean()


def _errors(out: Array, target: Array) -> tuple[Array, Array]:
    """Of the luma, `(n, h, w, 1)`, and of the colours, red less luma say."""
    error = out - target
    parts = [
        error[..., i : i + 1] * (share / sum(LUMA)) for i, share in enumerate(LUMA)
    ]
    luma = parts[0] + parts[1] + parts[2]
    return luma, error - luma


def make_loss(
    error: Callable[[Array, Array], Array],
    perceptual: Perceptual | None,
    *,
    weight: float,
) -> LossFn:
    """`loss_fn(out, batch) -> (loss, metrics)` over `batch["target"]`.

    The error and, where there is one, `weight` times the perceptual loss.
    """

    def loss_fn(out: Array, batch: Batch) -> tuple[Array, Metrics]:
        target = batch["target"]
        loss = error(out, target)
        if perceptual is not None:
            features = perceptual.features(target)
            loss = loss + weight * perceptual.loss(out, features)
        return loss, {"loss": loss}

    return loss_fn


def make_relative(perceptual: Perceptual, images: Sequence[np.ndarray]) -> Perceptual:
    """The loss with each layer in units of the mean square of its features.

    VGG16's features are of the order of 1 with some weights and of 100 with others;
    as a share, neither `--perceptual-weight` nor the figures depend on that.

    Args:
      perceptual: any weights of its layers are replaced.
      images: uint8 `(h, w, 3)`, of which the features are measured.
    """

    @jax.jit
    def squares(image):
        features = perceptual.features(to_float(image)[None])
        return {name: jnp.square(x).mean() for name, x in features.items()}

    every = [squares(image) for image in images]
    layers = tuple(
        (name, len(every) / sum(float(one[name]) for one in every))
        for name, _ in perceptual.layers
    )
    return replace(perceptual, layers=layers)


def without_grid(loss: Perceptual) -> Perceptual:
    """The loss to train by, with VGG's maxima as means; see `make_perceptual`."""
    return perceptual.make_perceptual(
        loss.params,
        layers=dict(loss.layers),
        mean=loss.mean,
        std=loss.std,
        pooling="mean",
    )


def make_distance(
    perceptual: Perceptual,
) -> Callable[[Sequence[np.ndarray], np.ndarray], list[float]]:
    """`distance(images, truth)`: the perceptual loss of each image, uint8 `(h, w, 3)`.

    One program for each shape.
    """
    features = jax.jit(lambda image: perceptual.features(to_float(image)[None]))
    loss = jax.jit(lambda image, wanted: perceptual.loss(to_float(image)[None], wanted))

    def distance(images: Sequence[np.ndarray], truth: np.ndarray) -> list[float]:
        wanted = features(truth)
        return [float(loss(image, wanted)) for image in images]

    return distance
