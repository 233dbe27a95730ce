"""The learning-rate range test: which `--optim.lr` to begin with."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.command.console import Console
from experiments.command.options import RunError
from experiments.pages.lr_curve import lr_curve
from experiments.runs.folder import write_rows
from experiments.training.training import Training
from jaxvision import processes

STEPS = 100
SMALLEST, LARGEST = 1e-6, 1.0
MEMORY = 0.9
"""Share of the old in the running mean of the loss."""
DIVERGED = 3.0
"""The search ends where the loss is so many times the smallest."""
FEWEST = 10
SKIPPED = 5
"""First steps that say nothing: batches differ more than such rates can change."""
BEFORE = 20
"""Steps whose mean is the loss before any rate was large enough to matter."""
WIDTH = 5.0
"""Steps of one standard deviation, over which the loss is smoothed to be judged."""
NOISE = 1.5
"""Standard deviations of these by which the loss has to fall."""
FALLEN = 0.6
"""Share of the way down at which the loss falls fastest: it levels off soon after."""
LEAST = 0.01
"""Share of the loss that it must lose at least, or nothing was learned."""


def ramp(step):
    """The schedule: from `SMALLEST` to `LARGEST` by the same factor each step."""
    return SMALLEST * (LARGEST / SMALLEST) ** (jnp.asarray(step) / (STEPS - 1))


def find_lr(
    training: Training, model: nnx.Module, folder: Path, *, console: Console
) -> dict[str, float]:
    """Trains at ever larger rates and writes `lr.csv` and `lr.png`.

    The rate it suggests is where the loss falls fastest, averaged over some steps;
    where it falls by no more than it differs from batch to batch, it suggests none.
    Reference: Smith, 2015, arXiv:1506.01186.

    Args:
      training: by the schedule `ramp`.

    Returns:
      `learning_rate`, where there is one to suggest.

    Raises:
      RunError: the loss is not finite before there is anything to see.
    """
    plan, state = training.plan, training.start(model)
    rows, mean = [], 0.0
    title = "ever larger learning rates"
    with console.progress(title) as show:
        for i in range(STEPS):
            epoch, index = divmod(i, plan.steps)
            state, sums = plan.run(
                state, plan.no_sums(), epoch=epoch, start=index, stop=index + 1
            )
            loss = float(sums["loss"])
            mean = MEMORY * mean + (1 - MEMORY) * loss
            average = mean / (1 - MEMORY ** (i + 1))
            best = min((row["average"] for row in rows), default=math.inf)
            if not math.isfinite(loss) or average > DIVERGED * best:
                break
            rate = float(ramp(i))
            rows.append({"learning_rate": rate, "loss": loss, "average": average})
            show(title, i + 1, STEPS, f"{rate:.1e}: loss {average:.3g}")
    plan.close()
    if len(rows) < FEWEST:
        raise RunError(
            f"--find-lr: the loss was no longer finite after {len(rows)} steps, at a "
            f"learning rate of {float(ramp(len(rows))):.1e}: look at the data and the "
            "weights"
        )
    suggested = steepest(
        np.array([row["learning_rate"] for row in rows]),
        np.array([row["loss"] for row in rows]),
    )
    if processes.is_first():
        write_rows(folder / "lr.csv", rows)
        lr_curve(rows, suggested, folder / "lr.png")
    if suggested is None:
        console.say(
            "no learning rate to suggest: over so few steps the loss falls by no more "
            f"than it differs from batch to batch; see {folder / 'lr.png'}. Try a "
            "larger --batch-size",
            style="bold yellow",
        )
        return {}
    console.say(f"suggested: --optim.lr {suggested:.1e}; see {folder / 'lr.png'}")
    return {"learning_rate": suggested}


def steepest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate at which the loss falls fastest on its way to the smallest.

    That is `FALLEN` of the way from the mean of the first steps to the smallest value
    of the smoothed loss. The largest slope itself hangs on a few batches.

    Args:
      rates: from step to step larger by the same factor.
      losses: of each step.

    Returns:
      None where the loss does not fall by more than it differs from step to step.
    """
    rates, losses = rates[SKIPPED:], losses[SKIPPED:]
    before = losses[: min(BEFORE, len(losses) // 2)]
    # An explosion is no part of the way down, and must not be smeared over it.
    curve = smooth(np.minimum(losses, before.max()))
    top, lowest = before.mean(), int(curve.argmin())
    fall = top - curve[lowest]
    if not fall > max(NOISE * before.std(), LEAST * abs(top)):
        return None
    above = np.flatnonzero(curve[:lowest] > top - FALLEN * fall)
    return float(rates[above[-1] if len(above) else 0])


def smooth(losses: np.ndarray) -> np.ndarray:
    """Each loss averaged with its neighbours, by a normal distribution of `WIDTH`."""
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None]) / WIDTH) ** 2)
    return weights @ losses / weights.sum(1)
