"""Inner layers, by the names that torchvision gives them.

`capture` has a model give what they compute, `cut` leaves out what comes after them:

    part = models.cut(model, layers=["features.8"])
    apply, params, stats = functionalize(part, forward=models.capture(["features.8"]))

Neither changes the model.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.functional import copy_of, functionalize, modules, order_of_use
from jaxvision.models.layers import BatchNorm
from jaxvision.models.network import Network
from jaxvision.typing import Forward


class _Complete(Exception):  # noqa: N818  not an error: it ends the forward pass early
    """All wanted layers have been computed."""


class Node(NamedTuple):
    """A child of a module, and which of its calls counts."""

    parent: nnx.Module
    attribute: str
    path: str
    call: int


def find(model: nnx.Module, layer: str) -> Node:
    """Where `layer` is in `model`.

    Args:
      model: one of `jaxvision.models`, concrete or abstract.
      layer: the name of a node as `torchvision.models.feature_extraction` has it: the
        dotted path of a module or of a function in a `Sequential`. `features.7` of
        `vgg16` is the convolution, `features.8` the ReLU after it; `relu_1` is the
        second call of `relu`.

    Raises:
      ValueError: nowhere; the message has the names that are there.
    """
    above, _, last = layer.rpartition(".")
    again = re.fullmatch(r"(.+)_(\d+)", last)
    parent = model
    seen: list[str] = []
    for part in above.split(".") if above else ():
        child = _children(parent).get(part)
        if not isinstance(child, nnx.Module):
            break
        parent = child
        seen.append(part)
    else:
        there = _children(parent)
        if callable(there.get(last)):
            return Node(parent, last, layer, 0)
        if again and callable(there.get(again[1])):
            path = ".".join([*seen, again[1]])
            return Node(parent, again[1], path, int(again[2]))
    raise ValueError(
        f"{type(model).__name__} has no layer {layer!r}; "
        f"{'.'.join(seen) or 'at its top'} there are "
        + ", ".join(
            name
            for name, child in _children(parent).items()
            if callable(child) and not name.startswith("_")
        )
    )


def tap(node: Node, change: Callable[[Callable, Any], Any]) -> None:
    """Puts `change(layer, x)` in the place of `layer(x)`, at the call that counts.

    For the net that a `forward` is given: its attributes are no longer its modules.
    Find all nodes before the first is tapped.
    """
    layer = _children(node.parent)[node.attribute]
    calls = count()

    def call(x):
        return change(layer, x) if next(calls) == node.call else layer(x)

    _put(node, call)


def capture(layers: Sequence[str]) -> Forward:
    """For `functionalize`: a forward pass that gives `{layer: output}`.

    It ends with the last wanted layer.

    Args:
      layers: names of nodes as for `find`; `""` is the model's own output.

    Returns:
      A `forward`. It raises ValueError where the model has no such layer, or does not
      call it.
    """

    def forward(net, images):
        outputs: dict[str, Any] = {}

        def keep(name, layer, x):
            outputs[name] = layer(x)
            if outputs.keys() == set(layers):
                raise _Complete
            return outputs[name]

        for name, node in [(name, find(net, name)) for name in layers if name]:
            tap(node, partial(keep, name))
        try:
            outputs[""] = net(images)
        except _Complete:
            pass
        missing = [name for name in layers if name not in outputs]
        if missing:
            raise ValueError(f"these layers are never called: {', '.join(missing)}")
        return {name: outputs[name] for name in layers}

    return forward


def cut(model: Network, *, layers: Sequence[str]) -> Network:
    """A copy of `model` without what comes after the last of `layers`.

    A checkpoint need not have what is left out, and must not:
    `convert(cut(abstract("vgg16"), layers=["features.8"]), first_four)`. What is left
    computes nothing but `capture(layers)`.

    Args:
      model: concrete or abstract; it stays as it was, and the arrays are its own.
      layers: as for `capture`.

    Raises:
      ValueError: the model has no such layer; the message has its neighbours.
    """
    for layer in layers:
        if layer:
            find(model, layer)
    apply, params, stats = functionalize(model, forward=capture(layers))
    images = jax.ShapeDtypeStruct((1, model.smallest, model.smallest, 3), jnp.float32)
    met = order_of_use(apply, params, stats, images)
    part = copy_of(model)
    for path, module in list(modules(part)):
        names = tuple(map(str, path))
        if isinstance(module, nnx.Conv | nnx.Linear | BatchNorm) and names not in met:
            _put(find(part, ".".join(names)), None)
    return part


def _children(module: nnx.Module) -> dict[str, Any]:
    """Children by name; some versions of flax have numbers for names in a list."""
    return {str(name): child for name, child in vars(module).items()}


def _put(node: Node, child: Any) -> None:
    """Sets the attribute of `node` to something else."""
    if isinstance(node.parent, nnx.List):
        node.parent[int(node.attribute)] = child
    else:
        setattr(node.parent, node.attribute, child)
