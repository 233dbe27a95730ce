"""The distance of two images in the features of VGG16, as a loss.

    perceptual = make_perceptual(params, layers={"relu2_2": 1.0})

    @jax.jit
    def loss(perceptual, images, targets):
        return perceptual.loss(images, perceptual.features(targets))

A `Perceptual` is a tree of arrays and may be an argument of a compiled function, as
here. VGG's weights are then no constants of the program.

Reference: Johnson et al., 2016, arXiv:1603.08155.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxvision import models, ops
from jaxvision.functional import functionalize
from jaxvision.models.vgg import DEPTHS, VGG
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize
from jaxvision.typing import Apply, Array, Float, Images, Tree

TOLERANCE = 0.5
"""How far outside `[0, 1]` pixels may lie: interpolation and networks overshoot, while
pixels in 0..255 and normalised ones lie further out."""


def _nodes() -> dict[str, str]:
    """The customary names of VGG16's layers, and torchvision's."""
    names = []
    for stage, depth in enumerate(DEPTHS["vgg16"], 1):
        for layer in range(1, depth + 1):
            names += [f"conv{stage}_{layer}", f"relu{stage}_{layer}"]
        names.append(f"pool{stage}")
    return {name: f"features.{index}" for index, name in enumerate(names)}


NODES = _nodes()
"""`conv2_2` is before the ReLU, `relu2_2` after it; `pool2` is after the max-pool."""
POOLS = tuple(
    int(path.rpartition(".")[2]) for name, path in NODES.items() if "pool" in name
)
"""Their places in `features`."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["apply", "layers", "mean", "std"],
)
@dataclass(frozen=True)
class Perceptual:
    """A network's features and a loss on them; see `make_perceptual`.

    `params` are its arrays, `layers` pairs of a layer's name and its weight.
    """

    params: Tree
    apply: Apply = field(repr=False)
    layers: tuple[tuple[str, float], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def features(self, images: Images) -> dict[str, Array]:
        """`{layer: features}` of images in `[0, 1]`, `(n, h, w, channels)` each.

        Raises:
          ValueError: the images are not floating, or (checked where the values are
            known, so not under `jit`) lie further than `TOLERANCE` outside `[0, 1]`.
        """
        x = normalize(images, mean=self.mean, std=self.std)
        _check_range(images)
        out, _ = self.apply(self.params, {}, x)
        return {layer: out[node(layer)] for layer, _ in self.layers}

    def loss(
        self, images: Images, target_features: Mapping[str, Array]
    ) -> Float[Array, ""]:
        """Weighted sum over the layers of the mean squared difference of features.

        Differentiable with respect to the images; the targets are constants to it.

        Args:
          images: in `[0, 1]`.
          target_features: `features` of the images to be alike. They do not change as
            the images are trained, so compute them once.

        Raises:
          ValueError: as for `features`; or the targets have other layers or shapes.
        """
        features = self.features(images)
        shapes = {layer: x.shape for layer, x in features.items()}
        expected = {layer: x.shape for layer, x in target_features.items()}
        if shapes != expected:
            raise ValueError(
                f"the features are {shapes}, the target's {expected}: take both from "
                "one Perceptual, of images of one size"
            )
        total = jnp.zeros((), jnp.result_type(*features.values()))
        for layer, weight in self.layers:
            target = jax.lax.stop_gradient(target_features[layer])
            total += weight * jnp.square(features[layer] - target).mean()
        return total


def make_perceptual(
    params: Tree,
    *,
    layers: Mapping[str, float],
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    pooling: Literal["max", "mean"] = "max",
) -> Perceptual:
    """The perceptual loss of VGG16's `params` at `layers`.

    Args:
      params: those of `functionalize(vgg16)`, of the whole network or of its beginning
        alone; what the layers do not need is left out.
      layers: weight by layer. Names are torchvision's (`features.8`) or the customary
        ones of `NODES` (`relu2_2`).
      mean: per channel, what the network's training subtracted.
      std: likewise, what it divided by.
      pooling: max is VGG's own. Images that are trained by it learn a fine grid, which
        raises the largest of four features as much as true details do; of mean there is
        hardly any. As in Gatys et al., 2016, doi:10.1109/CVPR.2016.265.

    Raises:
      ValueError: there is no such layer, no layer at all or a negative weight, or
        `params` lack what a layer needs.
    """
    if not layers or not all(0 <= weight < float("inf") for weight in layers.values()):
        raise ValueError(
            f"layers={dict(layers)}: give at least one layer, with weights from 0 on, "
            'such as {"relu2_2": 1.0}'
        )
    nodes = list(dict.fromkeys(map(node, layers)))
    vgg = models.cut(models.abstract("vgg16"), layers=nodes)
    assert isinstance(vgg, VGG)
    if pooling == "mean":
        average = partial(ops.avg_pool, window=2, stride=2)
        for index in POOLS:
            vgg.features[index] = average
    apply, wanted, _ = functionalize(vgg, forward=models.capture(nodes))
    chosen = jax.tree_util.tree_map_with_path(partial(_leaf, params), wanted)
    weights = tuple((layer, float(weight)) for layer, weight in layers.items())
    return Perceptual(chosen, apply, weights, tuple(mean), tuple(std))


def node(layer: str) -> str:
    """Torchvision's name of a layer of VGG16: `features.8` for `relu2_2`.

    Raises:
      ValueError: there is no such layer.
    """
    if layer in NODES:
        return NODES[layer]
    if layer in NODES.values():
        return layer
    close = get_close_matches(layer, NODES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    listed = ", ".join(NODES)
    raise ValueError(f"VGG16 has no layer {layer!r}: {hint}There are {listed}")


def _leaf(params, path, wanted):
    leaf = params
    for entry in path:
        leaf = leaf.get(entry.key) if isinstance(leaf, Mapping) else None
    if getattr(leaf, "shape", None) != wanted.shape:
        name = ".".join(str(entry.key) for entry in path)
        found = "are not there" if leaf is None else f"are {leaf.shape}"
        raise ValueError(
            f"VGG16's parameters {name} must be {wanted.shape} and {found}: give the "
            "params of a vgg16, up to the last layer wanted"
        )
    return jnp.asarray(leaf)


def _check_range(images):
    if isinstance(images, Tracer) or images.size == 0:
        return
    low, high = float(images.min()), float(images.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(
            f"expected images in [0, 1], got pixels from {low:g} to {high:g}: divide "
            "8-bit values by 255, and leave the normalisation to this function"
        )
