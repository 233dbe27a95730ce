"""Several runs from one command: options with several values, each with all seeds."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.command.console import Console
from experiments.command.options import to_dict
from experiments.runs.comparison import (
    RESULTS,
    Done,
    Numbers,
    compare,
    read_results,
    spelt,
    told_by,
    write_results,
)
from experiments.runs.folder import (
    CONFIG,
    Run,
    begin_run,
    open_run,
    saved_in,
    with_data,
)
from experiments.runs.writer import one_writer
from jaxvision import processes

LONGEST = 100
"""Characters of a folder's name, the seed aside."""
MOST_REPEATS = 1000
"""Seeds of one variant, each of which is a folder."""


Together = Callable[[Sequence["Cell"], Sequence[Run]], None]
"""`together(cells, runs)`, for those that differ in their seeds."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    variant: str
    """The values that tell it from the others, seeds aside."""
    name: str
    """Of its folder."""
    config: Any
    """The program's options, with one value where several were given."""
    chosen: Mapping[str, Any]
    """Option -> that value."""
    values: Mapping[str, str]
    """Option -> how it is spelt, of the options that have several values."""


def expand(config: Any, *, axes: Sequence[str]) -> list[Cell]:
    """The runs that `config` means, those of one variant side by side.

    Args:
      config: a dataclass with `seed` and `repeats`; and perhaps with `folds` and
        `fold`, which take the place of the repeats.
      axes: its fields that hold several values; one that is there twice counts once.

    Returns:
      One cell for each combination of values and each seed, or each fold; its config
      has one value an axis and no repeats. Whatever the values are, the names suit any
      file system and differ.
    """
    values = {axis: tuple(dict.fromkeys(getattr(config, axis))) for axis in axes}
    varied = [axis for axis in axes if len(values[axis]) > 1]
    cells, taken = [], set()
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(axes, combination, strict=True))
        words = {axis: spelt(chosen[axis]) for axis in varied or axes}
        variant = "-".join(words.values())
        folder = _unlike(_safe(variant), taken)
        one = replace(config, **{axis: (value,) for axis, value in chosen.items()})
        differing = {axis: words[axis] for axis in varied}
        for suffix, cell in _again(one):
            cells.append(Cell(variant, folder + suffix, cell, chosen, differing))
    return cells


def _again(config: Any) -> list[tuple[str, Any]]:
    """The repeats of a run with other seeds, or its folds, with a suffix each."""
    folds = getattr(config, "folds", None)
    if folds and config.fold is None:
        parts = range(1, folds + 1)
        return [(f"-fold{part}", replace(config, fold=part)) for part in parts]
    seeds = range(config.seed, config.seed + config.repeats)
    several = config.repeats > 1
    return [
        (f"-seed{seed}" if several else "", replace(config, seed=seed, repeats=1))
        for seed in seeds
    ]


def run(
    cells: Sequence[Cell],
    into: Run,
    run_cell: Callable[[Cell, Run], Numbers | None],
    *,
    console: Console,
    notes: Sequence[str] = (),
    data: str | None = None,
    together: Together | None = None,
) -> Numbers | None:
    """Runs all cells that are not complete, each in a folder of its own, and compares.

    A single cell runs in the folder of `into` itself. What was interrupted goes on
    where it was.

    Args:
      into: the run that holds them.
      run_cell: trains a cell in a run's folder and returns the numbers, or None where
        it was stopped.
      notes: warnings that a reader of the comparison must not miss.
      data: where the photos are, which may be elsewhere than when the runs began: then
        complete ones are looked at again, to see whether they are the same photos.
      together: is given all runs of a variant before the first that is not complete,
        and may do what they have in common; `run_cell` does the rest of each.

    Returns:
      The first cell's numbers; None where a signal stopped the run.

    Raises:
      RunError: another process writes into the folder.
    """
    with saved_in(into.path), one_writer(into.path):
        if together is not None:
            run_cell = _after(together, cells, into, run_cell)
        return _run(
            cells, into, _moved(run_cell, data), console=console, notes=notes, data=data
        )


def _after(
    together: Together,
    cells: Sequence[Cell],
    into: Run,
    run_cell: Callable[[Cell, Run], Numbers | None],
) -> Callable[[Cell, Run], Numbers | None]:
    """`run_cell`, before whose first run of a variant comes what its runs share."""
    done = set()

    def run(cell: Cell, one: Run) -> Numbers | None:
        alike = [other for other in cells if other.variant == cell.variant]
        if len(alike) > 1 and cell.variant not in done:
            done.add(cell.variant)
            with ExitStack() as stack:
                runs = []
                for other in alike:
                    path = into.path / other.name
                    runs.append(one if other is cell else _begun(other, path))
                    if other is not cell:  # whose lock its own run has
                        stack.enter_context(one_writer(path))
                together(alike, runs)
        return run_cell(cell, one)

    return run


def _moved(
    run_cell: Callable[[Cell, Run], Numbers | None], data: str | None
) -> Callable[[Cell, Run], Numbers | None]:
    """`run_cell`, and the run says from then on where its photos are now."""

    def run(cell: Cell, into: Run) -> Numbers | None:
        if data is None or "data" not in into.config:
            return run_cell(cell, into)
        numbers = run_cell(cell, into._replace(config={**into.config, "data": data}))
        with_data(into, data)
        return numbers

    return run


def _run(
    cells: Sequence[Cell],
    into: Run,
    run_cell: Callable[[Cell, Run], Numbers | None],
    *,
    console: Console,
    notes: Sequence[str],
    data: str | None,
) -> Numbers | None:
    if len(cells) == 1:
        numbers = run_cell(cells[0], into)
        if numbers is not None and processes.is_first():
            write_results(into.path / RESULTS, numbers)
        return numbers
    found: list[Done] = []
    for index, cell in enumerate(cells, start=1):
        path = into.path / cell.name
        numbers = processes.from_first(
            lambda path=path: _results(path, data=data, console=console)
        )
        if numbers is None:
            console.say(f"run {index} of {len(cells)}: {cell.name}", style="bold")
            one = _begun(cell, path)
            with one_writer(path):  # it may be resumed by itself, too
                numbers = run_cell(cell, one)
                if numbers is None:
                    return None
                if processes.is_first():
                    write_results(path / RESULTS, numbers)
        by, number = told_by(vars(cell.config))
        found.append(Done(cell.variant, cell.name, cell.values, number, numbers, by))
    if data is not None:
        into = with_data(into, data)
    processes.at_first(lambda: compare(found, into, notes=notes, console=console))
    return found[0].numbers


def _begun(cell: Cell, path: Path) -> Run:
    """The cell's run, which may have been begun before."""
    if processes.from_first(lambda: (path / CONFIG).is_file()):
        return open_run(path)
    if processes.is_first():
        path.mkdir(exist_ok=True)
    return begin_run(path, to_dict(replace(cell.config, resume=None, config=None)))


def _results(folder: Path, *, data: str | None, console: Console) -> Numbers | None:
    """The numbers of a complete run on `data`; None where it is still to be run."""
    path = folder / RESULTS
    if not path.is_file():
        return None
    try:
        numbers = read_results(path)
    except ValueError as error:
        console.say(f"WARNING: {error}: its run is completed anew", style="bold yellow")
        return None
    if data is not None and (folder / CONFIG).is_file():
        if open_run(folder).config.get("data", data) != data:
            return None
    return numbers


def _safe(variant: str) -> str:
    """A folder's name: letters, digits and the like, not hidden, not too long."""
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "_", variant[:LONGEST])
    return name.strip("._-") or "variant"


def _unlike(name: str, taken: set[str]) -> str:
    """`name`, with a number where it is in `taken`, to which it is added.

    Some file systems take capitals for small letters.
    """
    numbered = (f"{name}{f'.{n}' if n > 1 else ''}" for n in itertools.count(1))
    found = next(other for other in numbered if other.lower() not in taken)
    taken.add(found.lower())
    return found
