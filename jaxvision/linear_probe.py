"""The last layer by itself, on features that are computed once for each image.

Where nothing but the last layer is trained and each image looks the same in every
epoch, the rest of the model gives the same features each time. Training then costs one
pass of the model over the images, whatever the number of epochs.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxvision.functional import functionalize, has_prefix, modules
from jaxvision.models.nodes import find, tap
from jaxvision.typing import Apply, Tree


def trains_head_alone(model: nnx.Module, *, head: str, frozen: tuple[str, ...]) -> bool:
    """Whether `frozen` leaves nothing but `head` to train, nor any noise before it."""
    return all(
        ".".join(map(str, path)) == head or has_prefix(tuple(map(str, path)), frozen)
        for path, module in modules(model)
        if isinstance(module, nnx.Dropout) or _has_arrays(module)
    )


def split_head(model: nnx.Module, *, head: str, dtype=None) -> tuple[Apply, Apply]:
    """`(body, last)`: the model up to its last layer, in evaluation, and that layer.

    Both take the whole model's `params` and `stats`; `last` takes the `(n, features)`
    that `body` gives, and computes in their type: float32 also where the body computes
    in bfloat16.

    Args:
      model: one of `jaxvision.models`, concrete or abstract.
      head: the dotted path of its last layer, an `nnx.Linear` with a bias.
      dtype: compute type of the body, as for `functionalize`.
    """

    def headless(net, images):
        tap(find(net, head), lambda _, x: x)
        return net(images)

    forward, _, _ = functionalize(model, dtype=dtype, forward=headless)

    def body(params: Tree, stats: Tree, images, *, key=None):
        del key  # without noise
        return forward(params, stats, images)

    def last(params: Tree, stats: Tree, features, *, key=None):
        del key
        layer: Any = params
        for part in head.split("."):
            layer = layer[int(part) if part.isdigit() else part]
        out = features @ layer["kernel"] + layer["bias"][None]
        return out.astype(jnp.promote_types(out.dtype, "float32")), stats

    return body, last


def _has_arrays(module: nnx.Module) -> bool:
    return any(isinstance(value, nnx.Variable) for value in vars(module).values())
