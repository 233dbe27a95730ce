"""The images that a model got wrong, the surest first."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxvision.metrics import FloatVector, IntVector
from jaxvision.typing import Array, UInt8

Photos = UInt8[np.ndarray, "_ h w 3"] | UInt8[Array, "_ h w 3"]


class Mistake(NamedTuple):
    """One wrongly classified image.

    Attributes:
      image: uint8 `(h, w, 3)`.
      label, prediction: class names.
      confidence: the probability of the predicted class, in [0, 1].
      path: where the image came from; empty where that is not known.
    """

    image: np.ndarray
    label: str
    prediction: str
    confidence: float
    path: str


def worst_mistakes(
    images: Photos,
    labels: IntVector,
    predictions: IntVector,
    confidences: FloatVector,
    classes: Sequence[str],
    *,
    paths: Sequence[str] | None = None,
    top: int = 24,
) -> list[Mistake]:
    """The `top` mistakes that were made with the highest confidence, that one first.

    Args:
      images: as the model saw them, before normalisation.
      labels: the true classes, as indices.
      predictions: the predicted classes, likewise.
      confidences: the probability of the predicted class, in [0, 1].
      classes: the class names.
      paths: where the images came from.
      top: how many at most.

    Raises:
      ValueError: not one label, prediction, confidence and path for each image.
    """
    lengths = {
        "labels": len(labels),
        "predictions": len(predictions),
        "confidences": len(confidences),
        "paths": len(images) if paths is None else len(paths),
    }
    for name, length in lengths.items():
        if length != len(images):
            raise ValueError(f"{len(images)} images but {length} {name}")
    truth, guess = np.asarray(labels), np.asarray(predictions)
    certainty = np.asarray(confidences)
    (wrong,) = np.nonzero(truth != guess)
    order = wrong[np.argsort(-certainty[wrong], kind="stable")].tolist()
    return [
        Mistake(
            image=np.asarray(images[i]),
            label=classes[int(truth[i])],
            prediction=classes[int(guess[i])],
            confidence=float(certainty[i]),
            path="" if paths is None else str(paths[i]),
        )
        for i in order[:top]
    ]
