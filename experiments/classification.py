"""What the classification experiments share: a data set and a model become a run."""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from converters.bundle import load_bundle, save_bundle
from experiments.config import UsageError, read_yaml, to_dict
from experiments.loop import History, Plan, fit
from experiments.outputs import write_outputs
from experiments.run import Reporter, Stop, skipped_notes
from jaxvision import augment, losses, models, optim, parallel, train
from jaxvision.data import Dataset, open_dataset
from jaxvision.flops import multiply_adds
from jaxvision.functional import (
    functionalize,
    mirrored,
    order_of_use,
    replace_arrays,
)
from jaxvision.linear_probe import split_head, trains_head_alone
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing, normalize, to_float
from jaxvision.typing import Array, Tree


class Training(NamedTuple):
    """A compiled recipe: any model of the same architecture can start it."""

    plan: Plan
    start: Callable[[nnx.Module], train.TrainState]
    """The state before the first step."""
    predict: Callable[[Tree, Tree], Array]
    """`predict(params, stats) -> logits` of the validation images."""


def make_training(
    dataset: Dataset,
    model: nnx.Module,
    name: str,
    *,
    report: Reporter,
    preprocessing: Preprocessing,
    augmentation: str,
    optimizer: Optim,
    epochs: int,
    batch_size: int,
    dtype: str,
    seed: int,
    frozen: tuple[str, ...] = (),
    class_weights: str = "none",
    label_smoothing: float = 0.0,
    ema: float = 0.0,
    mix: str = "none",
    mix_alpha: float = 1.0,
    accumulate: int = 1,
    patience: int = 0,
    schedule: optax.Schedule | None = None,
    keep: str = "val_accuracy",
) -> Training:
    """All that trains `model`, a row `name` of the models, on `dataset`.

    Where nothing but the last layer is trained, and on images that stay the same, what
    the rest of the model makes of them is computed here, once.

    Args:
      schedule: the learning rate by step, in place of the optimiser's own.
      keep: the column whose largest value marks the epoch whose model is kept; `epoch`
        keeps the last.

    Raises:
      UsageError: the batch does not fit the devices, the data or the model.
    """
    mesh = parallel.make_mesh()
    try:
        parallel.check_batch_size(batch_size, mesh)
        parallel.check_batch_size(batch_size // accumulate, mesh)
    except ValueError as error:
        raise UsageError(f"--batch-size: {error}") from error
    steps = len(dataset.train) // batch_size
    if steps == 0:
        raise UsageError(
            f"--batch-size {batch_size} is more than the {len(dataset.train)} "
            f"training photos in {dataset.name}"
        )
    compute = jnp.bfloat16 if dtype == "bfloat16" else None
    apply, params, stats = functionalize(model, dtype=compute, frozen=frozen)
    size = preprocessing.crop
    head = models.variant(name).head
    same = augmentation == "none" and mix == "none" and not preprocessing.mirror
    head_alone = same and trains_head_alone(model, head=head, frozen=frozen)
    layers = []
    if head_alone or optimizer.first_layer_lr != 1:
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        try:
            layers = order_of_use(apply, params, stats, image)
        except ValueError as error:
            raise UsageError(f"images of {size} pixels: {error}") from error
    pipeline = augment.make_pipeline(augmentation, size=size)

    def prepare_images(key, images):
        images = to_float(images)
        if key is not None:
            images = pipeline(key, images)
        return normalize(images, mean=preprocessing.mean, std=preprocessing.std)

    schedule = schedule or optim.make_schedule(
        optimizer, steps_per_epoch=steps, epochs=epochs
    )
    tx = optim.make_optimizer(optimizer, schedule, layers=layers)
    place = partial(jax.device_put, device=parallel.replicated(mesh))
    data = place({"image": dataset.train.images, "label": dataset.train.labels})
    val_images, val_labels = place((dataset.val.images, dataset.val.labels))
    weights = None
    if class_weights == "balanced":
        weights = losses.balanced_weights(
            data["label"], num_classes=len(dataset.classes)
        )
    loss_fn = losses.classification(
        class_weights=weights, label_smoothing=label_smoothing
    )
    prepare = prepare_images
    if head_alone:
        like = models.abstract(name, num_classes=len(dataset.classes))
        body, apply = split_head(like, head=head, dtype=compute)
        # Without augmentation a key means the centre crop, which validation images are.
        centre = partial(prepare_images, jax.random.key(0))
        see = partial(
            train.make_eval_step(
                body, lambda _, x: centre(x), batch_size=batch_size, mesh=mesh
            ),
            params,
            stats,
        )
        title = "what the last layer sees"
        with report.counting(f"{title} of the photos") as progress:
            data["image"] = place(_in_batches(see, data["image"], batch_size, progress))
        with report.counting(f"{title} in validation") as progress:
            val_images = place(_in_batches(see, val_images, batch_size, progress))
        prepare = _as_they_are

    step = train.make_train_step(
        apply, loss_fn, tx, frozen=frozen, ema=ema, accumulate=accumulate
    )
    evaluated = mirrored(apply) if preprocessing.mirror else apply
    forward = train.make_eval_step(evaluated, prepare, batch_size=batch_size, mesh=mesh)

    def start(model):
        _, params, stats = functionalize(model, frozen=frozen)
        return place(train.init_state(params, stats, tx, frozen=frozen, ema=ema))

    def predict(params, stats):
        return forward(params, stats, val_images)

    def evaluate(state):
        logits = predict(*train.evaluated(state))
        return {
            "val_loss": float(losses.cross_entropy(logits, val_labels)),
            "val_accuracy": float((logits.argmax(-1) == val_labels).mean()),
        }

    def keep_best(state, folder):
        save_bundle(
            folder / "model.safetensors",
            name,
            *train.evaluated(state),
            classes=dataset.classes,
            preprocessing=preprocessing,
        )

    key = place(jax.random.key(seed))
    plan = Plan(
        run_steps=train.make_epoch(
            step,
            prepare,
            batch_size=batch_size,
            mesh=mesh,
            mix=_make_mix(mix, alpha=mix_alpha, classes=len(dataset.classes)),
        ),
        data=data,
        fingerprint=_fingerprint(dataset),
        metrics=("loss", "accuracy"),
        batch_size=batch_size,
        epochs=epochs,
        key=key,
        evaluate=evaluate,
        learning_rate=schedule,
        judged_by=keep,
        keep_best=keep_best,
        patience=patience,
    )
    state = jax.eval_shape(
        lambda: train.init_state(params, stats, tx, frozen=frozen, ema=ema)
    )
    try:
        plan.run_steps.eval_shape(state, plan.no_sums(), data, plan.order(0), 0, 0, key)
    except ValueError as error:  # images or batches that a layer cannot take
        raise UsageError(
            f"--batch-size {batch_size}, images of {size} pixels: {error}"
        ) from error
    return Training(plan, start, predict)


def _in_batches(fn, images, batch_size: int, progress: Callable[[int, int], None]):
    found = []
    for start in range(0, len(images), batch_size):
        found.append(fn(images[start : start + batch_size]))
        progress(min(start + batch_size, len(images)), len(images))
    return jnp.concatenate(found)


def _as_they_are(key, features):
    del key
    return features


def _make_mix(name: str, *, alpha: float, classes: int) -> train.Mix | None:
    if name == "none":
        return None

    def mix(key, batch):
        targets = jax.nn.one_hot(batch["label"], classes)
        image, target = augment.MIXES[name](key, batch["image"], targets, alpha=alpha)
        return batch | {"image": image, "target": target}

    return mix


def fit_head(training: Training, model: nnx.Module, report: Reporter) -> None:
    """Trains as `training` says, in one go and without a folder, into `model`."""
    plan, state = training.plan, training.start(model)
    begun = time.perf_counter()
    for epoch in range(plan.epochs):
        state, sums = plan.run_steps(
            state, plan.no_sums(), plan.data, plan.order(epoch), 0, plan.steps, plan.key
        )
    numbers = plan.evaluate(state)
    replace_arrays(model, state.params, state.stats)  # the old ones are donated
    report.say(
        f"last layer alone: {plan.epochs} epochs in "
        f"{time.perf_counter() - begun:.1f} s, "
        f"train loss {float(sums['loss']) / plan.steps:.4g}, "
        f"val accuracy {numbers['val_accuracy']:.2%}"
    )


def run(
    training: Training,
    model: nnx.Module,
    folder: Path,
    *,
    dataset: Dataset,
    title: str,
    summary: dict[str, str],
    notes: Sequence[str],
    report: Reporter,
    stop: Stop,
) -> dict[str, float] | None:
    """Trains to the last epoch and writes all of the run folder.

    Returns:
      The numbers of the kept epoch's model, its parameters and how many images judged
      it; None where `stop` ended the training.
    """
    plan = training.plan
    history: History = fit(
        training.start(model), plan, folder, report=report, stop=stop
    )
    if not plan.is_done(history):
        return None
    bundle = load_bundle(folder / "model.safetensors")
    _, params, stats = functionalize(bundle.model)
    numbers = write_outputs(
        folder,
        title=title,
        summary=summary,
        history=history,
        dataset=dataset,
        bundle=bundle,
        logits=training.predict(params, stats),
        kept="last epoch" if plan.judged_by == "epoch" else "best epoch",
        notes=[*notes, *skipped_notes(dataset.skipped, "unreadable files")],
        report=report,
    )
    size, classes = bundle.preprocessing.crop, len(dataset.classes)
    return numbers | {
        "parameters": count_parameters(model),
        "gflop": multiply_adds(bundle.name, size=size, num_classes=classes) / 1e9,
        "images": len(dataset.val),
    }


def dry_run(training: Training, model: nnx.Module, report: Reporter) -> dict:
    """One training step and one evaluation, nothing written."""
    plan = training.plan
    state, sums = plan.run_steps(
        training.start(model),
        plan.no_sums(),
        plan.data,
        plan.order(0),
        0,
        1,
        plan.key,
    )
    numbers = {"train_loss": float(sums["loss"]), **plan.evaluate(state)}
    report.say(
        f"dry run: one step of {plan.steps} an epoch, loss "
        f"{numbers['train_loss']:.4f}; nothing was written"
    )
    return numbers


def check_resumed(config: Any, folder: Path) -> None:
    """A run goes on with its own options; those given beside `--resume` must agree.

    Raises:
      UsageError: an option differs from that of the run in `folder`.
    """
    saved = to_dict(read_yaml(type(config), folder / "config.yaml"))
    given = to_dict(config)
    for name, value in saved.items():
        if given[name] != value and name not in ("resume", "config", "dry_run"):
            raise UsageError(
                f"--resume goes on with {name} = {value} of {folder / 'config.yaml'}: "
                f"leave out the other value, {given[name]}, or start a new run"
            )


def open_data(
    spec: str, preprocessing: Preprocessing, *, train_size: int, report: Reporter
) -> Dataset:
    """The data set of `--data`, with progress; its split does not hang on the seed.

    Raises:
      UsageError: there is none, or it cannot be trained on.
    """
    try:
        with report.counting("reading photos") as progress:
            return open_dataset(
                spec,
                train_size=train_size,
                eval_resize=preprocessing.resize,
                eval_crop=preprocessing.crop,
                progress=progress,
            )
    except ValueError as error:
        raise UsageError(f"--data: {error}") from error


def compute_type(dtype: str) -> str:
    """What `auto` means here: bfloat16 on GPU and TPU, float32 on CPU."""
    if dtype != "auto":
        return dtype
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def count_parameters(model: nnx.Module) -> int:
    """How many numbers of `model` are learned."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def check_limits(config: Any, limits: dict[str, bool]) -> None:
    """Raises ValueError, with the option's name, for the first limit that is broken."""
    for name, holds in limits.items():
        if not holds:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} cannot be {getattr(config, name)}")


def _fingerprint(dataset: Dataset) -> str:
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for array in (dataset.train.labels, dataset.train.images):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
