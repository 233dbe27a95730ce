"""Compares finished runs, whichever commands trained them.

python -m experiments.compare RUN...
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from experiments.command.console import Console
from experiments.command.options import UsageError, run_cli
from experiments.pages.standings import Standing
from experiments.runs.comparison import (
    RESULTS,
    Done,
    compare,
    read_results,
    spelt,
    told_by,
)
from experiments.runs.folder import new_run, open_run

MODULE = "experiments.compare"
NO_VARIANT = ("seed", "repeats", "fold", "output", "resume", "config", "environment")
"""What `config.yaml` holds beside the options that make a variant."""


@dataclass(frozen=True)
class Config:
    """Compares finished runs, whichever commands trained them: recipes, say."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN...")] = ()
    """Folders of runs; of a folder with several runs, all that are complete."""
    output: Path = Path("runs")
    """Where the comparison's folder is made: OUTPUT/comparison/N."""


def main(config: Config) -> list[Standing]:
    """Writes a folder with the comparison of the runs, and returns their standings.

    Raises:
      UsageError: a folder holds no complete run, or two runs are the same.
    """
    console = Console()
    notes: list[str] = []
    folders = _find_runs(config.runs, notes)
    options = [open_run(folder).config for folder in folders]
    runs = _name_runs(folders, options)
    shared = {
        name: value
        for name, value in options[0].items()
        if name not in NO_VARIANT and all(o.get(name) == value for o in options)
    }
    options = {"runs": [str(path) for path in folders], **shared}
    into = new_run(config.output, "comparison", options)
    return compare(
        [run._replace(name=os.path.relpath(run.name, into.path)) for run in runs],
        into,
        notes=notes,
        console=console,
    )


def _find_runs(paths: Sequence[Path], notes: list[str]) -> list[Path]:
    """The folders of complete runs, each once; a note on those that are not."""
    if not paths:
        raise UsageError("which runs? Give their folders, such as runs/transfer/1")
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise UsageError(f"{path}: there is no such folder")
        inside = sorted(config.parent for config in path.glob("*/config.yaml"))
        runs = inside or [path]
        complete = [run for run in runs if (run / RESULTS).is_file()]
        if not complete:
            raise UsageError(
                f"{path}: there is no {RESULTS}, which a classification run writes at "
                "its end; --resume goes on with one that was stopped"
            )
        notes += [
            f"{run} is not complete: left out" for run in runs if run not in complete
        ]
        found += complete
    found = list({path.resolve(): path for path in found}.values())
    if len(found) == 1:
        raise UsageError(f"{found[0]} is a single run: give others to compare it with")
    return found


def _name_runs(
    folders: Sequence[Path], options: Sequence[Mapping[str, Any]]
) -> list[Done]:
    """The runs, those of one variant side by side, each named by its folder.

    A variant is told from the others by as few options as do, the first ones first: of
    recipes that is their name.
    """
    flat = [_flat(values) for values in options]
    kinds = [tuple(sorted(values.items())) for values in flat]
    told: list[str] = []
    for name in dict.fromkeys(name for values in flat for name in values):
        if _count(flat, told) == len(set(kinds)):
            break
        if _count(flat, [*told, name]) > _count(flat, told):
            told.append(name)
    found: dict[tuple[Any, int], Done] = {}
    for path, values, kind, given in zip(folders, flat, kinds, options, strict=True):
        words = {name: values.get(name, "none") for name in told}
        variant = "-".join(words.values()) or folders[0].name
        by, seed = told_by(given)
        if (twin := found.get((kind, seed))) is not None:
            raise UsageError(
                f"{twin.name} and {path} have the same options and the same {by}: "
                "leave one out"
            )
        try:
            numbers = read_results(path / RESULTS)
        except ValueError as error:
            raise UsageError(f"{error}; --resume {path} writes it anew") from error
        found[kind, seed] = Done(variant, str(path), words, seed, numbers, by)
    return [
        found[key] for key in sorted(found, key=lambda k: (kinds.index(k[0]), k[1]))
    ]


def _count(flat: Sequence[Mapping[str, str]], names: Sequence[str]) -> int:
    """Into how many variants these options part the runs."""
    return len({tuple(values.get(name) for name in names) for values in flat})


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Option -> value as it is spelt, without what makes no variant."""
    found = {}
    for name, value in options.items():
        if name in NO_VARIANT:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = spelt(value)
    return found


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
