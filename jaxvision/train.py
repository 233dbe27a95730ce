"""Training and evaluation as pure, compiled functions of a state and arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax.sharding import Mesh

from jaxvision import optim, parallel, precision
from jaxvision.typing import (
    Apply,
    Array,
    Batch,
    LossFn,
    Metrics,
    Transform,
    Tree,
    WeightedLoss,
)


# Unchecked: JAX rebuilds it with other things than arrays in their places.
@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that training changes. It is donated to each step: the old one is dead."""

    step: Array
    """int32 scalar, the number of steps taken."""
    params: Tree
    """Learned arrays, the frozen ones too."""
    stats: Tree
    """BatchNorm's running statistics."""
    opt_state: optax.OptState
    """State of the optimiser, for the trained leaves alone."""
    average: Tree = field(default_factory=dict)
    """`params` and `stats` averaged over the steps; empty where nothing is averaged."""
    loss_scale: precision.LossScale | tuple[()] = ()
    """The dynamic scale of a loss in float16; empty where the loss is not scaled."""


TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]
Streams = Callable[[Array, int], tuple[Array, Sequence[Array]]]
"""`streams(key, count)`: keys of independent chance from one of a whole run, for the
step and for each of `count` transforms."""


def init_state(
    params: Tree,
    stats: Tree,
    tx: optax.GradientTransformation,
    *,
    frozen: tuple[str, ...] = (),
    ema: float = 0.0,
    scaled: bool = False,
) -> TrainState:
    """The state before the first step; see `make_train_step` for the options.

    With `scaled`, which is for a model that computes in float16, the state holds a
    dynamic loss scale.
    """
    trained, _ = optim.split_frozen(params, frozen)
    # A copy, because no buffer can be donated twice.
    average = jax.tree.map(jnp.copy, _averaged(params, stats)) if ema else {}
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        stats,
        tx.init(trained),
        average,
        precision.initial_scale() if scaled else (),
    )


def evaluated(state: TrainState) -> tuple[Tree, Tree]:
    """`(params, stats)` to evaluate and to keep: the averages where there are any."""
    if state.average:
        return state.average["params"], state.average["stats"]
    return state.params, state.stats


def _averaged(params: Tree, stats: Tree) -> Tree:
    return {"params": params, "stats": stats}


def _moved(average: Tree, current: Tree, decay: float, step: Array) -> Tree:
    """The exponential moving average, one step on.

    The first steps count more, `(1 + step) / (10 + step)` being the largest decay, or
    the random initial weights would be felt for `1 / (1 - decay)` steps.
    """
    now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        lambda a, b: a + (1 - now).astype(a.dtype) * (b - a), average, current
    )


def make_train_step(
    apply: Apply,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    frozen: tuple[str, ...] = (),
    ema: float = 0.0,
    accumulate: int = 1,
) -> TrainStep:
    """`step(state, batch, key) -> (state, metrics)`, compiled, the state donated.

    Args:
      apply: as `functionalize` gives it.
      loss_fn: `loss_fn(out, batch) -> (loss, metrics)`.
      tx: the optimiser.
      frozen: path prefixes that are not differentiated; the rest of the work of their
        gradients is never done, and they have no optimiser state.
      ema: decay of the exponential moving average of parameters and statistics, in
        [0, 1); 0 keeps none.
      accumulate: parts of the batch that are computed one after the other, for less
        memory. Loss, metrics and gradients are the whole batch's, of a `WeightedLoss`
        too; BatchNorm normalises each part by itself.

    The key is folded with `state.step`, so that one key serves a whole run.

    Where the state holds a loss scale, the loss is multiplied by it and the gradients
    are divided by it. A step whose gradients are not finite changes nothing but the
    scale and `step`: no parameter, no statistic, no state of the optimiser, whose
    schedule so waits. See `precision.next_scale`.

    Raises:
      ValueError: a batch cannot be cut into so many parts.
    """

    def step(state: TrainState, batch: Batch, key: Array):
        trained, fixed = optim.split_frozen(state.params, frozen)
        key = jax.random.fold_in(key, state.step)

        part_loss = _loss_of_part(loss_fn, batch, accumulate)

        def gradients(stats: Tree, batch: Batch, key: Array):
            def objective(trained: Tree):
                params = optim.join(trained, fixed)
                out, moved = apply(params, stats, batch["image"], key=key)
                loss, metrics = part_loss(out, batch)
                if state.loss_scale:
                    loss = loss * state.loss_scale.scale
                return loss, (moved, metrics)

            grads, (moved, metrics) = jax.grad(objective, has_aux=True)(trained)
            return moved, (grads, metrics)

        if accumulate == 1:
            stats, (grads, metrics) = gradients(state.stats, batch, key)
        else:
            keys = jax.random.split(key, accumulate)
            stats, (grads, metrics) = _mean_over_parts(
                gradients, state.stats, _parts(batch, accumulate), keys
            )
        if state.loss_scale:
            finite, scale = precision.all_finite(grads), state.loss_scale.scale
            grads = jax.tree.map(lambda gradient: gradient / scale, grads)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        params = optim.join(cast(Tree, optax.apply_updates(trained, updates)), fixed)
        average = state.average
        if ema:
            average = _moved(average, _averaged(params, stats), ema, state.step)
        after = TrainState(state.step + 1, params, stats, opt_state, average)
        if state.loss_scale:
            kept = jax.tree.map(
                partial(jnp.where, finite), after, replace(state, loss_scale=())
            )
            after = replace(
                kept,
                step=state.step + 1,
                loss_scale=precision.next_scale(state.loss_scale, finite),
            )
        return after, metrics

    return jax.jit(step, donate_argnums=0)


def _loss_of_part(loss_fn: LossFn, batch: Batch, count: int) -> LossFn:
    """What one of `count` parts of the batch adds to the mean over all of it."""
    if count > 1 and isinstance(loss_fn, WeightedLoss):
        return loss_fn.of_part(batch, parts=count)
    return loss_fn


def _parts(batch: Batch, count: int) -> Batch:
    """The arrays with the parts as their first axis.

    Every `count`-th image is of one part: each device keeps its share of all parts.
    """
    size = len(batch["image"])
    if size % count:
        raise ValueError(f"a batch of {size} images cannot be cut into {count} parts")
    return {
        name: rearrange(array, "(size part) ... -> part size ...", part=count)
        for name, array in batch.items()
    }


def _mean_over_parts(gradients, stats, parts, keys):
    """`gradients` of one part after the other; what it gives besides is averaged."""

    def body(carry, part):
        stats, sums = carry
        stats, found = gradients(stats, *part)
        return (stats, jax.tree.map(jnp.add, sums, found)), None

    first = jax.tree.map(lambda x: x[0], (parts, keys))
    shapes = jax.eval_shape(gradients, stats, *first)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (stats, sums), _ = jax.lax.scan(body, (stats, zeros), (parts, keys))
    return stats, jax.tree.map(lambda x: x / len(keys), sums)


def streams(key: Array, count: int) -> tuple[Array, Sequence[Array]]:
    """The keys of the step and of `count` transforms; see `Streams`."""
    first, step, *rest = jax.random.split(key, max(3, count + 1))
    return step, [first, *rest][:count]


def make_epoch(
    step: TrainStep,
    transforms: Sequence[Transform],
    *,
    batch_size: int,
    mesh: Mesh,
    streams: Streams = streams,
):
    """Any stretch of an epoch as one compiled program over data on the device.

    Args:
      step: as `make_train_step` gives it.
      transforms: what a batch goes through before the step, in this order.
      batch_size: images a step, over all devices.
      mesh: the devices.
      streams: gives each transform a stream of keys, into which the step is folded.

    Returns:
      `run(state, sums, data, order, start, stop, key) -> (state, sums)`, which takes
      the steps from `start` up to `stop` of the epoch whose images stand in `order`.
      `data` holds arrays of one length, such as `image` (uint8) and `label`; a batch
      has besides, int32 `(batch_size,)`, the `index` of each image in them and the
      `epoch`, counted from zero by the steps taken. `sums` are the metrics summed over
      steps. Both ends are dynamic: a whole epoch, or pieces of it with a look at the
      clock between them, are the same program and give the same bits. `state` and
      `sums` are donated. Where `order` is None, `data` holds whole batches, `(batches,
      batch_size, ...)`, `index` and `epoch` too, as `stream.Stream` brings them.
    """
    run = _epoch(step, transforms, batch_size, mesh, streams)
    return jax.jit(run, donate_argnums=(0, 1))


def make_epoch_of_seeds(
    step: TrainStep,
    transforms: Sequence[Transform],
    *,
    batch_size: int,
    mesh: Mesh,
    streams: Streams = streams,
):
    """`make_epoch` for several runs at once, which differ in their seeds.

    Returns:
      `run(states, sums, data, orders, start, stop, keys) -> (states, sums)`: all but
      `data`, which they share, and the two ends have one more axis in front, a run an
      entry (`jax.tree.map(lambda *x: jnp.stack(x), *states)` makes it). Each run's
      numbers are those of `make_epoch` but for rounding. A small net's many runs then
      keep a GPU busy that one leaves idle.
    """
    run = _epoch(step, transforms, batch_size, mesh, streams)
    axes = (0, 0, None, 0, None, None, 0)
    return jax.jit(jax.vmap(run, in_axes=axes), donate_argnums=(0, 1))


def _epoch(step, transforms, batch_size, mesh, streams):
    """The function that `make_epoch` compiles."""

    def run(state, sums, data, order, start, stop, key):
        step_key, keys = streams(key, len(transforms))

        def body(index, carry):
            state, sums = carry
            at = index
            if order is not None:
                at = jax.lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
            batch = {name: array[at] for name, array in data.items()}
            if order is not None:
                epoch = state.step // (len(order) // batch_size)
                batch["index"] = at.astype(jnp.int32)
                batch["epoch"] = jnp.full(batch_size, epoch, jnp.int32)
            batch = parallel.shard_batch(batch, mesh)
            for transform, stream in zip(transforms, keys, strict=True):
                batch = transform(jax.random.fold_in(stream, state.step), batch)
            state, metrics = step(state, batch, step_key)
            return state, jax.tree.map(jnp.add, sums, metrics)

        return jax.lax.fori_loop(start, stop, body, (state, sums))

    return run


def make_eval_step(
    apply: Apply, transforms: Sequence[Transform], *, batch_size: int, mesh: Mesh
):
    """`evaluate(params, stats, images) -> out` over all of `images`, compiled once.

    The last batch is padded with copies of the first image and cut off again: nothing
    is dropped and nothing recompiles. `images` is uint8, on the host or the device; the
    transforms get no key.
    """

    def padded(params, stats, images):
        def body(images):
            batch = parallel.shard_batch({"image": images}, mesh)
            for transform in transforms:
                batch = transform(None, batch)
            return apply(params, stats, batch["image"])[0]

        batches = images.reshape(-1, batch_size, *images.shape[1:])
        return jax.lax.map(body, batches).reshape(images.shape[0], -1)

    # Whole on each process, which may look at no more than its own devices hold.
    padded = jax.jit(padded, out_shardings=parallel.replicated(mesh))

    def evaluate(params, stats, images) -> Array:
        missing = -len(images) % batch_size
        if missing:
            filler = np.repeat(np.asarray(images[:1]), missing, axis=0)
            images = jnp.concatenate([jnp.asarray(images), filler])
        return padded(params, stats, images)[: images.shape[0] - missing]

    return evaluate
