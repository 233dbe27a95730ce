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

STEPS = 100
SMALLEST, LARGEST = 1e-6, 1.0
MEMORY = 0.9
"""Share of the old in the running mean of the loss."""
DIVERGED = 3.0
"""The search ends where the loss is so many times the smallest."""
FEWEST = 10


def ramp(step):
    """The schedule: from `SMALLEST` to `LARGEST` by the same factor each step."""
    return SMALLEST * (LARGEST / SMALLEST) ** (jnp.asarray(step) / (STEPS - 1))


def find_lr(
    training: Training, model: nnx.Module, folder: Path, *, console: Console
) -> dict[str, float]:
    """Trains at ever larger rates and writes `lr.csv` and `lr.png`.

    The rate it suggests is where the loss, averaged over some steps, falls fastest.
    Reference: Smith, 2015, arXiv:1506.01186.

    Args:
      training: by the schedule `ramp`.

    Raises:
      RunError: the loss is not finite before there is anything to see.
    """
    plan, state = training.plan, training.start(model)
    rows, mean = [], 0.0
    title = "ever larger learning rates"
    with console.progress(title) as show:
        for i in range(STEPS):
            epoch, index = divmod(i, plan.steps)
            state, sums = plan.run_steps(
                state,
                plan.no_sums(),
                plan.data,
                plan.order(epoch),
                index,
                index + 1,
                plan.key,
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
    if len(rows) < FEWEST:
        raise RunError(
            f"--find-lr: the loss was no longer finite after {len(rows)} steps, at a "
            f"learning rate of {float(ramp(len(rows))):.1e}: look at the data and the "
            "weights"
        )
    suggested = steepest(
        np.array([row["learning_rate"] for row in rows]),
        np.array([row["average"] for row in rows]),
    )
    write_rows(folder / "lr.csv", rows)
    lr_curve(rows, suggested, folder / "lr.png")
    console.say(f"suggested: --optim.lr {suggested:.1e}; see {folder / 'lr.png'}")
    return {"learning_rate": suggested}


def steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate at which the loss falls fastest, before it is smallest."""
    lowest = max(2, int(losses.argmin()) + 1)
    slope = np.gradient(losses, np.log(rates))[:lowest]
    return float(rates[slope.argmin()])
