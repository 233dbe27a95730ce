"""What trains a classifier: a data set, a model and a recipe become a training."""

import hashlib
import math
import operator
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from converters.bundle import load_bundle, save_bundle
from converters.to_torch import to_state_dict
from experiments.command.console import Console
from experiments.command.options import UsageError, check_alike
from experiments.command.signals import Stop
from experiments.pages.page import About
from experiments.runs.folder import Run, data_notes, say_data, write_skipped
from experiments.training.answers import answers_of, check_recipe, mixing
from experiments.training.data import fetch_data
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
    Trainable,
    Training,
    count_parameters,
    make_mesh,
    make_trainable,
    make_training,
)
from jaxvision import models, parallel, processes, train
from jaxvision.augment import photo_transform
from jaxvision.data import Dataset, Split, open_dataset
from jaxvision.flops import multiply_adds
from jaxvision.functional import functionalize, mirrored, modules
from jaxvision.preprocess import Preprocessing
from jaxvision.sampling import balanced_order
from jaxvision.typing import Array, Transform, Tree

VIEWS: dict[str, dict[str, Any]] = {
    "none": {},
    "mirror": {"mirror": True},
    "six": {"mirror": True, "shift": 1},
}
"""What `--tta` makes of the preprocessing."""

Predict = Callable[[Tree, Tree], Array]


class ClassifierTraining(NamedTuple):
    """What trains a classifier, and what asks it."""

    training: Training
    predict: Predict
    """`predict(params, stats) -> logits` of the validation images."""

    def seeded(self, seed: int) -> "ClassifierTraining":
        """The same program with the chance of another seed."""
        plan = self.training.plan
        key = parallel.place(jax.random.key(seed), plan.key.sharding)
        plan = replace(plan, key=key, options={**plan.options, "seed": seed})
        training = self.training._replace(plan=plan)
        return self._replace(training=training)


def make_classifier(
    dataset: Dataset,
    start: Start,
    recipe: ClassifierRecipe,
    *,
    console: Console,
    schedule: optax.Schedule | None = None,
    keep: str | None = None,
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
        keeps the last. By default accuracy, of several labels average precision.

    Raises:
      UsageError: the batch does not fit the devices, the data or the model.
    """
    if len(dataset.train) < recipe.batch_size:
        raise UsageError(
            f"--batch-size {recipe.batch_size} is more than the {len(dataset.train)} "
            f"training photos in {dataset.name}"
        )
    answers = answers_of(dataset)
    check_recipe(recipe, dataset)
    preprocessing = replace(start.preprocessing, **VIEWS[recipe.tta])
    frozen = (*start.frozen, *frozen_prefixes(start.name, recipe.freeze))
    trained = make_trainable(
        start.model, recipe, size=preprocessing.crop, frozen=frozen
    )._replace(brief=start.brief)
    inputs = _Inputs(
        dataset.train.images,
        dataset.val.images,
        trained,
        [photo_transform(recipe.augment, preprocessing)],
    )
    options = {
        "model": start.name,
        "preprocessing": asdict(preprocessing),
        "dropout": _dropout(start.model),
    }
    if is_trained_alone(start, trained, recipe):
        options["frozen weights"] = _digest_before_head(start)
        inputs = _before_last_layer(inputs, start, recipe, console=console)
    place = partial(parallel.place, sharding=parallel.replicated(make_mesh(recipe)))
    val_images, val_labels = place((inputs.val, dataset.val.labels))
    forward = _make_forward(inputs, recipe)
    # A new best epoch has been asked already when it is kept.
    predict = _remembered(lambda params, stats: forward(params, stats, val_images))

    classes = len(dataset.classes)
    task = Task(
        data={"image": inputs.train, "label": dataset.train.labels},
        fingerprint=_fingerprint(dataset.train, dataset.classes),
        judged=_fingerprint(dataset.val, dataset.classes),
        transforms=[*inputs.transforms, *mixing(recipe, num_classes=classes)],
        loss_fn=answers.loss(recipe, dataset.train.labels, num_classes=classes),
        metrics=answers.metrics,
        evaluate=lambda *arrays: answers.judge(predict(*arrays), val_labels),
        keep=_keeper(start.name, dataset, preprocessing, predict),
        judged_by=keep or answers.judged_by,
        draw=balanced_order(dataset.train.labels)
        if recipe.sampler == "balanced"
        else None,
        options=options,
    )
    training = make_training(task, inputs.trained, recipe, schedule=schedule)
    return ClassifierTraining(training, predict)


class _Inputs(NamedTuple):
    """What of the images is trained on and judged by, and what stands before a step."""

    train: Any
    val: Any
    trained: Trainable
    transforms: list[Transform]


def _before_last_layer(
    inputs: _Inputs, start: Start, recipe: ClassifierRecipe, *, console: Console
) -> _Inputs:
    """What the last layer sees, in place of the images; they never change."""
    (photos,) = inputs.transforms
    see, last = split_last(start, inputs.trained, recipe, photos)
    title = "what the last layer sees"
    with console.counting(f"{title} of the photos") as progress:
        train_inputs = see(inputs.train, progress)
    with console.counting(f"{title} in validation") as progress:
        val_inputs = see(inputs.val, progress)
    return _Inputs(train_inputs, val_inputs, inputs.trained._replace(apply=last), [])


def _make_forward(inputs: _Inputs, recipe: ClassifierRecipe) -> Callable[..., Array]:
    """`forward(params, stats, images) -> logits`, of several views where it says so."""
    apply, batch_size = inputs.trained.apply, recipe.batch_size
    mesh = make_mesh(recipe)
    if views := VIEWS[recipe.tta]:
        apply = mirrored(apply, shift=views.get("shift", 0))
    if recipe.tta == "six":  # they would take six times a training batch's memory
        batch_size = mesh.size * math.ceil(batch_size / 6 / mesh.size)
    step = train.make_eval_step(
        apply, inputs.transforms, batch_size=batch_size, mesh=mesh
    )

    def forward(params: Tree, stats: Tree, images: Array) -> Array:
        params, stats = parallel.place((params, stats), parallel.replicated(mesh))
        return step(params, stats, images)

    return forward


def _remembered(predict: Predict) -> Predict:
    """`predict`, which does not compute anew what it was asked last."""
    last: dict[str, Any] = {"asked": None}

    def remembered(params: Tree, stats: Tree) -> Array:
        asked = jax.tree.leaves((params, stats))
        if last["asked"] is None or any(map(operator.is_not, asked, last["asked"])):
            last.update(asked=asked, said=predict(params, stats))
        return last["said"]

    return remembered


def _keeper(
    name: str, dataset: Dataset, preprocessing: Preprocessing, predict: Predict
) -> Callable[[Tree, Tree, Path], None]:
    """Writes a model, with what its answers for the validation images are worth."""

    def keep(params: Tree, stats: Tree, folder: Path) -> None:
        logits = predict(params, stats)
        certainty = answers_of(dataset).certainty(dataset.val.labels, logits)
        if not processes.is_first():
            return
        params, stats = jax.device_get((params, stats))
        save_bundle(
            folder / "model.safetensors",
            name,
            params,
            stats,
            classes=dataset.classes,
            preprocessing=preprocessing,
            certainty=certainty,
        )

    return keep


def open_data(
    spec: str,
    preprocessing: Preprocessing,
    *,
    train_size: int,
    console: Console,
    fold: tuple[int, int] | None = None,
    where: str = "--data",
) -> Dataset:
    """The data set `spec`, with progress; its split does not hang on the seed.

    What was taken as what, and left out, is said; all processes have the same.

    Args:
      spec: as for `open_dataset`.
      preprocessing: what the model expects of its images.
      train_size: side of the training squares, in pixels.
      console: shows the progress.
      fold: as for `open_dataset`.
      where: what said so, for the message of an error.

    Raises:
      UsageError: there is none, or it cannot be trained on.
      RunError: it could not be fetched.
    """
    fetch_data(spec, console=console, where=where)
    try:
        with console.counting("reading photos") as progress:
            dataset = open_dataset(
                spec,
                train_size=train_size,
                eval_resize=preprocessing.resize,
                eval_crop=preprocessing.crop,
                fit=preprocessing.fit,
                fold=fold,
                progress=progress,
            )
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    say_data(dataset, console)
    check_alike(
        lambda: {
            "training photos": _fingerprint(dataset.train, dataset.classes),
            "validation photos": _fingerprint(dataset.val, dataset.classes),
        }
    )
    return dataset


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
    write_skipped(into.path, dataset, console)
    state = classifier.training.start(start.model)
    history = fit(state, plan, into.path, console=console, stop=stop)
    if not plan.is_done(history):
        return None
    bundle = load_bundle(into.path / "model.safetensors")
    _, params, stats = functionalize(bundle.model)
    logits = classifier.predict(params, stats)
    answers = answers_of(dataset)
    evaluation = answers.evaluation(dataset, logits, bundle)
    notes = [*about.notes, *data_notes(dataset)]
    said = history[plan.best(history) - 1][answers.judged_by]
    score = answers.score(evaluation)
    if abs(said - score) > 1e-6:
        what = answers.judged_by.removeprefix("val_").replace("_", " ")
        notes.append(
            f"model.safetensors has the {what} {score:.2%}, and the epoch that it is "
            f"of had {said:.2%} when it ended: it is not that model"
        )
    numbers = processes.from_first(
        lambda: answers.write(
            into.path,
            about._replace(history=history, notes=notes),
            dataset,
            evaluation,
            bundle,
            kept="last epoch" if plan.judged_by == "epoch" else "best epoch",
            console=console,
        )
    )
    size, classes = bundle.preprocessing.crop, dataset.classes
    cost = multiply_adds(bundle.name, size=size, num_classes=len(classes))
    return numbers | {
        "parameters": count_parameters(start.model),
        "gflop": cost / 1e9,
        "images": len(dataset.val),
    }


def _fingerprint(split: Split, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr(classes).encode(errors="surrogateescape"))
    for array in (split.labels, split.images):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _dropout(model: nnx.Module) -> list[float]:
    """The rates of its dropout layers."""
    return [m.rate for _, m in modules(model) if isinstance(m, nnx.Dropout)]


def _digest_before_head(start: Start) -> str:
    """Of the weights that are not trained where the last layer alone is."""
    digest = hashlib.sha256()
    head = models.variant(start.name).head
    tensors = to_state_dict(start.model, *functionalize(start.model)[1:])
    for name, array in sorted(tensors.items()):
        if not name.startswith(f"{head}."):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
