"""When a model does not know: below which probability its answer is `unsure`."""

from experiments.command.options import UsageError
from experiments.inference.portable import Portable

UNSURE = "unsure"
"""The prediction for an image whose most probable class is not probable enough."""


def least_sure(model: Portable, precision: float | None) -> float:
    """The probability below which the model is unsure; 0 without a precision.

    Raises:
      UsageError: its validation images do not tell.
    """
    if precision is None:
        return 0.0
    if model.certainty.label_thresholds:
        raise UsageError(
            "--precision: the model gives a photo several labels, each by a threshold "
            "of its own"
        )
    if UNSURE in model.classes:
        raise UsageError(f"--precision: the model has a class {UNSURE!r} of its own")
    try:
        return model.certainty.threshold(precision)
    except ValueError as error:
        raise UsageError(f"--precision {precision:g}: {error}") from error
