"""One writer a run: a lock that a crash releases, and what a killed one left."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.command.options import RunError
from jaxvision import processes
from jaxvision.checkpoint import STAGING
from jaxvision.holder import holder, sign

LOCK = ".lock"
"""Stays in the folder: a lock whose file is deleted locks nothing."""
HOLDER = ".running.json"
"""Says who holds the lock, for those who cannot have it."""

FILES = (
    "model.safetensors",
    "config.yaml",
    *("report.html", "comparison.html"),
    *("curves.png", "confusion.png", "mistakes.png", "comparison.png", "lr.png"),
    *("metrics.csv", "predictions.csv", "comparison.csv", "results.csv"),
    *("photos.csv", "lr.csv", "results.json", "photos.npz", HOLDER),
)
"""What the programs write into a run's folder."""
_LEFT = re.compile(
    "|".join(
        rf"\.{re.escape(Path(name).stem)}\.[a-z0-9_]{{8}}{re.escape(Path(name).suffix)}"
        for name in FILES
    )
)
"""The names that `jaxvision.files.atomic_path` gives a run's files for a moment."""


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Lets no other process write into the run's folder, and sweeps it.

    Raises:
      RunError: another process does; one line says which.
    """
    if not processes.is_first():
        yield
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        who = holder(folder / HOLDER)
        raise RunError(f"{folder} is in use by {who}: wait for it, or end it") from None
    try:
        sweep(folder)
        sign(folder / HOLDER)
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def sweep(folder: Path) -> None:
    """Deletes what a killed process left half written; the lock must be held."""
    for path in folder.iterdir():
        is_left = _LEFT.fullmatch(path.name) and not path.is_dir()
        if is_left or path.name == HOLDER:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints" / STAGING, ignore_errors=True)
