"""Grad-CAM: where in an image a classifier finds what speaks for a class.

Reference: Selvaraju et al., Grad-CAM: visual explanations from deep networks via
gradient-based localization, 2016, arXiv:1610.02391.
"""

from collections.abc import Callable
from functools import cache
from itertools import count

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.models import (
    cifar,
    densenet,
    googlenet,
    mobilenet,
    mobilenetv3,
    resnet,
    vgg,
)
from jaxvision.models.features import find
from jaxvision.typing import Apply, Array, Float, Images, Labels, Logits, Tree

LEAST = 4
"""Pixels a side that a map must have: of 2x2 a reader learns nothing."""

Maps = Float[Array, "n h w"]


def _children(name: str) -> Callable[[nnx.Module], tuple[str, ...]]:
    """Every child of a `Sequential`."""
    return lambda model: tuple(f"{name}.{i}" for i in range(len(getattr(model, name))))


def _relus(model: nnx.Module) -> tuple[str, ...]:
    """The rectified maps, which is what comes before each pooling."""
    children = enumerate(getattr(model, "features"))  # noqa: B009
    return tuple(f"features.{i}" for i, child in children if child is nnx.relu)


_STAGES = tuple(f"layer{i}" for i in (1, 2, 3, 4))
_INCEPTIONS = tuple(f"inception{i}" for i in "3a 3b 4a 4b 4c 4d 4e 5a 5b".split())
_DENSE = (*(f"features.denseblock{i}" for i in (1, 2, 3)), "relu")

TRUNKS: dict[type[nnx.Module], Callable[[nnx.Module], tuple[str, ...]]] = {
    vgg.VGG: _relus,
    resnet.ResNet: lambda _: _STAGES,
    densenet.DenseNet: lambda _: _DENSE,
    googlenet.GoogLeNet: lambda _: _INCEPTIONS,
    mobilenet.MobileNetV2: _children("features"),
    mobilenetv3.MobileNetV3: _children("features"),
    cifar.CNN: _relus,
    cifar.FastCNN: _children("blocks"),
}
"""Class -> the nodes along its trunk, by torchvision's names; the last is the map that
the paper takes, that of the last convolution with what follows it at its size."""


def trunk(model: nnx.Module) -> tuple[str, ...]:
    """The nodes whose maps can explain `model`, in the order of the forward pass.

    Raises:
      ValueError: the model has no convolutions.
    """
    for kind, nodes in TRUNKS.items():
        if isinstance(model, kind):
            return nodes(model)
    raise ValueError(
        f"{type(model).__name__} has no convolutional maps, and Grad-CAM needs them"
    )


def choose_layer(name: str, *, size: int, least: int = LEAST) -> str:
    """The last node of a trunk whose map has `least` pixels a side.

    For ImageNet's sizes it is the last of all. A small image leaves a backbone of
    ImageNet one pixel there, which says nothing of where; a node before it then has to
    do, the largest map where none is large enough.

    Args:
      name: a row of `models.VARIANTS`.
      size: of the images, in pixels a side.
      least: how many pixels are enough.

    Raises:
      ValueError: no such model, or it has no convolutions.
    """
    model = models.abstract(name)
    nodes = trunk(model)
    apply, params, stats = functionalize(models.features(model, layers=nodes))
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    maps, _ = jax.eval_shape(apply, params, stats, images)
    enough = [node for node in nodes if min(maps[node].shape[1:3]) >= least]
    return enough[-1] if enough else nodes[0]


def probe(model: nnx.Module, *, layer: str) -> nnx.Module:
    """Makes `model` map `(images, offset)` to `(logits, maps)`, and returns it.

    `maps` is the output of `layer`, to which `offset` is added before it goes on: the
    gradient of the logits with respect to `offset` is that with respect to the maps.

    Args:
      model: one of `TRUNKS`, concrete or abstract.
      layer: a node's name, as in `models.features`.

    Raises:
      ValueError: the model has no such layer.
    """
    find(model, layer)
    # A new class and nothing else: the paths stay those of the state_dict.
    model.__class__ = _probed(type(model))
    setattr(model, "probed", layer)  # noqa: B010
    return model


@cache
def _probed(base: type[nnx.Module]) -> type[nnx.Module]:
    class Probed(base):
        """`base`, open at one layer."""

        probed: str

        def __call__(self, inputs):
            images, offset = inputs
            node = find(self, self.probed)
            child = getattr(node.parent, node.attribute)
            calls, maps = count(), []

            def tap(x):
                y = child(x)
                if next(calls) == node.call:
                    y = y + jnp.asarray(offset, y.dtype)
                    maps.append(y)
                return y

            try:
                setattr(node.parent, node.attribute, tap)
                logits = super().__call__(images)
            finally:
                setattr(node.parent, node.attribute, child)
            return logits, maps[0]

    return Probed


def grad_cam(
    apply: Apply, params: Tree, stats: Tree, images: Images, labels: Labels
) -> tuple[Maps, Logits]:
    """What speaks for a class, by place, and the logits.

    The maps' channels are weighed by the mean gradient of the class's logit, summed and
    rectified (equations 1 and 2). Jit-able; only the layers after the map are
    differentiated.

    Args:
      apply, params, stats: of a `probe`, from `functionalize`.
      images: normalised, as the model takes them.
      labels: for each image the class to explain.

    Returns:
      Maps of the size of the probed layer's, not scaled: zeros where nothing speaks for
      the class; and the logits.
    """

    def chosen(offset):
        (logits, maps), _ = apply(params, stats, (images, offset))
        score = jnp.take_along_axis(logits, labels[:, None], axis=-1).sum()
        return score, (maps, logits)

    maps = jax.eval_shape(chosen, 0.0)[1][0]
    offset = jnp.zeros(maps.shape, maps.dtype)
    gradient, (maps, logits) = jax.grad(chosen, has_aux=True)(offset)
    weights = gradient.mean(axis=(1, 2), keepdims=True)
    return nnx.relu((weights * maps).sum(axis=-1)), logits


def heat(maps: Maps, *, size: int) -> Maps:
    """Maps enlarged to `size` pixels a side, each scaled to a largest value of 1.

    Bilinear, as the paper's. A map of zeros stays so.
    """
    n = maps.shape[0]
    large = jax.image.resize(maps, (n, size, size), "linear")
    peak = large.max(axis=(1, 2), keepdims=True)
    return jnp.where(peak > 0, large / jnp.where(peak > 0, peak, 1), 0)
