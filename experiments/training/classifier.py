"""What trains a classifier: a data set, a model and a recipe become a training."""

import hashlib
import math
import operator
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from converters.bundle import load_bundle, save_bundle
from converters.to_torch import to_state_dict
from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.command.signals import Stop
from experiments.pages.page import About
from experiments.runs.folder import Run, data_notes, write_skipped
from experiments.training.answers import Answers, answers_of, check_recipe, mixing
from experiments.training.data import fingerprint, read_so_far
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
    make_layout,
    make_mesh,
    make_trainable,
    make_training,
)
from jaxvision import models, parallel, processes, stream, train
from jaxvision.augment import photo_transform
from jaxvision.data import Dataset
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


class Said(NamedTuple):
    """What a classifier says of the validation images that can be read."""

    logits: Array
    places: np.ndarray
    """Which of the images these are; all of them, where they are no stream."""


Predict = Callable[[Tree, Tree], Said]


class ClassifierTraining(NamedTuple):
    """What trains a classifier, and what asks it."""

    training: Training
    predict: Predict
    """`predict(params, stats)` of the validation images."""

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
    photos = photo_transform(recipe.augment, preprocessing)
    inputs = _inputs(dataset, trained, photos)
    options = {
        "model": start.name,
        "preprocessing": asdict(preprocessing),
        "dropout": _dropout(start.model),
    }
    if is_trained_alone(start, trained, recipe):
        options["frozen weights"] = _digest_before_head(start)
        inputs = _before_last_layer(inputs, start, recipe, console=console)
    # A new best epoch has been asked already when it is kept.
    predict = _remembered(_make_predict(inputs, recipe))

    classes = len(dataset.classes)
    task = Task(
        data={"image": inputs.train, "label": inputs.train_labels},
        fingerprint=fingerprint(dataset.train, dataset.classes),
        judged=fingerprint(dataset.val, dataset.classes),
        transforms=[*inputs.transforms, *mixing(recipe, num_classes=classes)],
        loss_fn=answers.loss(recipe, dataset.train.labels, num_classes=classes),
        metrics=answers.metrics,
        evaluate=_make_evaluate(dataset.val.labels, answers, predict, recipe),
        keep=_keeper(start.name, dataset, preprocessing, predict),
        judged_by=keep or answers.judged_by,
        is_streamed=inputs.is_streamed,
        draw=balanced_order(inputs.train_labels)
        if recipe.sampler == "balanced"
        else None,
        options=options,
    )
    training = make_training(task, inputs.trained, recipe, schedule=schedule)
    return ClassifierTraining(training, predict)


def _make_evaluate(
    labels: np.ndarray,
    answers: Answers,
    predict: Predict,
    recipe: ClassifierRecipe,
) -> Callable[[Tree, Tree], dict[str, float]]:
    """The numbers by which an epoch is judged."""
    whole = parallel.replicated(make_mesh(recipe))

    def evaluate(params: Tree, stats: Tree) -> dict[str, float]:
        logits, places = predict(params, stats)
        truth = parallel.place(labels[places], whole)
        return answers.judge(logits, truth)

    return evaluate


class _Inputs(NamedTuple):
    """What of the images is trained on and judged by, and what stands before a step."""

    train: Any
    train_labels: np.ndarray
    val: Any
    val_places: np.ndarray  # of what is judged by, among the validation images
    trained: Trainable
    transforms: list[Transform]
    is_streamed: bool


def _inputs(dataset: Dataset, trained: Trainable, photos: Transform) -> _Inputs:
    train, val = dataset.train, dataset.val
    return _Inputs(
        train.images,
        train.labels,
        val.images,
        np.arange(len(val)),
        trained,
        [photos],
        dataset.is_streamed,
    )


def _before_last_layer(
    inputs: _Inputs, start: Start, recipe: ClassifierRecipe, *, console: Console
) -> _Inputs:
    """What the last layer sees, in place of the images; they never change."""
    (photos,) = inputs.transforms
    see, last = split_last(start, inputs.trained, recipe, photos)
    title = "what the last layer sees"
    with console.counting(f"{title} of the photos") as progress:
        train_inputs, seen = see(inputs.train, progress)
    with console.counting(f"{title} in validation") as progress:
        val_inputs, judged = see(inputs.val, progress)
    return _Inputs(
        train_inputs,
        inputs.train_labels[seen],
        val_inputs,
        judged,
        inputs.trained._replace(apply=last),
        [],
        is_streamed=False,
    )


def _make_predict(inputs: _Inputs, recipe: ClassifierRecipe) -> Predict:
    """Answers, of several views where the recipe says so."""
    layout, batch_size = make_layout(recipe), recipe.batch_size
    mesh = layout.mesh
    whole = parallel.replicated(mesh)
    apply = layout.gathered(inputs.trained.apply)
    if views := VIEWS[recipe.tta]:
        apply = mirrored(apply, shift=views.get("shift", 0))
    if recipe.tta == "six":  # they would take six times a training batch's memory
        batch_size = mesh.size * math.ceil(batch_size / 6 / mesh.size)
    step = train.make_eval_step(
        apply, inputs.transforms, batch_size=batch_size, mesh=mesh
    )
    images = inputs.val if inputs.is_streamed else parallel.place(inputs.val, whole)

    def predict(params: Tree, stats: Tree) -> Said:
        params, stats = layout.place((params, stats))
        if not inputs.is_streamed:
            return Said(step(params, stats, images), inputs.val_places)
        logits, there = stream.outputs(
            step, params, stats, images, batch_size=batch_size, mesh=mesh
        )
        return Said(logits, inputs.val_places[there])

    return predict


def _remembered(predict: Predict) -> Predict:
    """`predict`, which does not compute anew what it was asked last."""
    last: dict[str, Any] = {"asked": None}

    def remembered(params: Tree, stats: Tree) -> Said:
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
        logits, places = predict(params, stats)
        certainty = answers_of(dataset).certainty(dataset.val.labels[places], logits)
        params, stats = parallel.on_host((params, stats))
        if not processes.is_first():
            return
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
    if not dataset.is_streamed:
        write_skipped(into.path, dataset, console)
    state = classifier.training.start(start.model)
    history = fit(state, plan, into.path, console=console, stop=stop)
    if not plan.is_done(history):
        return None
    bundle = load_bundle(into.path / "model.safetensors")
    _, params, stats = functionalize(bundle.model)
    logits, places = classifier.predict(params, stats)
    dataset = read_so_far(dataset, places)
    if dataset.skipped:
        write_skipped(into.path, dataset, console)
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
