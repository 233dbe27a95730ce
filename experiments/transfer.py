"""Fine-tunes an ImageNet backbone on a folder of photos.

python -m experiments.transfer --backbone wrn50_2 --data PHOTOS
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.bundle import load_bundle, save_bundle
from converters.rules import leaves
from experiments.backbones import build, choose_weights
from experiments.config import UsageError, read_yaml, run_cli, to_dict
from experiments.loop import Plan, fit
from experiments.outputs import write_outputs
from experiments.run import (
    Reporter,
    interrupted,
    new_folder,
    stop_on_signals,
    write_config,
)
from jaxvision import augment, losses, models, optim, parallel, train
from jaxvision.data import Dataset, open_dataset
from jaxvision.functional import functionalize, has_prefix
from jaxvision.optim import Optim
from jaxvision.preprocess import Preprocessing, normalize, to_float
from jaxvision.typing import Array, Tree

MODULE = "experiments.transfer"


@dataclass(frozen=True)
class Config:
    """Fine-tunes an ImageNet backbone on a folder of photos."""

    backbone: str = "wide_resnet50_2"
    """One of torchvision's names, such as resnet18, or an alias, such as wrn50_2."""
    data: str = "demo"
    """demo; a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg; or a
    .npz file with x_train, y_train, x_test, y_test."""
    weights: str = "auto"
    """auto, imagenet, v1, v2, random, or a .pth or .safetensors file. auto is imagenet;
    with the demo photos and no network it is random, with a warning."""
    epochs: int | None = None
    """Passes over the training photos. By default 10, with the demo photos 4."""
    batch_size: int = 32
    """Photos a step, over all devices."""
    image_size: int | None = None
    """Side of the crops in pixels. By default 224, with the demo photos 64."""
    optim: Optim = field(default_factory=Optim)
    """The optimiser and its schedule."""
    augment: Literal["none", "flips", "full"] = "full"
    """flips: random crop and horizontal flip; full: and rotation by up to 15 degrees,
    brightness, contrast and saturation by up to 20 %."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss, however few its photos."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    freeze: str = "none"
    """none; backbone: all but the last layer; or prefixes with commas between, such as
    layer1,layer2. Frozen BatchNorm keeps its statistics."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto is bfloat16 on GPU and TPU, float32 on CPU."""
    seed: int = 0
    """Seed of the head, the split, the order and the augmentation."""
    output: Path = Path("runs")
    """Where the run folder is made: OUTPUT/transfer/N."""
    resume: Path | None = None
    """A run folder to go on with, by its own options, to the same bits."""
    config: Path | None = None
    """A YAML file of options; the command line wins over it."""
    dry_run: bool = False
    """Open the data, build the model, take one step, write nothing."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        limits = {
            "epochs": self.epochs is None or self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "image_size": self.image_size is None or self.image_size >= 16,
            "label_smoothing": 0 <= self.label_smoothing < 1,
            "seed": 0 <= self.seed < 2**32,
        }
        for name, holds in limits.items():
            if not holds:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} cannot be {getattr(self, name)}")


def resolve(config: Config) -> Config:
    """The configuration with every default that depends on data or device spelled out.

    Raises:
      UsageError: an option has a value that does not exist.
    """
    demo = config.data == "demo"
    epochs, image_size = (4, 64) if demo else (10, 224)
    on_cpu = jax.default_backend() == "cpu"
    try:
        name = models.variant(config.backbone).name
    except ValueError as error:
        raise UsageError(f"--backbone: {error}") from error
    return replace(
        config,
        backbone=name,
        epochs=config.epochs or epochs,
        image_size=config.image_size or image_size,
        dtype=("float32" if on_cpu else "bfloat16")
        if config.dtype == "auto"
        else config.dtype,
    )


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the best epoch's validation numbers.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: weights could not be had, or the loss is no longer finite.
      SystemExit: a signal stopped the run, which is saved.
    """
    report = Reporter()
    folder = config.resume
    config = resolve(config)
    if folder is not None:
        _check_resumed(config, folder)
    start = choose_weights(
        config.backbone, config.weights, is_demo=config.data == "demo", report=report
    )
    if config.weights == "auto":
        # What it came to: a resumed run must not look for it anew.
        config = replace(config, weights="imagenet" if start.arrays else "random")
    preprocessing = _scaled(start.preprocessing, config.image_size or 224)
    dataset = _open(config, preprocessing, report)
    model, source = build(
        config.backbone, start, num_classes=len(dataset.classes), seed=config.seed
    )
    report.say(
        f"{config.backbone}: {source}; {dataset.name}: {len(dataset.train)} training "
        f"and {len(dataset.val)} validation photos of {len(dataset.classes)} classes"
    )
    state, plan, predict = make_plan(config, dataset, model, preprocessing)
    if config.dry_run:
        return _dry_run(state, plan, report)
    if folder is None:
        folder = new_folder(config.output, "transfer")
        write_config(folder, to_dict(replace(config, config=None)))
        report.say(f"run folder: {folder}")
    with stop_on_signals() as stop:
        history = fit(state, plan, folder, report=report, stop=stop)
    if len(history) < plan.epochs:
        interrupted(folder, MODULE, stop)
    _, params, stats = functionalize(load_bundle(folder / "model.safetensors").model)
    notes = [start.warning] if start.warning else []
    if dataset.skipped:
        listed = "; ".join(dataset.skipped[:5])
        notes.append(f"{len(dataset.skipped)} unreadable files were left out: {listed}")
    return write_outputs(
        folder,
        title=f"{config.backbone} on {dataset.name}",
        summary={
            "Weights": source,
            "Training photos": str(len(dataset.train)),
            "Epochs": str(plan.epochs),
            "Image size": f"{config.image_size} px",
        },
        history=history,
        split=dataset.val,
        classes=dataset.classes,
        logits=predict(params, stats),
        notes=notes,
        report=report,
    )


def make_plan(
    config: Config, dataset: Dataset, model: nnx.Module, preprocessing: Preprocessing
) -> tuple[train.TrainState, Plan, Callable[[Tree, Tree], Array]]:
    """The first state, what the loop needs, and `predict(params, stats) -> logits`.

    Raises:
      UsageError: the batch does not fit the devices, the data or the model; or a
        prefix no layer.
    """
    mesh = parallel.make_mesh()
    try:
        parallel.check_batch_size(config.batch_size, mesh)
    except ValueError as error:
        raise UsageError(f"--batch-size: {error}") from error
    steps = len(dataset.train) // config.batch_size
    if steps == 0:
        raise UsageError(
            f"--batch-size {config.batch_size} is more than the {len(dataset.train)} "
            f"training photos in {config.data}"
        )
    epochs = config.epochs or 1
    frozen = frozen_prefixes(config.freeze, config.backbone, model)
    apply, params, stats = functionalize(
        model,
        dtype=jnp.bfloat16 if config.dtype == "bfloat16" else None,
        frozen=frozen,
    )
    pipeline = augment.make_pipeline(config.augment, size=preprocessing.crop)

    def prepare(key, images):
        images = to_float(images)
        if key is not None:
            images = pipeline(key, images)
        return normalize(images, mean=preprocessing.mean, std=preprocessing.std)

    schedule = optim.make_schedule(config.optim, steps_per_epoch=steps, epochs=epochs)
    tx = optim.make_optimizer(config.optim, schedule)
    place = partial(jax.device_put, device=parallel.replicated(mesh))
    data = place({"image": dataset.train.images, "label": dataset.train.labels})
    val_images, val_labels = place((dataset.val.images, dataset.val.labels))
    class_weights = None
    if config.class_weights == "balanced":
        class_weights = losses.balanced_weights(
            data["label"], num_classes=len(dataset.classes)
        )
    loss_fn = losses.classification(
        class_weights=class_weights, label_smoothing=config.label_smoothing
    )
    step = train.make_train_step(apply, loss_fn, tx, frozen=frozen)
    forward = train.make_eval_step(
        apply, prepare, batch_size=config.batch_size, mesh=mesh
    )

    def predict(params, stats):
        return forward(params, stats, val_images)

    def evaluate(state):
        logits = predict(state.params, state.stats)
        return {
            "val_loss": float(losses.cross_entropy(logits, val_labels)),
            "val_accuracy": float((logits.argmax(-1) == val_labels).mean()),
        }

    def keep_best(state, folder):
        save_bundle(
            folder / "model.safetensors",
            config.backbone,
            state.params,
            state.stats,
            classes=dataset.classes,
            preprocessing=preprocessing,
        )

    key = place(jax.random.key(config.seed))
    plan = Plan(
        run_steps=train.make_epoch(
            step, prepare, batch_size=config.batch_size, mesh=mesh
        ),
        data=data,
        fingerprint=_fingerprint(dataset),
        metrics=("loss", "accuracy"),
        batch_size=config.batch_size,
        epochs=epochs,
        key=key,
        evaluate=evaluate,
        learning_rate=schedule,
        judged_by="val_accuracy",
        keep_best=keep_best,
    )
    state = place(train.init_state(params, stats, tx, frozen=frozen))
    try:
        plan.run_steps.eval_shape(state, plan.no_sums(), data, plan.order(0), 0, 0, key)
    except ValueError as error:  # images or batches that a layer cannot take
        raise UsageError(
            f"--image-size {config.image_size}, --batch-size {config.batch_size}: "
            f"{error}"
        ) from error
    return state, plan, predict


def frozen_prefixes(freeze: str, name: str, model: nnx.Module) -> tuple[str, ...]:
    """The path prefixes that `--freeze` names.

    Raises:
      UsageError: a prefix fits no layer.
    """
    if freeze == "none":
        return ()
    layers = {leaf.torch_name.rpartition(".")[0] for leaf in leaves(model)}
    if freeze == "backbone":
        return tuple(sorted(layers - {models.variant(name).head}))
    prefixes = tuple(part.strip() for part in freeze.split(","))
    for prefix in prefixes:
        if not prefix or not any(
            has_prefix(tuple(layer.split(".")), (prefix,)) for layer in layers
        ):
            tops = ", ".join(sorted({layer.split(".")[0] for layer in layers}))
            raise UsageError(
                f"--freeze: no layer of {name} lies under {prefix!r}; it has {tops}"
            )
    return prefixes


def _check_resumed(config: Config, folder: Path) -> None:
    """A run goes on with its own options; those given beside `--resume` must agree."""
    given, saved = to_dict(config), to_dict(read_yaml(Config, folder / "config.yaml"))
    for name, value in saved.items():
        if given[name] != value and name not in ("resume", "config", "dry_run"):
            raise UsageError(
                f"--resume goes on with {name} = {value} of {folder / 'config.yaml'}: "
                f"leave out the other value, {given[name]}, or start a new run"
            )


def _fingerprint(dataset: Dataset) -> str:
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for array in (dataset.train.labels, dataset.train.images):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _scaled(preprocessing: Preprocessing, size: int) -> Preprocessing:
    """The same share of the photo at another crop size."""
    resize = round(size * preprocessing.resize / preprocessing.crop)
    return replace(preprocessing, resize=resize, crop=size)


def _open(config: Config, preprocessing: Preprocessing, report: Reporter) -> Dataset:
    title = "reading photos"
    try:
        with report.progress(title) as show:
            return open_dataset(
                config.data,
                # A little larger than the crop, so that random crops differ.
                train_size=round(preprocessing.crop * 256 / 224),
                eval_resize=preprocessing.resize,
                eval_crop=preprocessing.crop,
                seed=config.seed,
                progress=lambda done, total: show(title, done, total, ""),
            )
    except ValueError as error:
        raise UsageError(f"--data: {error}") from error


def _dry_run(state: train.TrainState, plan: Plan, report: Reporter) -> dict[str, float]:
    """One training step and one evaluation, nothing written."""
    state, sums = plan.run_steps(
        state, plan.no_sums(), plan.data, plan.order(0), 0, 1, plan.key
    )
    numbers = {"train_loss": float(sums["loss"]), **plan.evaluate(state)}
    report.say(
        f"dry run: one step of {plan.steps} an epoch, loss "
        f"{numbers['train_loss']:.4f}; nothing was written"
    )
    return numbers


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
