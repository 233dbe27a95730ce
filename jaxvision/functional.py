"""The boundary between objects and functions: the only file that splits modules."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxvision.typing import Apply, Tree


def functionalize(
    model: nnx.Module,
    *,
    dtype: Any | None = None,
    frozen: tuple[str, ...] = (),
) -> tuple[Apply, Tree, Tree]:
    """Splits `model` into a pure `apply` and its arrays, `params` and `stats`.

    `apply(params, stats, images, *, key=None) -> (out, stats)`: with a key the model
    trains (batch statistics, dropout), without one it evaluates. Outputs are at least
    float32. The model itself is used up: its modes and compute type are set here.

    Args:
      model: its leaves may be abstract (`jax.ShapeDtypeStruct`), and then `params` and
        `stats` are too.
      dtype: compute type of convolutions and linear layers, bfloat16 say. Parameters,
        BatchNorm's statistics and its arithmetic stay float32. Without it the arrays'
        own types decide.
      frozen: path prefixes, such as `"layer1"` or `""` for all, whose modules stay in
        evaluation mode also where a key is given.

    Returns:
      `(apply, params, stats)`; `params` and `stats` are plain nested dicts.
    """
    if dtype is not None:
        for _, module in modules(model):
            if isinstance(module, nnx.Conv | nnx.Linear):
                module.dtype = dtype
    model.train()
    for path, module in modules(model):
        if has_prefix(tuple(map(str, path)), frozen):
            module.eval()
    train_def = nnx.graphdef(model)
    model.eval()
    eval_def, params, stats, streams = nnx.split(
        model, nnx.Param, nnx.BatchStat, nnx.RngState
    )
    # A stream's own state never matters: training replaces it, evaluation ignores it.
    streams = jax.tree.map(_blank, streams)

    def apply(params: Tree, stats: Tree, images: jax.Array, *, key=None):
        definition = eval_def if key is None else train_def
        net = nnx.merge(definition, params, stats, streams, copy=True)
        if key is not None:
            noisy = [
                node
                for _, node in nnx.iter_graph(net)
                if isinstance(node, nnx.RngStream)
            ]
            keys = jax.random.split(key, max(1, len(noisy)))
            for node, node_key in zip(noisy, keys, strict=False):
                node.key[...] = node_key
        out = net(images)
        out = jax.tree.map(
            lambda x: x.astype(jnp.promote_types(x.dtype, "float32")), out
        )
        return out, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))

    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def modules(model: nnx.Module) -> Iterator[tuple[tuple[Any, ...], nnx.Module]]:
    """Each module of `model` with its path; children come before their parents."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Module):
            yield path, node


def has_prefix(path: tuple[str, ...], prefixes: tuple[str, ...]) -> bool:
    """Whether a leaf's or module's path lies under one of the dotted `prefixes`."""
    return any(
        prefix == "" or path[: prefix.count(".") + 1] == tuple(prefix.split("."))
        for prefix in prefixes
    )


def _blank(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(leaf.shape, leaf.dtype)
