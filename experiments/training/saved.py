"""What a training leaves on disk: its checkpoints, and the best epoch's model."""

import hashlib
from pathlib import Path
from typing import Any

import jax

from experiments.command.console import Console
from experiments.command.options import RunError, UsageError
from experiments.inference.classifier import MODEL
from experiments.training.plan import Place, Plan
from jaxvision import checkpoint

BEST: checkpoint.Best = ("judged", "max")
"""The step of the best epoch: its state is kept beside the newest ones."""


def open_saver(folder: Path) -> checkpoint.Saver:
    """Saves the checkpoints of the run in `folder`."""
    return checkpoint.Saver(folder / "checkpoints", best=BEST)


def save(saver: checkpoint.Saver, at: Place, plan: Plan) -> None:
    """Begins to save where the training stands."""
    ended = at.history and at.start == 0
    saver.save(
        at.epoch * (plan.steps + 1) + at.start,
        {"state": at.state, "sums": at.sums},
        metadata={
            "history": at.history,
            "epoch": at.epoch,
            "start": at.start,
            "seconds": at.seconds,
            "model": at.model,
            "data": plan.fingerprint,
            BEST[0]: at.history[-1][plan.judged_by] if ended else None,
        },
    )


def restored(at: Place, plan: Plan, folder: Path, console: Console) -> Place:
    """The place of the newest checkpoint that is whole, or `at`.

    Raises:
      UsageError: the checkpoint is of other training data.
    """
    found = checkpoint.restore(folder / "checkpoints", _abstract(at))
    if found is None:
        return at
    for fault in found.skipped:
        console.say(f"passed over a damaged checkpoint: {fault}", style="yellow")
    # One of an older version does not say which file belongs to it.
    facts = {"model": "", **found.metadata}
    facts.pop(BEST[0], None)
    if facts.pop("data") != plan.fingerprint:
        raise UsageError(
            f"the training photos are not those that the run in {folder} began "
            "with: give it the same --data, or start a new run"
        )
    at = Place(**found.tree, **facts)
    if not plan.is_done(at.history):
        console.say(
            f"resumed at epoch {at.epoch + 1}, step {at.start + 1} of {plan.steps}"
        )
    return at


def keep_model(at: Place, plan: Plan, folder: Path) -> None:
    """Writes the model of `at`, which is the best epoch so far."""
    plan.keep_best(at.state, folder)
    at.model = _digest(folder / MODEL)


def mend_model(at: Place, plan: Plan, folder: Path, console: Console) -> None:
    """Writes the best epoch's model anew where its file is not the one it left.

    Raises:
      RunError: no checkpoint holds that epoch's weights.
    """
    file = folder / MODEL
    found = _digest(file)
    if not at.history or found == at.model or (found and at.model == ""):
        return
    best = plan.best(at.history)
    fault = f"{file} {'is not the file that was written' if found else 'is missing'}"
    step = checkpoint.restore(folder / "checkpoints", _abstract(at), best=BEST)
    if step is None or step.metadata["epoch"] != best:
        raise RunError(
            f"{fault}, and no checkpoint holds the weights of epoch {best}, the best: "
            "put the file back, or start a new run"
        )
    plan.keep_best(step.tree["state"], folder)
    at.model = _digest(file)
    console.say(f"{fault}: written anew, from the checkpoint of epoch {best}")


def _abstract(at: Place) -> Any:
    def like(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(like, {"state": at.state, "sums": at.sums})


def _digest(file: Path) -> str | None:
    """The sha256 of a file; None where there is none."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None
