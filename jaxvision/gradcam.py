"""Grad-CAM: where in an image a classifier finds what speaks for a class.

Reference: Selvaraju et al., Grad-CAM: visual explanations from deep networks via
gradient-based localization, 2016, arXiv:1610.02391.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.models.network import Network
from jaxvision.models.nodes import find, tap
from jaxvision.typing import Apply, Array, Float, Forward, Images, Labels, Logits, Tree

LEAST = 4
"""Fewest pixels a side of a map that shows a reader anything: 2x2 does not."""

Maps = Float[Array, "n map_h map_w"]


def trunk(model: Network) -> tuple[str, ...]:
    """The nodes whose maps can explain `model`, in the order of computation.

    Raises:
      ValueError: the model has none.
    """
    nodes = model.trunk()
    if not nodes:
        raise ValueError(
            f"{type(model).__name__} has no convolutional maps, and Grad-CAM needs them"
        )
    return nodes


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
      ValueError: no such model, or it has no such maps.
    """
    model = models.abstract(name)
    nodes = trunk(model)
    apply, params, stats = functionalize(model, forward=models.capture(nodes))
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    maps, _ = jax.eval_shape(apply, params, stats, images)
    enough = [node for node in nodes if min(maps[node].shape[1:3]) >= least]
    return enough[-1] if enough else nodes[0]


def probe(layer: str) -> Forward:
    """For `functionalize`: a forward pass of `(images, offset)` to `(logits, maps)`.

    `maps` is the output of `layer`, to which `offset` is added before it goes on: the
    gradient of the logits with respect to `offset` is that with respect to the maps.

    Args:
      layer: a node's name, as for `models.capture`.

    Returns:
      A `forward`. It raises ValueError where the model has no such layer.
    """

    def forward(net, inputs):
        images, offset = inputs
        maps = []

        def shifted(child, x):
            y = child(x)
            maps.append(y + jnp.asarray(offset, y.dtype))
            return maps[0]

        tap(find(net, layer), shifted)
        logits = net(images)
        return logits, maps[0]

    return forward


def grad_cam(
    apply: Apply, params: Tree, stats: Tree, images: Images, labels: Labels
) -> tuple[Maps, Logits]:
    """What speaks for a class, by place, and the logits.

    The maps' channels are weighed by the mean gradient of the class's logit, summed and
    rectified (equations 1 and 2). Jit-able; only the layers after the map are
    differentiated.

    Args:
      apply, params, stats: from `functionalize`, with a `probe` for its `forward`.
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


def heat(maps: Maps, *, size: int) -> Float[Array, "n {size} {size}"]:
    """Maps enlarged to `size` pixels a side, each scaled to a largest value of 1.

    Bilinear, as the paper's. A map of zeros stays so.
    """
    n = maps.shape[0]
    large = jax.image.resize(maps, (n, size, size), "linear")
    peak = large.max(axis=(1, 2), keepdims=True)
    return jnp.where(peak > 0, large / jnp.where(peak > 0, peak, 1), 0)
