"""What trains a classifier: a data set, a model and a recipe become a training."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax

from converters.bundle import load_bundle, save_bundle
from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.command.signals import Stop
from experiments.pages.page import About
from experiments.runs.classifier_outputs import write_outputs
from experiments.runs.folder import Run, skipped_notes
from experiments.training.last_layer import (
    frozen_prefixes,
    is_trained_alone,
    split_last,
)
from experiments.training.loop import fit
from experiments.training.recipe import ClassifierRecipe
from experiments.training.training import (
    Start,
    Task,
    Training,
    count_parameters,
    make_mesh,
    make_trainable,
    make_training,
)
from jaxvision import losses, parallel, train
from jaxvision.augment import mix_transform, photo_transform
from jaxvision.data import Dataset, open_dataset
from jaxvision.evaluation import Evaluation, softmax
from jaxvision.flops import multiply_adds
from jaxvision.functional import functionalize, mirrored
from jaxvision.preprocess import Preprocessing
from jaxvision.typing import Array, LossFn, Transform, Tree


class ClassifierTraining(NamedTuple):
    """What trains a classifier, and what asks it."""

    training: Training
    predict: Callable[[Tree, Tree], Array]
    """`predict(params, stats) -> logits` of the validation images."""

    def seeded(self, seed: int) -> "ClassifierTraining":
        """The same program with the chance of another seed."""
        plan = self.training.plan
        key = jax.device_put(jax.random.key(seed), plan.key.sharding)
        training = self.training._replace(plan=replace(plan, key=key))
        return self._replace(training=training)


def make_classifier(
    dataset: Dataset,
    start: Start,
    recipe: ClassifierRecipe,
    *,
    console: Console,
    schedule: optax.Schedule | None = None,
    keep: str = "val_accuracy",
) -> ClassifierTraining:
    """All that trains a model on `dataset` by a recipe.

    Where nothing but the last layer is trained, and on images that stay the same, what
    the rest of the model makes of them is computed here, once.

    Args:
      dataset: what for.
      start: what.
      recipe: how.
      console: shows the progress of that computation.
      schedule: the learning rate by step, in place of the recipe's own.
      keep: the column whose largest value marks the epoch whose model is kept; `epoch`
        keeps the last.

    Raises:
      UsageError: the batch does not fit the devices, the data or the model.
    """
    mesh = make_mesh(recipe)
    if len(dataset.train) < recipe.batch_size:
        raise UsageError(
            f"--batch-size {recipe.batch_size} is more than the {len(dataset.train)} "
            f"training photos in {dataset.name}"
        )
    place = partial(jax.device_put, device=parallel.replicated(mesh))
    preprocessing = replace(start.preprocessing, mirror=recipe.tta == "mirror")
    frozen = (*start.frozen, *frozen_prefixes(start.name, recipe.freeze))
    size = preprocessing.crop
    network = make_trainable(start.model, recipe, size=size, frozen=frozen)
    photos = photo_transform(recipe.augment, preprocessing)
    transforms: list[Transform] = [photos]
    data: dict[str, Array] = place(
        {"image": dataset.train.images, "label": dataset.train.labels}
    )
    val_images, val_labels = place((dataset.val.images, dataset.val.labels))
    if is_trained_alone(start, network, recipe):
        see, last = split_last(start, network, recipe, photos)
        title = "what the last layer sees"
        with console.counting(f"{title} of the photos") as progress:
            data["image"] = place(see(data["image"], progress))
        with console.counting(f"{title} in validation") as progress:
            val_images = place(see(val_images, progress))
        network, transforms = network._replace(apply=last), []
    ask = mirrored(network.apply) if preprocessing.mirror else network.apply
    forward = train.make_eval_step(
        ask, transforms, batch_size=recipe.batch_size, mesh=mesh
    )
    if recipe.mix != "none":
        classes = len(dataset.classes)
        transforms.append(
            mix_transform(recipe.mix, alpha=recipe.mix_alpha, num_classes=classes)
        )

    def predict(params, stats):
        return forward(params, stats, val_images)

    def evaluate(params, stats):
        logits = predict(params, stats)
        return {
            "val_loss": float(losses.cross_entropy(logits, val_labels)),
            "val_accuracy": float((logits.argmax(-1) == val_labels).mean()),
        }

    def keep_model(params, stats, folder):
        save_bundle(
            folder / "model.safetensors",
            start.name,
            params,
            stats,
            classes=dataset.classes,
            preprocessing=preprocessing,
        )

    task = Task(
        data=data,
        fingerprint=_fingerprint(dataset),
        transforms=transforms,
        loss_fn=_loss(recipe, data["label"], num_classes=len(dataset.classes)),
        metrics=("loss", "accuracy"),
        evaluate=evaluate,
        keep=keep_model,
        judged_by=keep,
    )
    return ClassifierTraining(
        make_training(task, network, recipe, schedule=schedule), predict
    )


def _loss(recipe: ClassifierRecipe, labels: Array, *, num_classes: int) -> LossFn:
    weights = None
    if recipe.class_weights == "balanced":
        weights = losses.balanced_weights(labels, num_classes=num_classes)
    return losses.classification(
        class_weights=weights, label_smoothing=recipe.label_smoothing
    )


def open_data(
    spec: str,
    preprocessing: Preprocessing,
    *,
    train_size: int,
    console: Console,
    where: str = "--data",
) -> Dataset:
    """The data set `spec`, with progress; its split does not hang on the seed.

    Args:
      spec: as for `open_dataset`.
      preprocessing: what the model expects of its images.
      train_size: side of the training squares, in pixels.
      console: shows the progress.
      where: what said so, for the message of an error.

    Raises:
      UsageError: there is none, or it cannot be trained on.
    """
    try:
        with console.counting("reading photos") as progress:
            return open_dataset(
                spec,
                train_size=train_size,
                eval_resize=preprocessing.resize,
                eval_crop=preprocessing.crop,
                progress=progress,
            )
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def run(
    classifier: ClassifierTraining,
    start: Start,
    into: Run,
    *,
    dataset: Dataset,
    about: About,
    console: Console,
    stop: Stop,
) -> dict[str, float] | None:
    """Trains to the last epoch and writes all of the run's folder.

    Args:
      classifier: what trains.
      start: what is trained.
      into: the run.
      dataset: the one that it was made for.
      about: what a page tells of it; its history is that of the training.
      console: is told what goes on.
      stop: ends the training between two steps.

    Returns:
      The numbers of the kept epoch's model, its parameters and how many images judged
      it; None where `stop` ended the training.
    """
    plan = classifier.training.plan
    state = classifier.training.start(start.model)
    history = fit(state, plan, into.path, console=console, stop=stop)
    if not plan.is_done(history):
        return None
    bundle = load_bundle(into.path / "model.safetensors")
    _, params, stats = functionalize(bundle.model)
    logits = classifier.predict(params, stats)
    val, size, classes = dataset.val, bundle.preprocessing.crop, dataset.classes
    # As in the table, from which the report can be built anew.
    probabilities = softmax(logits).astype(np.float32)
    numbers = write_outputs(
        into.path,
        about._replace(
            history=history,
            notes=[*about.notes, *skipped_notes(dataset.skipped, "unreadable files")],
        ),
        dataset,
        Evaluation(val.paths, val.labels, probabilities, classes),
        bundle,
        kept="last epoch" if plan.judged_by == "epoch" else "best epoch",
        console=console,
    )
    cost = multiply_adds(bundle.name, size=size, num_classes=len(classes))
    return numbers | {
        "parameters": count_parameters(start.model),
        "gflop": cost / 1e9,
        "images": len(val),
    }


def _fingerprint(dataset: Dataset) -> str:
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for array in (dataset.train.labels, dataset.train.images):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
