"""The one epoch loop: compiled stretches of steps, with a look at the clock between."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import RunError, UsageError
from experiments.run import Reporter, Stop, write_rows
from jaxvision import checkpoint
from jaxvision.train import TrainState

STRETCH_SECONDS = 5.0
"""How long the device works before the host looks at signals, NaN and the bar.

On a CPU each call maps gigabytes of temporaries anew, half a second for a MobileNet at
224 pixels: a shorter stretch would cost more than it shows."""

History = list[dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """What a training is made of, besides its state."""

    run_steps: Callable
    """As `jaxvision.train.make_epoch` gives it."""
    data: dict[str, jax.Array]
    """The training set on the device: arrays of one length, `image` among them."""
    fingerprint: str
    """A digest of the training set, the same for the same photos and classes."""
    metrics: tuple[str, ...]
    """What the loss function reports; `loss` among them."""
    batch_size: int
    epochs: int
    key: jax.Array
    """All randomness of the run comes from it and the numbers of epoch and step."""
    evaluate: Callable[[TrainState], dict[str, float]]
    """The validation numbers, `val_...`, of a state."""
    learning_rate: Callable[[int], Any]
    """The schedule, by step."""
    judged_by: str
    """The column whose largest value marks the epoch to keep; `epoch` is the last."""
    keep_best: Callable[[TrainState, Path], None]
    """Called with a new best epoch's state and the folder, before its checkpoint."""
    repeat: int = 1
    """How often an epoch shows each image, where a random crop of it is another one."""
    patience: int = 0
    """Epochs without a better one before the training ends early; 0: it never does."""

    @property
    def steps(self) -> int:
        """Steps an epoch; images that do not fill a batch wait for another epoch."""
        return self.repeat * len(self.data["image"]) // self.batch_size

    def order(self, epoch: int) -> jax.Array:
        """The order of the images in an epoch, counted from zero."""
        key = jax.random.fold_in(self.key, epoch)
        count = len(self.data["image"])
        return jax.random.permutation(key, self.repeat * count) % count

    def is_done(self, history: History) -> bool:
        """Whether no further epoch is due."""
        judged = [row[self.judged_by] for row in history]
        waited = len(judged) - 1 - judged.index(max(judged)) if judged else 0
        return len(history) >= self.epochs or 0 < self.patience <= waited

    def no_sums(self) -> dict[str, jax.Array]:
        """The sums of the metrics before an epoch's first step."""
        zeros = {name: np.zeros((), np.float32) for name in self.metrics}
        return jax.device_put(zeros, self.data["image"].sharding)


def fit(
    state: TrainState, plan: Plan, folder: Path, *, report: Reporter, stop: Stop
) -> History:
    """Trains from `folder`'s newest checkpoint, or from `state`, to the last epoch.

    Writes `checkpoints/` and `metrics.csv` below `folder`. Returns the history, a row
    an epoch, also where `stop` ended the run: then `plan.is_done` denies it.

    Raises:
      RunError: the loss or the weights are no longer finite; the last good checkpoint,
        which is that of the epoch before, stays.
      UsageError: the checkpoint is of other training data.
    """
    sums = plan.no_sums()
    abstract = jax.tree.map(_like, {"state": state, "sums": sums})
    checkpoints = folder / "checkpoints"
    restored = checkpoint.restore(checkpoints, abstract)
    history: History = []
    epoch, start, seconds = 0, 0, 0.0
    if restored is not None:
        for fault in restored.skipped:
            report.say(f"passed over a damaged checkpoint: {fault}", style="yellow")
        state, sums = restored.tree["state"], restored.tree["sums"]
        history = restored.metadata["history"]
        epoch, start = restored.metadata["epoch"], restored.metadata["start"]
        seconds = restored.metadata["seconds"]
        if restored.metadata["data"] != plan.fingerprint:
            raise UsageError(
                f"the training photos are not those that the run in {folder} began "
                "with: give it the same --data, or start a new run"
            )
        if not plan.is_done(history):
            report.say(
                f"resumed at epoch {epoch + 1}, step {start + 1} of {plan.steps}"
            )

    images = plan.steps * plan.batch_size
    saved = (epoch, start)
    with (
        checkpoint.Saver(checkpoints) as saver,
        report.progress("compiling") as show,
    ):

        def require(healthy: Any, step: int) -> None:
            if not healthy:
                saver.wait()
                raise RunError(_diverged(checkpoints, epoch, step))

        def save() -> None:
            nonlocal saved
            saver.save(
                epoch * (plan.steps + 1) + start,
                {"state": state, "sums": sums},
                metadata={
                    "history": history,
                    "epoch": epoch,
                    "start": start,
                    "seconds": seconds,
                    "data": plan.fingerprint,
                },
            )
            saved = (epoch, start)

        if not plan.is_done(history):
            show("compiling", 0, plan.epochs * images, "")
            begun = time.perf_counter()
            # No step is taken, so that the first epoch's time is that of its steps.
            state, sums = plan.run_steps(
                state, sums, plan.data, plan.order(epoch), 0, 0, plan.key
            )
            jax.block_until_ready(sums)
            report.say(f"compiled in {time.perf_counter() - begun:.1f} s")

        while not plan.is_done(history) and not stop:
            title = f"epoch {epoch + 1}/{plan.epochs}"
            order = plan.order(epoch)
            stretch = 1
            while start < plan.steps and not stop:
                end = min(plan.steps, start + stretch)
                begun = time.perf_counter()
                state, sums = plan.run_steps(
                    state, sums, plan.data, order, start, end, plan.key
                )
                means = {name: float(value) / end for name, value in sums.items()}
                require(all(map(math.isfinite, means.values())), end)
                took = time.perf_counter() - begun
                seconds += took
                pace = (end - start) / took
                stretch = max(1, min(4 * stretch, int(pace * STRETCH_SECONDS)))
                start = end
                show(
                    title,
                    epoch * images + start * plan.batch_size,
                    plan.epochs * images,
                    f"loss {means['loss']:.3g}  {_others(means)}"
                    f"{pace * plan.batch_size:.0f} images/s",
                )
            # The loss is older than the last update, which may have been the bad one.
            require(all_finite((state.params, state.stats)), start)
            if start < plan.steps:
                break
            row = {
                "epoch": epoch + 1,
                **{f"train_{name}": value for name, value in means.items()},
                **plan.evaluate(state),
                "learning_rate": float(plan.learning_rate(int(state.step) - 1)),
                "images_per_second": images / seconds,
                "seconds": seconds,
            }
            best = max((r[plan.judged_by] for r in history), default=-math.inf)
            if row[plan.judged_by] > best:
                plan.keep_best(state, folder)
            history.append(row)
            write_rows(folder / "metrics.csv", history)
            report.say(_line(title, row))
            epoch, start, seconds = epoch + 1, 0, 0.0
            sums = plan.no_sums()
            save()
            if plan.is_done(history) and epoch < plan.epochs:
                report.say(f"no better epoch in {plan.patience}: the training ends")
        if stop and saved != (epoch, start):
            save()
    return history


def _like(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _others(means: dict[str, float]) -> str:
    return "".join(
        f"{name} {value:.1%}  " if name == "accuracy" else f"{name} {value:.3f}  "
        for name, value in means.items()
        if name != "loss"
    )


def _line(title: str, row: dict[str, float]) -> str:
    numbers = [
        f"{name.replace('_', ' ')} "
        + (f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4g}")
        for name, value in row.items()
        if name.startswith(("train_", "val_"))
    ]
    speed = f"{row['images_per_second']:.1f} images/s, {row['seconds']:.1f} s"
    return f"{title}: {', '.join(numbers)}, {speed}"


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no number of `tree` is infinite or NaN."""
    flags = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(flags).all()


def _diverged(checkpoints: Path, epoch: int, step: int) -> str:
    where = (
        f"the last good checkpoint is kept in {checkpoints}"
        if checkpoint.steps(checkpoints)
        else "that was before the first checkpoint"
    )
    return (
        f"loss or weights are no longer finite by step {step} of epoch {epoch + 1}; "
        f"{where}. Try a smaller --optim.lr, --optim.clip 1 or --optim.warmup-epochs 1"
    )
