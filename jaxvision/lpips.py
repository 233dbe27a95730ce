"""LPIPS, the learned perceptual distance: version 0.1, over VGG16.

Exact against the authors' package `lpips`, from which the weights of the five linear
layers come (`converters.lpips.linear_weights`); the trunk is torchvision's VGG16 with
its ImageNet weights, up to `relu5_3`. Fewer layers or other weights are another
distance; for those there is `jaxvision.perceptual`.

Reference: Zhang et al., 2018, arXiv:1801.03924.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.perceptual import Perceptual, make_perceptual
from jaxvision.typing import Array, Float, Images, Tree

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
WIDTHS = (64, 128, 256, 512, 512)
# Of images in [-1, 1]; float32 as in the package, also where all else is float64.
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
EPSILON = 1e-10


@partial(
    jax.tree_util.register_dataclass, data_fields=["vgg", "linear"], meta_fields=[]
)
@dataclass(frozen=True)
class LPIPS:
    """A tree of arrays, to be an argument of compiled functions; see `make_lpips`."""

    vgg: Perceptual
    linear: dict[str, Float[Array, " channels"]]

    def distance(self, a: Images, b: Images) -> Float[Array, " n"]:
        """The distance of images in `[0, 1]`, pair by pair; 0 where they are equal.

        Equal to `lpips.LPIPS(net="vgg")(a, b, normalize=True)`. From 16 pixels a side
        on. Differentiable also where all features of a place are zero, at which the
        package's gradient is NaN.

        Raises:
          ValueError: the shapes differ, or the images are no floats in `[0, 1]`.
        """
        if a.shape != b.shape or a.ndim != 4 or min(a.shape[1:3]) < 16:
            raise ValueError(
                "expected two batches of images of one shape (n, h, w, 3), of at least "
                f"16 pixels a side, got {a.shape} and {b.shape}"
            )
        first, second = self.vgg.features(a), self.vgg.features(b)
        total = jnp.zeros(len(a), first[LAYERS[0]].dtype)
        for layer in LAYERS:
            difference = _unit(first[layer]) - _unit(second[layer])
            weighted = jnp.square(difference) * self.linear[layer].reshape(1, 1, 1, -1)
            total += weighted.sum(-1).mean((1, 2))
        return total


def make_lpips(params: Tree, *, linear: Mapping[str, np.ndarray]) -> LPIPS:
    """LPIPS from VGG16's `params` and the weights of the linear layers.

    Args:
      params: those of `functionalize(vgg16)`, as for `make_perceptual`.
      linear: `(channels,)` for each of `LAYERS`.

    Raises:
      ValueError: a layer or a parameter is missing or has another shape.
    """
    expected = {layer: (n,) for layer, n in zip(LAYERS, WIDTHS, strict=True)}
    shapes = {layer: np.shape(weight) for layer, weight in linear.items()}
    if shapes != expected:
        raise ValueError(f"the linear weights must be {expected}, not {shapes}")
    vgg = make_perceptual(
        params,
        layers={layer: 1.0 for layer in LAYERS},
        mean=tuple(((1 + SHIFT.astype(np.float64)) / 2).tolist()),
        std=tuple((SCALE.astype(np.float64) / 2).tolist()),
    )
    return LPIPS(vgg, {layer: jnp.asarray(linear[layer]) for layer in LAYERS})


def _unit(features):
    """The features of each place as a vector of length 1."""
    squares = jnp.square(features).sum(-1, keepdims=True)
    # The square root has no gradient at 0, and there is none to be had there.
    length = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return features / (length + EPSILON)
