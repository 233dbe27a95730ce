"""The boundary between objects and functions: the only file that splits modules."""

from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.typing import Apply, Forward, Images, PRNGKey, Tree

M = TypeVar("M", bound=nnx.Module)


def functionalize(
    model: nnx.Module,
    *,
    dtype: Any | None = None,
    frozen: tuple[str, ...] = (),
    forward: Forward | None = None,
) -> tuple[Apply, Tree, Tree]:
    """Splits `model` into a pure `apply` and its arrays, `params` and `stats`.

    `apply(params, stats, images, *, key=None) -> (out, stats)`: with a key the model
    trains (batch statistics, dropout), without one it evaluates. Outputs are at least
    float32. The model stays as it was; the arrays are its own, not copies.

    Args:
      model: its leaves may be abstract (`jax.ShapeDtypeStruct`), and then `params` and
        `stats` are too.
      dtype: compute type of convolutions and linear layers, bfloat16 say. Parameters,
        BatchNorm's statistics and its arithmetic stay float32. Without it the arrays'
        own types decide.
      frozen: path prefixes, such as `"layer1"` or `""` for all, whose modules stay in
        evaluation mode also where a key is given.
      forward: `apply` gives `forward(net, images)` in place of `net(images)`, of which
        `models.capture` is one. Each call gets a net of its own and may change it.

    Returns:
      `(apply, params, stats)`; `params` and `stats` are plain nested dicts.
    """
    model = copy_of(model)
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

    # Not `Images`: `forward` may take something else, and abstract arrays come too.
    def apply(params: Tree, stats: Tree, images: Any, *, key: PRNGKey | None = None):
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
        # Taken first, since `forward` may put something else in a module's place.
        after = nnx.state(net, nnx.BatchStat)
        out = net(images) if forward is None else forward(net, images)
        out = jax.tree.map(
            lambda x: x.astype(jnp.promote_types(x.dtype, "float32")), out
        )
        return out, nnx.to_pure_dict(after)

    return apply, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def copy_of(model: M) -> M:
    """Another model with the same arrays: what is set on one is not on the other."""
    return nnx.merge(*nnx.split(model), copy=True)


def replace_arrays(model: nnx.Module, params: Tree, stats: Tree) -> None:
    """Puts other arrays, named as by `functionalize`, into `model`."""
    for kind, arrays in ((nnx.Param, params), (nnx.BatchStat, stats)):
        state = nnx.state(model, kind)
        nnx.replace_by_pure_dict(state, arrays)
        nnx.update(model, state)


def mirrored(apply: Apply, *, shift: int = 0) -> Apply:
    """`apply` of a classifier whose evaluation asks twice: test-time augmentation.

    What it gives are logarithms of probabilities: of the mean over each image and its
    mirror image. With a `shift` it asks six times: the mean counts these two for a
    half, and for the other both moved by so many pixels up and to the left, and down
    and to the right, the border mirrored in.
    """

    def several(
        params: Tree, stats: Tree, images: Images, *, key: PRNGKey | None = None
    ):
        if key is not None:
            return apply(params, stats, images, key=key)
        seen = [images, *_moved(images, shift)] if shift else [images]
        views = [view for one in seen for view in (one, jnp.flip(one, axis=2))]
        out, stats = apply(params, stats, jnp.concatenate(views))
        log_probs = jax.nn.log_softmax(out).reshape(len(views), images.shape[0], -1)
        if not shift:
            return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(2), stats
        shares = np.array([1 / 4, 1 / 4, *[1 / 8] * 4], log_probs.dtype)
        log_shares = np.log(shares)[:, None, None]
        return jax.nn.logsumexp(log_probs + log_shares, axis=0), stats

    return several


def _moved(images: Images, shift: int) -> tuple[Images, Images]:
    """The images moved up and left, and down and right, mirrored in at the border."""

    def moved(x, axis: int, by: int):
        # Not by `jnp.pad`, whose reflection is a gather, which ONNX has not.
        cut = partial(jax.lax.slice_in_dim, axis=axis)
        side = x.shape[axis]
        if by > 0:
            parts = cut(x, by, side), jnp.flip(cut(x, side - 1 - by, side - 1), axis)
        else:
            parts = jnp.flip(cut(x, 1, 1 - by), axis), cut(x, 0, side + by)
        return jnp.concatenate(parts, axis)

    up, down = (moved(moved(images, 1, by), 2, by) for by in (shift, -shift))
    return up, down


def order_of_use(
    apply: Apply, params: Tree, stats: Tree, images: jax.ShapeDtypeStruct
) -> list[tuple[str, ...]]:
    """The paths of the layers whose arrays the forward pass meets, the first first."""
    arrays = (params, stats)
    jaxpr = jax.make_jaxpr(lambda arrays, x: apply(*arrays, x)[0])(arrays, images).jaxpr
    layer_of = {
        id(variable): tuple(str(key.key) for key in path[1:-1])
        for (path, _), variable in zip(
            jax.tree_util.tree_leaves_with_path(arrays), jaxpr.invars, strict=False
        )
    }
    met = (layer_of.get(id(v)) for equation in jaxpr.eqns for v in equation.invars)
    return list(dict.fromkeys(layer for layer in met if layer is not None))


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
