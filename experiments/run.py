"""What surrounds a training: its folder, its log, its progress, its signals."""

import csv
import io
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import jax
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from experiments.config import UsageError
from jaxvision import compilation, ops
from jaxvision.files import write_text

Show = Callable[[str, int, int, str], None]
"""`show(title, done, total, note)`: what goes on, how far it is, what to say of it."""

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


def new_folder(output: Path, experiment: str) -> Path:
    """Makes and returns `output/experiment/N`, with the first N not yet taken."""
    parent = output / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name) for path in parent.iterdir() if path.name.isdigit()]
        number = max(taken, default=0) + 1
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:  # another run took it just now
                number += 1
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror} ({parent})") from error


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


def write_config(folder: Path, options: dict[str, Any]) -> None:
    """Writes `config.yaml`: the options, then the environment."""
    values = options | {"environment": environment()}
    write_text(folder / "config.yaml", yaml.safe_dump(values, sort_keys=False))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file of rows with the same columns, floats to six digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()}
        for row in rows
    )
    write_text(path, text.getvalue())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`; an empty cell is nan.

    Raises:
      ValueError: a cell holds no number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def skipped_notes(skipped: Sequence[str], what: str) -> list[str]:
    """A warning that some of the data, `what` in words, was left out; or none."""
    if not skipped:
        return []
    return [f"{len(skipped)} {what} were left out: {'; '.join(skipped[:5])}"]


class Stop:
    """Whether Ctrl-C or SIGTERM asked the run to stop; the second Ctrl-C is at once."""

    signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A flag that the two signals set, so that a step is never cut in the middle."""
    stop = Stop()

    def handle(signum, _frame):
        if stop and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signum = signum

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Reporter:
    """A progress bar on a terminal, plain lines elsewhere."""

    def __init__(self):
        self._console = Console(highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def say(self, line: str, *, style: str | None = None) -> None:
        """One line; it stands above the bar where there is one."""
        self._console.print(line, style=style, markup=False)

    def table(self, table: Table) -> None:
        """A table for people; a script reads the files."""
        self._console.print(table)

    @contextmanager
    def progress(self, title: str) -> Iterator[Show]:
        """Shows how much is done, by the function it gives.

        On a terminal that is a bar with the time left; elsewhere a line a minute, so
        that the log of a long run stays short.
        """
        if not self._console.is_terminal:
            yield self._line_each_minute
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(title, total=None, note="")
            yield lambda title, done, total, note: bar.update(
                task, description=title, completed=done, total=total, note=note
            )

    @contextmanager
    def counting(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """`progress` for work that only counts: gives a `(done, total)` function."""
        with self.progress(title) as show:
            yield lambda done, total: show(title, done, total, "")

    def _line_each_minute(self, title: str, done: int, total: int, note: str) -> None:
        if time.monotonic() - self._last_line > 60:
            self._last_line = time.monotonic()
            self.say(f"{title}: {done / max(total, 1):.0%}  {note}")


def interrupted(folder: Path, module: str, stop: Stop) -> NoReturn:
    """Ends the process after a signal, saying how to go on."""
    print(
        f"stopped; all is saved. To go on: python -m {module} --resume {folder}",
        file=sys.stderr,
    )
    sys.exit(128 + (stop.signum or signal.SIGINT))
