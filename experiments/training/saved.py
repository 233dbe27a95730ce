"""What a training leaves on disk: its checkpoints, and the best epoch's model."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.command.console import Console
from experiments.command.options import RunError, UsageError, check_alike
from experiments.inference.classifier import MODEL
from experiments.training.plan import FREE, Place, Plan
from jaxvision import checkpoint, processes
from jaxvision.files import sha256
from jaxvision.train import evaluated

try:
    import resource
except ModuleNotFoundError:  # on Windows there are no such limits
    resource = None

BEST: checkpoint.Best = ("judged", "max")
"""The step of the best epoch: its state is kept beside the newest ones."""


def open_saver(folder: Path) -> checkpoint.Saver:
    """Saves the checkpoints of the run in `folder`."""
    return checkpoint.Saver(folder / "checkpoints", best=BEST)


def check_room(at: Place, plan: Plan, folder: Path) -> None:
    """Looks for room for what the training is going to save, before it begins.

    Raises:
      RunError: there is none.
    """
    if not processes.is_first():
        return
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(at.state))
    model = sum(leaf.nbytes for leaf in jax.tree.leaves(evaluated(at.state)))
    # Two of the newest, the best, and the one that is being written.
    there = len(checkpoint.steps(folder / "checkpoints"))
    count = max(1, min(4, plan.epochs - at.epoch) - there)
    needed, free = count * state + 2 * model, shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{folder} has room for {_mb(free)}, and the run needs {_mb(needed)}: "
            f"{count} checkpoints of {_mb(state)} and the model; make room, or give "
            "another --output"
        )
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit != resource.RLIM_INFINITY and limit < model:
            raise RunError(
                f"no file may have more than {_mb(limit)} here (ulimit -f), and the "
                f"model has {_mb(model)}: raise the limit"
            )


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def save(saver: checkpoint.Saver, at: Place, plan: Plan) -> None:
    """Begins to save where the training stands."""
    ended = at.history and at.start == 0
    saver.save(
        step_of(at, plan),
        {"state": at.state, "sums": at.sums},
        metadata={
            "history": at.history,
            "epoch": at.epoch,
            "start": at.start,
            "seconds": at.seconds,
            "model": at.model,
            "data": plan.fingerprint,
            "judged data": plan.judged,
            "options": dict(plan.options),
            BEST[0]: at.history[-1][plan.judged_by] if ended else None,
        },
    )


def step_of(at: Place, plan: Plan) -> int:
    """The number of the checkpoint of a place: the later it is, the larger."""
    return at.epoch * (plan.steps + 1) + at.start


def restored(
    at: Place,
    plan: Plan,
    folder: Path,
    console: Console,
    *,
    last: int | None = None,
) -> Place:
    """The place of the newest checkpoint that is whole, or `at`.

    With `last` no later one than that step of `step_of`.

    Raises:
      UsageError: the checkpoint is of other data or options.
    """
    found = checkpoint.restore(folder / "checkpoints", _abstract(at), last=last)
    check_alike(lambda: {"checkpoint": str(found and found.step)})
    if found is None:
        return at
    for fault in found.skipped:
        console.say(f"passed over a damaged checkpoint: {fault}", style="yellow")
    for line in check_same(found.metadata, plan, folder):
        console.say(line, style="yellow")
    # One of an older version does not say which file belongs to it.
    facts = {"model": "", **found.metadata}
    names = ("history", "epoch", "start", "seconds", "model")
    at = Place(**found.tree, **{name: facts[name] for name in names})
    if not plan.is_done(at.history):
        console.say(
            f"resumed at epoch {at.epoch + 1}, step {at.start + 1} of {plan.steps}"
        )
    return at


def check_same(facts: Mapping[str, Any], plan: Plan, folder: Path) -> list[str]:
    """What a run does otherwise than its checkpoint did, where that may be.

    Args:
      facts: the metadata of the checkpoint; those of older versions have fewer.
      plan: what is to go on.
      folder: the run's.

    Raises:
      UsageError: it would be another run.
    """
    for name, ours, what in (
        ("data", plan.fingerprint, "training photos"),
        ("judged data", plan.judged, "validation photos"),
    ):
        if facts.get(name, ours) != ours:
            raise UsageError(
                f"the {what} are not those that the run in {folder} began with: give "
                "it the same --data, or start a new run"
            )
    begun, now = (_flat(one) for one in (facts.get("options", {}), plan.options))
    if begun.get("revision", 1) != now.get("revision", 1):
        raise UsageError(
            f"the run in {folder} was begun by another version, which trained and "
            "judged otherwise: start a new run, or go on with that version"
        )
    differ = {n: (begun[n], now[n]) for n in begun if n in now and begun[n] != now[n]}
    for name, (old, new) in differ.items():
        if name not in FREE:
            raise UsageError(
                f"{name} is {new}, and the run in {folder} was trained with {old} so "
                "far: put it back in config.yaml, or start a new run"
            )
    if facts["start"] and facts["start"] >= plan.steps:
        raise UsageError(
            f"the run in {folder} stands at step {facts['start']} of an epoch, which "
            f"has {plan.steps}: its options or photos are others than before"
        )
    return [
        f"{name} is {new} from here on; the run began with {old}"
        for name, (old, new) in differ.items()
    ]


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON holds them, those of a group as `group.option`."""
    found = {}
    for name, value in json.loads(json.dumps(dict(options))).items():
        inner = _flat(value) if isinstance(value, dict) else None
        found |= (
            {f"{name}.{k}": v for k, v in inner.items()} if inner else {name: value}
        )
    return found


def keep_model(at: Place, plan: Plan, folder: Path) -> None:
    """Writes the model of `at`, which is the best epoch so far."""
    plan.keep_best(at.state, folder)
    at.model = processes.from_first(lambda: _digest(folder / MODEL))


def mend_model(at: Place, plan: Plan, folder: Path, console: Console) -> None:
    """Writes the best epoch's model anew where its file is not the one it left.

    Raises:
      RunError: no checkpoint holds that epoch's weights.
    """
    file = folder / MODEL
    found, left = processes.from_first(lambda: [_digest(file), at.model])
    if at.history and found != left and not (found and left == ""):
        best = plan.best(at.history)
        fault = (
            f"{file} {'is not the file that was written' if found else 'is missing'}"
        )
        step = checkpoint.restore(folder / "checkpoints", _abstract(at), best=BEST)
        if step is None or step.metadata["epoch"] != best:
            raise RunError(
                f"{fault}, and no checkpoint holds the weights of epoch {best}, the "
                "best: put the file back, or start a new run"
            )
        plan.keep_best(step.tree["state"], folder)
        at.model = processes.from_first(lambda: _digest(file))
        console.say(f"{fault}: written anew, from the checkpoint of epoch {best}")
    # A network's file system may show another process an older file.
    check_alike(lambda: {"model": str(at.history and _digest(file))})


def _abstract(at: Place) -> Any:
    def like(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(like, {"state": at.state, "sums": at.sums})


def _digest(file: Path) -> str | None:
    """The sha256 of a file; None where there is none."""
    try:
        return sha256(file)
    except FileNotFoundError:
        return None
