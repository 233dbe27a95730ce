"""The one epoch loop: compiled stretches of steps, with a look at the clock between."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.command.console import Console, Show
from experiments.command.options import RunError
from experiments.command.signals import Stop
from experiments.runs.folder import cannot_save, saved_in, write_rows
from experiments.runs.logs import open_logs
from experiments.training import saved
from experiments.training.plan import History, Place, Plan
from jaxvision import checkpoint, precision, processes
from jaxvision.stream import StreamError
from jaxvision.train import TrainState

STRETCH_SECONDS = 5.0
"""How long the device works before the host looks at signals, NaN and the bar.

On a CPU each call maps gigabytes of temporaries anew, half a second for a MobileNet at
224 pixels: a shorter stretch would cost more than it shows."""

LATE = 0.05
"""Share of the time from which on it is said that steps wait for photos."""

COMPILING = {
    "cpu": "",
    "gpu": "the GPU tries out each convolution; the next run has it from the disk",
    "tpu": "perhaps minutes; the next run has it from the disk",
}
"""What there is to wait for, by platform."""

LOST_SCALE = 2.0**-14
"""Loss scale below which float16 does not help: 30 halvings from where it begins."""

all_finite = jax.jit(precision.all_finite)


def fit(
    state: TrainState, plan: Plan, folder: Path, *, console: Console, stop: Stop
) -> History:
    """Trains from `folder`'s newest checkpoint, or from `state`, to the last epoch.

    Writes `checkpoints/` and `metrics.csv` below `folder`, which is made where it is
    missing. Returns the history, a row an epoch, also where `stop` ended the run: then
    `plan.is_done` denies it.

    Raises:
      RunError: the loss or the weights are no longer finite; the last good checkpoint,
        which is that of the epoch before, stays. Or the disk is full.
      UsageError: the checkpoint is of other data or options; or a package is missing
        that `--log` needs.
    """
    at = Place(state, plan.no_sums())
    at = saved.restored(at, plan, folder, console)
    with saved_in(folder):
        if processes.is_first():
            folder.mkdir(parents=True, exist_ok=True)
        saved.mend_model(at, plan, folder, console)
        if at.history:  # a table that was cut, or that is of an epoch which is lost
            _write_history(at, folder)
        if not plan.is_done(at.history):
            saved.check_room(at, plan, folder)
            try:
                _train(at, plan, folder, console=console, stop=stop)
            except (checkpoint.CheckpointError, StreamError) as error:
                raise RunError(cannot_save(folder, str(error))) from None
            finally:
                plan.close()
        saved.mend_model(at, plan, folder, console)
    return at.history


def _train(
    at: Place, plan: Plan, folder: Path, *, console: Console, stop: Stop
) -> None:
    """Goes on from `at`, and saves each epoch and where `stop` ended the last."""
    last = at.epoch, at.start
    with (
        open_logs(folder, plan.options) as log,
        saved.open_saver(folder) as saver,
        console.progress("compiling") as show,
    ):
        log(at.history)
        _compile(at, plan, console, show)
        while not plan.is_done(at.history) and not stop.look():
            try:
                means = _run_epoch(at, plan, show, stop)
            except _DivergedError as error:
                saver.wait()
                raise RunError(
                    diverged(folder / "checkpoints", at.epoch, error.step)
                ) from None
            if at.start < plan.steps:
                break
            note = "" if at.history else "compiled first"
            show(f"{plan.title(at.epoch)}, judging", *_done(at, plan), note)
            line = end_epoch(at, plan, folder, means)
            saved.save(saver, at, plan)
            log(at.history)
            last = at.epoch, at.start
            console.say(line)
            if plan.is_done(at.history) and at.epoch < plan.epochs:
                console.say(f"no better epoch in {plan.patience}: the training ends")
        if stop.agreed and last != (at.epoch, at.start):
            saved.save(saver, at, plan)


def _compile(at: Place, plan: Plan, console: Console, show: Show) -> None:
    """Takes no step, so that the first epoch's time is that of its steps."""
    note = COMPILING.get(jax.default_backend(), "")
    show("compiling", *_done(at, plan), note)
    begun = time.perf_counter()
    at.state, at.sums = plan.compile(at.state, at.sums, epoch=at.epoch)
    jax.block_until_ready(at.sums)
    console.say(f"compiled in {time.perf_counter() - begun:.1f} s")


def _done(at: Place, plan: Plan) -> tuple[int, int]:
    """Images that have been shown, and all that will be."""
    return (
        at.epoch * plan.images + at.start * plan.batch_size,
        plan.epochs * plan.images,
    )


class _DivergedError(Exception):
    """Something is no longer finite by this step."""

    def __init__(self, step: int):
        self.step = step


def _run_epoch(at: Place, plan: Plan, show: Show, stop: Stop) -> dict[str, float]:
    """Goes on with the epoch, to its end or to where `stop` ends it.

    Returns:
      The metrics' means over the steps so far.

    Raises:
      _DivergedError: the loss or the weights are no longer finite.
    """
    stretch, means = 1, {}
    while at.start < plan.steps and not stop.look():
        end = min(plan.steps, at.start + stretch)
        begun, waited = time.perf_counter(), plan.waited
        at.state, at.sums = plan.run(
            at.state, at.sums, epoch=at.epoch, start=at.start, stop=end
        )
        means = {name: float(value) / end for name, value in at.sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise _DivergedError(end)
        took = time.perf_counter() - begun
        at.seconds += took
        pace = (end - at.start) / took
        longer = max(1, min(4 * stretch, int(pace * STRETCH_SECONDS)))
        # The clocks of several processes differ, and their steps may not.
        told = processes.gather_values([longer, (plan.waited - waited) / took])
        stretch = told[0][0]
        at.start = end
        show(
            plan.title(at.epoch),
            *_done(at, plan),
            f"loss {means['loss']:.3g}  {_others(means)}"
            f"{pace * plan.batch_size:.0f} images/s"
            + straggler([share for _, share in told]),
        )
    # The loss is older than the last update, which may have been the bad one.
    if not is_sound(at.state):
        raise _DivergedError(at.start)
    return means


def straggler(shares: Sequence[float]) -> str:
    """Says which process keeps the steps waiting for its photos; empty: none does.

    Args:
      shares: of its time, what each process waited for its own.
    """
    longest = max(shares)
    if longest < LATE:
        return ""
    who = f" of process {shares.index(longest)}" if len(shares) > 1 else ""
    return f"  {longest:.0%} waits for photos{who}"


def end_epoch(at: Place, plan: Plan, folder: Path, means: dict[str, float]) -> str:
    """Judges the epoch, keeps its model where it is the best, adds its row.

    Returns:
      What there is to say of it.
    """
    title = plan.title(at.epoch)
    row = {
        "epoch": at.epoch + 1,
        **{f"train_{name}": value for name, value in means.items()},
        **plan.evaluate(at.state),
        "learning_rate": float(plan.learning_rate(int(at.state.step) - 1)),
        "images_per_second": plan.images / at.seconds,
        "seconds": at.seconds,
    }
    # One history for all: whether an epoch is the best is decided by it.
    row = processes.from_first(lambda: row)
    best = max((r[plan.judged_by] for r in at.history), default=-math.inf)
    if row[plan.judged_by] > best:
        saved.keep_model(at, plan, folder)
    at.history.append(row)
    _write_history(at, folder)
    at.epoch, at.start, at.seconds = at.epoch + 1, 0, 0.0
    at.sums = plan.no_sums()
    return _line(title, row)


def _write_history(at: Place, folder: Path) -> None:
    if processes.is_first():
        write_rows(folder / "metrics.csv", at.history)


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


def is_sound(state: TrainState) -> bool:
    """Whether all weights are finite, and the loss scale is not lost.

    It is where step after step had gradients that were not finite, and changed nothing.
    """
    lost = state.loss_scale and float(state.loss_scale.scale) < LOST_SCALE
    return not lost and bool(all_finite((state.params, state.stats)))


def diverged(checkpoints: Path, epoch: int, step: int) -> str:
    """What to say of a run whose numbers are no longer finite, and what to do."""
    where = (
        f"the last good checkpoint is kept in {checkpoints}"
        if checkpoint.steps(checkpoints)
        else "that was before the first checkpoint"
    )
    return (
        f"loss or weights are no longer finite by step {step} of epoch {epoch + 1}; "
        f"{where}. Start a new run with a smaller --optim.lr, --optim.clip 1 or "
        "--optim.warmup-epochs 1: --resume goes on by the run's own options"
    )
