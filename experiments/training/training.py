"""What trains any network by a recipe: the shared half of all experiments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.training.plan import Plan
from experiments.training.recipe import Recipe
from jaxvision import optim, parallel, train
from jaxvision.functional import functionalize, order_of_use
from jaxvision.precision import fast_dtype
from jaxvision.preprocess import Preprocessing
from jaxvision.stream import Stream
from jaxvision.typing import Apply, Array, Batch, LossFn, Transform, Tree


class Start(NamedTuple):
    """A model to train, as it is before the first step.

    Attributes:
      name: a row of the models.
      model: with the weights it starts from.
      preprocessing: what it expects of its images.
      source: where the weights are from, in words.
      frozen: path prefixes that are never trained, whatever the recipe says.
      brief: those of what the recipe's optimiser may train in its first epochs alone.
    """

    name: str
    model: nnx.Module
    preprocessing: Preprocessing
    source: str = "random weights"
    frozen: tuple[str, ...] = ()
    brief: tuple[str, ...] = ()


class Trainable(NamedTuple):
    """What is trained, apart from its arrays.

    Attributes:
      apply: as `functionalize` gives it, in the recipe's compute type.
      params, stats: its arrays, for their shapes.
      size: side of its training images, in pixels.
      frozen: path prefixes that are not trained.
      layers: the paths of its layers, the first one first, where they learn at
        different rates.
      brief: path prefixes of what is trained in the first epochs alone.
    """

    apply: Apply
    params: Tree
    stats: Tree
    size: int
    frozen: tuple[str, ...] = ()
    layers: Sequence[tuple[str, ...]] = ()
    brief: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What a network is trained for: the half that experiments differ in.

    Attributes:
      data: the training set, arrays of one length, `image` among them.
      fingerprint: a digest of the training set, the same for the same data.
      judged: a digest of what it is judged by, likewise.
      transforms: what a batch goes through before a step.
      loss_fn: `loss_fn(out, batch) -> (loss, metrics)`.
      metrics: the names of these; `loss` among them.
      evaluate: the validation numbers, `val_...`, of `(params, stats)`.
      keep: writes `(params, stats)` as the best model of a run's folder; all processes
        call it, the first one writes.
      judged_by: the column whose largest value marks the epoch to keep; `epoch`, the
        last.
      repeat: how often an epoch shows each image.
      draw: draws the order of an epoch instead; see `Plan.draw`.
      streams: see `train.make_epoch`.
      is_streamed: whether the training set comes to the devices batch by batch.
      options: what else decides what comes of it, beside the recipe, as JSON holds it.
    """

    data: Mapping[str, Any]
    fingerprint: str
    judged: str
    transforms: Sequence[Transform]
    loss_fn: LossFn
    metrics: tuple[str, ...]
    evaluate: Callable[[Tree, Tree], dict[str, float]]
    keep: Callable[[Tree, Tree, Path], None]
    judged_by: str
    repeat: int = 1
    draw: Callable[[jax.Array], jax.Array] | None = None
    streams: train.Streams = train.streams
    is_streamed: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Training(NamedTuple):
    """A compiled recipe: any model of the same architecture can start it."""

    plan: Plan
    start: Callable[[nnx.Module], train.TrainState]
    """The state before the first step."""
    run_seeds: Callable
    """`plan.run_steps` for several runs at once; see `train.make_epoch_of_seeds`."""


def make_training(
    task: Task,
    trained: Trainable,
    recipe: Recipe,
    *,
    schedule: optax.Schedule | None = None,
) -> Training:
    """All that trains a model for a task by a recipe.

    Args:
      task: what for.
      trained: what.
      recipe: how.
      schedule: the learning rate by step, in place of the recipe's own.

    Raises:
      UsageError: the batch does not fit the devices, the data or the model.
    """
    layout = make_layout(recipe)
    whole = parallel.replicated(layout.mesh)
    frozen, ema = trained.frozen, recipe.ema
    steps = task.repeat * len(task.data["image"]) // recipe.batch_size
    schedule = schedule or optim.make_schedule(
        recipe.optim, steps_per_epoch=steps, epochs=recipe.epochs
    )
    tx = optim.make_optimizer(
        *(recipe.optim, schedule),
        layers=trained.layers,
        brief=trained.brief,
        brief_steps=steps * recipe.optim.brief_epochs,
    )
    run_steps, run_seeds = _programs(task, trained, recipe, tx, layout)
    plan = Plan(
        run_steps=run_steps,
        data=_placed(task, recipe, layout.mesh),
        fingerprint=task.fingerprint,
        metrics=task.metrics,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        key=parallel.place(jax.random.key(recipe.seed), whole),
        evaluate=lambda state: task.evaluate(*train.evaluated(state)),
        learning_rate=schedule,
        judged_by=task.judged_by,
        keep_best=lambda state, folder: task.keep(*train.evaluated(state), folder),
        repeat=task.repeat,
        draw=task.draw,
        patience=recipe.patience,
        judged=task.judged,
        options={**asdict(recipe), "frozen": frozen, **task.options},
    )

    def init(params: Tree, stats: Tree) -> train.TrainState:
        scaled = recipe.dtype == "float16"
        return train.init_state(
            params, stats, tx, frozen=frozen, ema=ema, scaled=scaled
        )

    def start(model: nnx.Module) -> train.TrainState:
        _, params, stats = functionalize(model, frozen=frozen)
        if not layout.is_spread:
            return layout.place(init(params, stats))
        # The optimiser's state is never whole on a device.
        places = jax.tree.map(layout.of, state)
        return jax.jit(init, out_shardings=places)(*layout.place((params, stats)))

    state = jax.eval_shape(init, trained.params, trained.stats)
    try:
        plan.check(state)
    except ValueError as error:  # images or batches that a layer cannot take
        raise UsageError(
            f"--batch-size {recipe.batch_size}, images of {trained.size} pixels: "
            f"{error}"
        ) from error
    return Training(plan, start, run_seeds)


def _programs(
    task: Task,
    trained: Trainable,
    recipe: Recipe,
    tx: optax.GradientTransformation,
    layout: parallel.Layout,
) -> tuple[Callable, Callable]:
    """The epoch of one run and that of several, which are compiled where called."""
    compiled = train.make_train_step(
        *(layout.gathered(trained.apply), task.loss_fn, tx),
        frozen=trained.frozen,
        ema=recipe.ema,
        accumulate=recipe.accumulate,
    )

    def step(state: train.TrainState, batch: Batch, key: Array):
        state, metrics = compiled(state, batch, key)
        return layout.kept(state), metrics

    options: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "mesh": layout.mesh,
        "streams": task.streams,
    }
    make = train.make_epoch, train.make_epoch_of_seeds
    one, several = (one(step, task.transforms, **options) for one in make)
    return one, several


def _placed(
    task: Task, recipe: Recipe, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array] | Stream:
    """The training set on the devices, or what brings it there."""
    if task.is_streamed:
        return Stream(task.data, batch_size=recipe.batch_size, mesh=mesh)
    return parallel.place(dict(task.data), parallel.replicated(mesh))


def make_layout(recipe: Recipe) -> parallel.Layout:
    """The devices, and how a model is spread over them.

    Raises:
      UsageError: they cannot share a batch.
    """
    return parallel.Layout(make_mesh(recipe), is_spread=recipe.shard == "params")


def make_mesh(recipe: Recipe) -> jax.sharding.Mesh:
    """The devices, which can share a batch of the recipe.

    Raises:
      UsageError: they cannot.
    """
    mesh = parallel.make_mesh()
    try:
        parallel.check_batch_size(recipe.batch_size, mesh)
        parallel.check_batch_size(recipe.batch_size // recipe.accumulate, mesh)
    except ValueError as error:
        raise UsageError(f"--batch-size: {error}") from error
    return mesh


def make_trainable(
    model: nnx.Module, recipe: Recipe, *, size: int, frozen: tuple[str, ...] = ()
) -> Trainable:
    """A model as it is trained by a recipe, on images of `size` pixels a side.

    Raises:
      UsageError: the images are too small for it.
    """
    apply, params, stats = functionalize(
        model, dtype=compute_dtype(recipe), frozen=frozen
    )
    trained = Trainable(apply, params, stats, size, frozen)
    if recipe.optim.first_layer_lr == 1:
        return trained
    return trained._replace(layers=layers_of(trained))


def layers_of(trained: Trainable) -> list[tuple[str, ...]]:
    """The paths of its layers, the first one first.

    Raises:
      UsageError: the images are too small for it.
    """
    image = jax.ShapeDtypeStruct((1, trained.size, trained.size, 3), jnp.float32)
    try:
        return order_of_use(trained.apply, trained.params, trained.stats, image)
    except ValueError as error:
        raise UsageError(f"images of {trained.size} pixels: {error}") from error


def compute_dtype(recipe: Recipe) -> Any | None:
    """The recipe's compute type as `functionalize` takes it."""
    return None if recipe.dtype == "float32" else jnp.dtype(recipe.dtype)


def compute_type(dtype: str, *, console: Console) -> str:
    """What `--dtype` means here, said in a line with the reason.

    Raises:
      UsageError: the device does not multiply it.
    """
    device = jax.devices()[0]
    chosen, why = fast_dtype(device)
    if dtype != "auto":
        chosen, why = dtype, "as --dtype says"
    if chosen == "float16":
        if device.platform == "tpu":
            raise UsageError(
                f"--dtype float16: {device.device_kind} multiplies bfloat16"
            )
        why += ", with a dynamic loss scale"
    console.say(f"computes in {chosen}: {why}")
    return chosen


def dry_run(
    training: Training, model: nnx.Module, console: Console
) -> dict[str, float]:
    """One training step and one evaluation, nothing written."""
    plan = training.plan
    state, sums = plan.run(
        training.start(model), plan.no_sums(), epoch=0, start=0, stop=1
    )
    plan.close()
    numbers = {"train_loss": float(sums["loss"]), **plan.evaluate(state)}
    console.say(
        f"dry run: one step of {plan.steps} an epoch, loss "
        f"{numbers['train_loss']:.4g}; nothing was written"
    )
    return numbers


def count_parameters(model: nnx.Module) -> int:
    """How many numbers of `model` are learned."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
