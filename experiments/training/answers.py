"""What a classifier answers, one class or any labels: what hangs on that, as a row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from converters.bundle import Bundle
from experiments.command.options import UsageError
from experiments.runs.classifier_outputs import write_outputs
from experiments.runs.multilabel_outputs import write_multilabel_outputs
from experiments.training.recipe import ClassifierRecipe
from jaxvision import losses, multilabel
from jaxvision.augment import mix_transform
from jaxvision.calibration import Certainty, fit_certainty
from jaxvision.data import Dataset
from jaxvision.evaluation import Evaluation, softmax
from jaxvision.multilabel import MultilabelEvaluation, best_thresholds, sigmoid
from jaxvision.typing import Array, LossFn, Transform


class Answers(NamedTuple):
    """What hangs on whether a photo has one class or any number of labels.

    Attributes:
      loss: `loss(recipe, labels, num_classes=...)`, of the training labels.
      metrics: what that reports.
      judge: the validation numbers, `val_...`, of logits and labels.
      judged_by: which of these marks the best epoch.
      certainty: what the validation images tell of logits.
      evaluation: what there is to say of the validation images by their logits.
      score: that of `judged_by`, of an evaluation.
      write: writes a run's outputs; see `classifier_outputs.write_outputs`.
    """

    loss: Callable[..., LossFn]
    metrics: tuple[str, ...]
    judge: Callable[[Array, Array], dict[str, float]]
    judged_by: str
    certainty: Callable[[np.ndarray, Array], Certainty]
    evaluation: Callable[[Dataset, Array, Bundle], Any]
    score: Callable[[Any], float]
    write: Callable[..., dict[str, float]]


def answers_of(dataset: Dataset) -> Answers:
    """The row of a data set."""
    return SEVERAL_LABELS if dataset.train.is_multilabel else ONE_CLASS


def check_balance(recipe: ClassifierRecipe) -> None:
    """Raises UsageError where classes would be balanced twice."""
    if recipe.sampler == recipe.class_weights == "balanced":
        raise UsageError(
            "--sampler balanced and --class-weights balanced: rare classes would count "
            "twice; give one of the two"
        )


def check_recipe(recipe: ClassifierRecipe, dataset: Dataset) -> None:
    """Raises UsageError for options that have no meaning for the data."""
    check_balance(recipe)
    for name, why in (("tta", "its answers"), ("sampler", "its draws")):
        value = getattr(recipe, name)
        if dataset.train.is_multilabel and value != "none":
            raise UsageError(
                f"--{name} {value}: {why} are of one class a photo, and those of "
                f"{dataset.name} have several labels; give --{name} none"
            )


def check_alone(dataset: Dataset, runs: int) -> None:
    """Raises UsageError for several runs where they cannot be compared."""
    if dataset.train.is_multilabel and runs > 1:
        raise UsageError(
            f"{runs} runs: they are compared by their accuracy, and the photos of "
            f"{dataset.name} have several labels: give one value of each option, no "
            "--repeats, and of --folds one --fold"
        )


def mixing(recipe: ClassifierRecipe, *, num_classes: int) -> list[Transform]:
    """What mixes the images of a batch, if anything does."""
    if recipe.mix == "none":
        return []
    alpha = recipe.mix_alpha
    return [mix_transform(recipe.mix, alpha=alpha, num_classes=num_classes)]


def _loss(recipe: ClassifierRecipe, labels: np.ndarray, *, num_classes: int) -> LossFn:
    weights = None
    if recipe.class_weights == "balanced":
        weights = losses.balanced_weights(jnp.asarray(labels), num_classes=num_classes)
    return losses.classification(
        class_weights=weights, label_smoothing=recipe.label_smoothing
    )


def _multilabel_loss(
    recipe: ClassifierRecipe, labels: np.ndarray, *, num_classes: int
) -> LossFn:
    weights = None
    if recipe.class_weights == "balanced":
        weights = losses.positive_weights(jnp.asarray(labels))
    return losses.multilabel_classification(
        positive_weights=weights, label_smoothing=recipe.label_smoothing
    )


def _judge(logits: Array, labels: Array) -> dict[str, float]:
    return {
        "val_loss": float(losses.cross_entropy(logits, labels)),
        "val_accuracy": float((logits.argmax(-1) == labels).mean()),
    }


def _multilabel_judge(logits: Array, labels: Array) -> dict[str, float]:
    found = multilabel.mean_average_precision(np.asarray(labels), _shares(logits))
    return {
        "val_loss": float(losses.binary_cross_entropy(logits, labels)),
        "val_mean_average_precision": found,
    }


def _evaluation(dataset: Dataset, logits: Array, bundle: Bundle) -> Evaluation:
    val = dataset.val
    # As in the table, from which the report can be built anew.
    probabilities = softmax(logits).astype(np.float32)
    return Evaluation(tuple(val.paths), val.labels, probabilities, dataset.classes)


def _multilabel_evaluation(
    dataset: Dataset, logits: Array, bundle: Bundle
) -> MultilabelEvaluation:
    val, limits = dataset.val, bundle.certainty.label_thresholds
    return MultilabelEvaluation(
        tuple(val.paths), val.labels, _shares(logits), dataset.classes, limits
    )


def _shares(logits: Array) -> np.ndarray:
    """The probabilities of labels as the table holds them, float32."""
    return sigmoid(logits).astype(np.float32)


ONE_CLASS = Answers(
    loss=_loss,
    metrics=("loss", "accuracy"),
    judge=_judge,
    judged_by="val_accuracy",
    certainty=lambda labels, logits: fit_certainty(
        labels, softmax(logits).astype(np.float32)
    ),
    evaluation=_evaluation,
    score=lambda evaluation: evaluation.accuracy,
    write=write_outputs,
)
SEVERAL_LABELS = Answers(
    loss=_multilabel_loss,
    metrics=("loss",),
    judge=_multilabel_judge,
    judged_by="val_mean_average_precision",
    certainty=lambda labels, logits: Certainty(
        label_thresholds=best_thresholds(labels, _shares(logits))
    ),
    evaluation=_multilabel_evaluation,
    score=lambda evaluation: evaluation.mean_average_precision,
    write=write_multilabel_outputs,
)
