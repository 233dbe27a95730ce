"""What a classifier said of images whose classes are known: one value, built once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxvision import metrics
from jaxvision.metrics import ConfusedPair, Matrix
from jaxvision.typing import AnyArray, Float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A classifier's answers for images of known classes, and what follows from them.

    Attributes:
      paths: where each image came from.
      labels: the true classes, int32 `(n,)`, indices into `classes`.
      probabilities: `(n, classes)`, rows that sum to one; float32, or after a
        temperature float64.
      classes: the class names, in the model's order.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def predictions(self) -> np.ndarray:
        """The most probable classes, `(n,)`; of equal ones the first."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confidences(self) -> np.ndarray:
        """The probabilities of the predictions, float32 `(n,)`."""
        return self.probabilities.max(axis=1, initial=0)

    @cached_property
    def matrix(self) -> Matrix:
        """The confusion matrix; see `metrics.confusion_matrix`."""
        return metrics.confusion_matrix(
            self.labels, self.predictions, len(self.classes)
        )

    @cached_property
    def pairs(self) -> list[ConfusedPair]:
        """Every kind of mistake, most frequent first; see `metrics.confused_pairs`."""
        return metrics.confused_pairs(self.matrix, self.classes)

    @cached_property
    def accuracy(self) -> float:
        """The share of images whose class was predicted, in [0, 1].

        Raises:
          ValueError: there is no image.
        """
        return metrics.accuracy(self.matrix)

    @cached_property
    def macro_f1(self) -> float:
        """The mean F1 over the classes, in [0, 1]; see `metrics.macro_f1`.

        Raises:
          ValueError: there is no image.
        """
        return metrics.macro_f1(self.matrix)


def softmax(logits: Float[AnyArray, "n classes"]):
    """Probabilities, float64 `(n, classes)` on the host, of unnormalised logits."""
    scores = np.asarray(logits, np.float64)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return shares / shares.sum(axis=1, keepdims=True)
