"""Runs that differ in their seeds alone, trained by one program, each in its folder."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.command.console import Console, Show
from experiments.command.options import RunError
from experiments.command.signals import Stop
from experiments.runs.folder import saved_in
from experiments.training import loop, saved
from experiments.training.plan import Place, Plan
from jaxvision import parallel
from jaxvision.stream import Stream
from jaxvision.train import TrainState

MOST = 16
"""Runs in one program."""
SHARE = 0.8
"""Of a device's memory, what a program may take."""


@dataclass
class Member:
    """One of the runs."""

    plan: Plan
    state: TrainState
    """Before the first step."""
    folder: Path


def seeds_at_once() -> int:
    """How many runs may share a program here; 1: each is for itself.

    On a CPU they take turns: both cores are busy with one of them, and a program for
    four took 1.06 (fcn) and 1.11 (cnn_small) of the CPU's time for one after the other
    (`python -m benchmarks.repeats`). Of several devices each has its part of one run.
    """
    alone = jax.device_count() == 1 and jax.process_count() == 1
    return MOST if alone and jax.default_backend() != "cpu" else 1


def fit_together(
    run_seeds: Callable[..., Any],
    members: Sequence[Member],
    *,
    most: int,
    console: Console,
    stop: Stop,
) -> None:
    """Trains to the last epoch, as `fit` does each, and saves as it does.

    `fit` then finds them trained. Runs that do not stand at the same step, as where the
    folder of one was deleted, are left to it; so is one that is the only one, and so
    are those whose images are streamed.

    Args:
      run_seeds: as `train.make_epoch_of_seeds` gives it.
      members: the runs.
      most: runs in one program; fewer where they do not fit into the memory.
      console: is told what goes on.
      stop: ends the training between two steps.

    Raises:
      RunError: loss or weights of a run are no longer finite, or the disk is full.
      UsageError: a checkpoint is of other data or options.
    """
    for begin in range(0, len(members), most):
        group = members[begin : begin + most]
        if len(group) == 1 or isinstance(group[0].plan.data, Stream) or stop.look():
            continue
        places = _level(group, console)
        if places is None or group[0].plan.is_done(places[0].history):
            continue
        program = _program(run_seeds, group, places)
        if program is None:
            half = -(-len(group) // 2)
            fit_together(run_seeds, group, most=half, console=console, stop=stop)
            continue
        console.say(f"{len(group)} runs at once: {_names(group)}")
        with ExitStack() as stack:
            for member in group:
                stack.enter_context(saved_in(member.folder))
            _train(program, group, places, console=console, stop=stop)


def _names(group: Sequence[Member]) -> str:
    return ", ".join(member.folder.name for member in group)


def _level(group: Sequence[Member], console: Console) -> list[Place] | None:
    """Where all stand, at the same step; None where they cannot.

    A process that was killed while they were saved leaves some a checkpoint ahead.
    """

    def restored(last: int | None) -> list[Place]:
        return [
            saved.restored(
                Place(member.state, member.plan.no_sums()),
                member.plan,
                member.folder,
                console,
                last=last,
            )
            for member in group
        ]

    plan = group[0].plan
    places = restored(None)
    first = min(saved.step_of(at, plan) for at in places)
    if any(saved.step_of(at, plan) != first for at in places):
        places = restored(first)
    level = len({saved.step_of(at, plan) for at in places}) == 1
    return places if level else None


def _program(run_seeds, group: Sequence[Member], places: Sequence[Place]):
    """The compiled program; None where the device's memory does not hold it."""
    keys = _stacked([member.plan.key for member in group])
    arguments = *_arguments(group, places), _int(0), _int(0), keys
    compiled = run_seeds.lower(*arguments).compile()
    stats = jax.devices()[0].memory_stats() or {}
    needed = compiled.memory_analysis()
    if needed is None or "bytes_limit" not in stats:
        return compiled
    used = needed.temp_size_in_bytes + needed.argument_size_in_bytes
    return compiled if used < SHARE * stats["bytes_limit"] else None


def _int(value: int) -> np.int32:
    """A bound of the loop, always of one type: the program is compiled for it."""
    return np.int32(value)


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _arguments(group: Sequence[Member], places: Sequence[Place]) -> tuple[Any, ...]:
    """What the program takes before the loop's bounds."""
    plans = [member.plan for member in group]
    states, sums = _stacked([(at.state, at.sums) for at in places])
    orders = _stacked([plan.order(places[0].epoch) for plan in plans])
    return states, sums, plans[0].data, orders


def _train(
    program,
    group: Sequence[Member],
    places: Sequence[Place],
    *,
    console: Console,
    stop: Stop,
) -> None:
    """Goes on from `places`, and saves each epoch and where `stop` ended the last."""
    plan, unsaved = group[0].plan, False
    with ExitStack() as stack:
        savers = [stack.enter_context(saved.open_saver(m.folder)) for m in group]
        show = stack.enter_context(console.progress("training"))
        while not plan.is_done(places[0].history) and not stop.look():
            before = places[0].start
            means = _run_epoch(program, group, places, show=show, stop=stop)
            unsaved = places[0].start != before
            if places[0].start < plan.steps:
                break
            for member, saver, at, mean in zip(
                group, savers, places, means, strict=True
            ):
                line = loop.end_epoch(at, member.plan, member.folder, mean)
                saved.save(saver, at, member.plan)
                console.say(f"{member.folder.name}: {line}")
            unsaved = False
        if stop.agreed and unsaved:
            for member, saver, at in zip(group, savers, places, strict=True):
                saved.save(saver, at, member.plan)


def _run_epoch(
    program,
    group: Sequence[Member],
    places: Sequence[Place],
    *,
    show: Show,
    stop: Stop,
) -> list[dict[str, float]]:
    """Goes on with the epoch, to its end or to where `stop` ends it; moves `places`.

    Returns:
      Of each run the metrics' means over the steps so far.

    Raises:
      RunError: loss or weights of a run are no longer finite.
    """
    plan, start, stretch = group[0].plan, places[0].start, 1
    states, sums, data, orders = _arguments(group, places)
    keys = _stacked([member.plan.key for member in group])
    means: list[dict[str, float]] = [{} for _ in group]
    while start < plan.steps and not stop.look():
        end = min(plan.steps, start + stretch)
        begun = time.perf_counter()
        states, sums = program(states, sums, data, orders, _int(start), _int(end), keys)
        host = jax.device_get(sums)
        means = [
            {name: float(values[run]) / end for name, values in host.items()}
            for run in range(len(group))
        ]
        took = time.perf_counter() - begun
        for member, at, mean in zip(group, places, means, strict=True):
            at.seconds += took / len(group)
            if not all(map(np.isfinite, mean.values())):
                raise _diverged(member, at, end)
        pace = (end - start) / took
        stretch = max(1, min(4 * stretch, int(pace * loop.STRETCH_SECONDS)))
        start = end
        show(
            plan.title(places[0].epoch),
            places[0].epoch * plan.images + start * plan.batch_size,
            plan.epochs * plan.images,
            f"loss {np.mean([mean['loss'] for mean in means]):.3g}  "
            f"{pace * plan.batch_size * len(group):.0f} images/s",
        )
    sharding = plan.key.sharding
    for run, (member, at) in enumerate(zip(group, places, strict=True)):
        own = jax.tree.map(lambda leaf, run=run: leaf[run], (states, sums))
        at.state, at.sums = parallel.place(own, sharding)
        at.start = start
        if not loop.is_sound(at.state):
            raise _diverged(member, at, start)
    return means


def _diverged(member: Member, at: Place, step: int) -> RunError:
    folder = member.folder / "checkpoints"
    return RunError(f"{member.folder.name}: {loop.diverged(folder, at.epoch, step)}")
