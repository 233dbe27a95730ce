"""Outputs of inner layers, by the names that torchvision gives them."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.functional import functionalize, modules, order_of_use
from jaxvision.models.layers import BatchNorm


class _Complete(Exception):  # noqa: N818  not an error: it ends the forward pass early
    """All wanted layers have been computed."""


class Node(NamedTuple):
    """A child of a module, and which of its calls counts."""

    parent: nnx.Module
    attribute: str
    path: str
    call: int


def features(model: nnx.Module, *, layers: Sequence[str]) -> nnx.Module:
    """Makes `model` give `{layer: output}` in place of logits, and returns it.

    The forward pass ends with the last wanted layer. Whatever comes after it is taken
    out of the model, in place, and a checkpoint need not have it:
    `convert(features(abstract("vgg16"), layers=["features.8"]), first_four)`.

    Args:
      model: one of `jaxvision.models`, concrete or abstract.
      layers: names of nodes as `torchvision.models.feature_extraction` has them: the
        dotted path of a module or of a function in a `Sequential`. `features.7` of
        `vgg16` is the convolution, `features.8` the ReLU after it; `relu_1` is the
        second call of `relu`. `""` is the model's own output.

    Raises:
      ValueError: the model has no such layer; the message has its neighbours.
    """
    for layer in layers:
        if layer:
            find(model, layer)
    # A new class and nothing else: the paths stay those of the state_dict.
    model.__class__ = _capturing(type(model))
    setattr(model, "layers", tuple(layers))  # noqa: B010
    _prune(model)
    return model


def find(model: nnx.Module, layer: str) -> Node:
    """Where `layer` is in `model`.

    Raises:
      ValueError: nowhere; the message has the names that are there.
    """
    above, _, last = layer.rpartition(".")
    again = re.fullmatch(r"(.+)_(\d+)", last)
    parent: Any = model
    seen: list[str] = []
    for part in above.split(".") if above else ():
        if not isinstance(getattr(parent, part, None), nnx.Module):
            break
        parent = getattr(parent, part)
        seen.append(part)
    else:
        if callable(getattr(parent, last, None)):
            return Node(parent, last, layer, 0)
        if again and callable(getattr(parent, again[1], None)):
            path = ".".join([*seen, again[1]])
            return Node(parent, again[1], path, int(again[2]))
    raise ValueError(
        f"{type(model).__name__} has no layer {layer!r}; "
        f"{'.'.join(seen) or 'at its top'} there are "
        + ", ".join(
            name
            for name, child in vars(parent).items()
            if callable(child) and not name.startswith("_")
        )
    )


@cache
def _capturing(base: type[nnx.Module]) -> type[nnx.Module]:
    class Features(base):
        """`base` with the outputs of inner layers in place of its own."""

        def __call__(self, x):
            return _capture(self, super().__call__, x)

    return Features


def _capture(model, forward: Callable, x) -> dict[str, jax.Array]:
    """Runs `forward` with every wanted layer replaced by one that keeps its output."""
    nodes = {layer: find(model, layer) for layer in model.layers if layer}
    places = {node.path: node for node in nodes.values()}
    children = {path: getattr(*node[:2]) for path, node in places.items()}
    outputs: dict[str, jax.Array] = {}

    def tap(path: str) -> Callable:
        names = {node.call: layer for layer, node in nodes.items() if node.path == path}
        calls = count()

        def call(x):
            y = children[path](x)
            layer = names.get(next(calls))
            if layer is not None:
                outputs[layer] = y
                if outputs.keys() == set(model.layers):
                    raise _Complete
            return y

        return call

    try:
        for path, node in places.items():
            setattr(node.parent, node.attribute, tap(path))
        outputs[""] = forward(x)
    except _Complete:
        pass
    finally:
        for path, node in places.items():
            setattr(node.parent, node.attribute, children[path])
    missing = [layer for layer in model.layers if layer not in outputs]
    if missing:
        raise ValueError(f"these layers are never called: {', '.join(missing)}")
    return {layer: outputs[layer] for layer in model.layers}


def _prune(model: nnx.Module) -> None:
    """Takes out the modules whose arrays the forward pass does not meet."""
    apply, params, stats = functionalize(model)
    size = getattr(model, "image_size", 224)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    met = order_of_use(apply, params, stats, images)
    for path, module in list(modules(model)):
        names = tuple(map(str, path))
        if isinstance(module, nnx.Conv | nnx.Linear | BatchNorm) and names not in met:
            parent: Any = model
            for name in names[:-1]:
                parent = getattr(parent, name)
            setattr(parent, names[-1], None)
