"""A run's folder: its number, `config.yaml`, and tables of numbers."""

import csv
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import yaml

from experiments.command.console import Console
from experiments.command.machines import HERE
from experiments.command.options import RunError, UsageError
from experiments.command.yaml_file import YamlError, read_yaml_file
from experiments.pages.cells import csv_line
from jaxvision import checkpoint, compilation, ops, processes
from jaxvision.array_folder import reason
from jaxvision.files import regular_file, write_bytes, write_text
from jaxvision.text import shell_word

CONFIG = "config.yaml"
NUMBER = re.compile("[0-9]{1,9}")
"""Names of folders that are counted."""
SKIPPED = "skipped.txt"
SHOWN = 5
"""How many of the photographs that were left out a line names."""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


class Run(NamedTuple):
    """A run on disk: its folder, and what `config.yaml` there says."""

    path: Path
    config: Mapping[str, Any]
    """The options, then the `environment`."""


def new_run(output: Path, experiment: str, options: Mapping[str, Any]) -> Run:
    """A run in `output/experiment/N`, with the first N not yet taken.

    Raises:
      UsageError: the folder cannot be made.
    """
    check_name(output / experiment, option="--output")
    path = processes.from_first(lambda: str(_new_folder(output, experiment)))
    return begin_run(Path(path), options)


def _new_folder(output: Path, experiment: str) -> Path:
    parent = output / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # Not `isdigit`, which a folder named ² is too.
        names = [path.name for path in parent.iterdir()]
        taken = [int(name) for name in names if NUMBER.fullmatch(name)]
        number = max(taken, default=0) + 1
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:  # another run took it just now
                number += 1
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror} ({parent})") from error


def check_name(path: Path, *, option: str) -> None:
    """Raises UsageError for a path that no text, a report's say, can hold."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        name = str(path.absolute()).encode(errors="backslashreplace").decode()
        raise UsageError(
            f"{option} {name}: the name is not UTF-8, and files could not name it: "
            "give the run another folder"
        ) from None


def begin_run(path: Path, options: Mapping[str, Any]) -> Run:
    """A run in the folder `path`, which is there: writes its `config.yaml`."""
    kept = {name: value for name, value in options.items() if name not in HERE}
    config = kept | {"environment": environment()}
    _write_config(path, config)
    return Run(path, config)


def open_run(path: Path) -> Run:
    """The run that was begun in the folder `path`.

    Raises:
      UsageError: its `config.yaml` is missing or damaged.
    """
    check_name(path, option="--resume")
    try:
        config = read_yaml_file(path / CONFIG)
    except (OSError, YamlError) as error:
        raise UsageError(f"{path / CONFIG} is missing or damaged: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path / CONFIG} is missing or damaged")
    return Run(path, config)


def newest_run(parent: Path) -> Path:
    """The folder of the newest run of an experiment, `OUTPUT/EXPERIMENT`.

    Raises:
      FileNotFoundError: there is none.
    """
    runs = [path for path in parent.glob("*") if NUMBER.fullmatch(path.name)]
    if not runs:
        raise FileNotFoundError(f"{parent}: no run in it")
    return max(runs, key=lambda path: int(path.name))


def with_data(run: Run, data: str | Sequence[str]) -> Run:
    """The run whose `config.yaml` says where its photos are now."""
    data = data if isinstance(data, str) else list(data)
    if run.config.get("data", data) == data:
        return run
    config = {**run.config, "data": data}
    _write_config(run.path, config)
    return Run(run.path, config)


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    if processes.is_first():
        write_text(path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))


@contextmanager
def saved_in(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into one line: why, what is kept, how to go on.

    Raises:
      RunError: what is written could not be.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise RunError(cannot_save(path, f"{reason(error)}{where}")) from None


def cannot_save(path: Path, why: str) -> str:
    """The line of a run in `path` that could not be saved."""
    if not checkpoint.steps(path / "checkpoints"):
        return f"{why}; nothing of the run in {path} is kept yet: start it anew"
    return (
        f"{why}; the last checkpoint is kept. When that is mended, go on with "
        f"--resume {shell_word(path)}"
    )


def environment() -> dict[str, Any]:
    """Versions, command, device and git revision: what a number needs beside it."""
    devices = jax.devices()
    revision = _git("rev-parse", "HEAD")
    if revision and _git("status", "--porcelain", "--untracked-files=no"):
        revision += " with changes"
    return {
        "command": f"{_program()} {shlex.join(sys.argv[1:])}".rstrip(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "processes": processes.count(),
        "processor": f"{os.cpu_count()} x {platform.machine()}",
        "convolutions": ops.backend(),
        "compiled programs": getattr(jax.config, compilation.FOLDER) or "not kept",
        "python": platform.python_version(),
        "git": revision or "not a git checkout",
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else Path(sys.argv[0]).name


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file of rows with the same columns, floats to six digits.

    What a spreadsheet would compute is guarded, see `experiments.pages.cells`.
    """
    names = list(rows[0])
    lines = [csv_line(names)]
    for row in rows:
        cells = [row.get(name) for name in names]
        lines.append(csv_line(f"{x:.6g}" if isinstance(x, float) else x for x in cells))
    # Names of files that are no UTF-8 stay the bytes that they are.
    write_bytes(path, "".join(lines).encode(errors="surrogateescape"))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`; an empty cell is nan.

    Raises:
      ValueError: a cell holds no number.
    """
    with open(path, encoding="utf-8", newline="", opener=regular_file) as file:
        return [
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


class Data(Protocol):
    """What there is to say of any data that were opened."""

    @property
    def skipped(self) -> tuple[str, ...]: ...

    @property
    def taken(self) -> str: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...


def data_notes(data: Data) -> list[str]:
    """What was left out of the data, passed over or guessed; none where all is well."""
    notes = list(data.warnings)
    if data.skipped:
        shown, more = data.skipped[:SHOWN], len(data.skipped[SHOWN:])
        count = len(data.skipped)
        notes.append(
            f"{count} photo{'s were' if count > 1 else ' was'} left out: "
            f"{'; '.join(shown)}{f'; and {more} more' if more else ''}"
        )
    return notes


def say_data(data: Data, console: Console) -> None:
    """Says what was taken as what, and what was not, before anything is made of it."""
    if data.taken:
        console.say(data.taken)
    for note in data_notes(data):
        console.say(f"WARNING: {note}", style="bold yellow")


def write_skipped(folder: Path, data: Data, console: Console) -> None:
    """Names in `folder/skipped.txt` all that was left out, if anything was."""
    if not processes.is_first():
        return
    if data.skipped:
        write_text(folder / SKIPPED, "".join(f"{line}\n" for line in data.skipped))
        if len(data.skipped) > SHOWN:
            console.say(f"all that were left out: {folder / SKIPPED}")
    else:
        (folder / SKIPPED).unlink(missing_ok=True)
