"""The images that a model got wrong, the surest first."""

from typing import NamedTuple

import numpy as np

from jaxvision.data.lazy import LazyImages
from jaxvision.evaluation import Evaluation
from jaxvision.typing import Array, UInt8

Photos = UInt8[np.ndarray, "_ h w 3"] | UInt8[Array, "_ h w 3"] | LazyImages


class Mistake(NamedTuple):
    """One wrongly classified image.

    Attributes:
      image: uint8 `(h, w, 3)`.
      label, prediction: class names.
      confidence: the probability of the predicted class, in [0, 1].
      path: where the image came from.
    """

    image: np.ndarray
    label: str
    prediction: str
    confidence: float
    path: str


def worst_mistakes(
    images: Photos, evaluation: Evaluation, *, top: int = 24
) -> list[Mistake]:
    """The `top` mistakes that were made with the highest confidence, that one first.

    Args:
      images: as the model saw them, before normalisation.
      evaluation: what it said of them.
      top: how many at most.

    Raises:
      ValueError: not one answer for each image.
    """
    if len(images) != len(evaluation):
        raise ValueError(f"{len(images)} images but {len(evaluation)} answers")
    truth, guess = evaluation.labels, evaluation.predictions
    certainty = evaluation.confidences
    (wrong,) = np.nonzero(truth != guess)
    order = wrong[np.argsort(-certainty[wrong], kind="stable")].tolist()
    return [
        Mistake(
            image=np.asarray(images[i]),
            label=evaluation.classes[int(truth[i])],
            prediction=evaluation.classes[int(guess[i])],
            confidence=float(certainty[i]),
            path=evaluation.paths[i],
        )
        for i in order[:top]
    ]
