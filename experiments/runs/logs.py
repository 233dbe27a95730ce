"""The epochs' numbers in the places where people look at those of all their runs."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from experiments.command.options import UsageError
from jaxvision import processes

Row = Mapping[str, float]
Write = Callable[[Row, float], None]
"""`write(row, when)`: the numbers of an epoch, and when it ended."""


class Kind(NamedTuple):
    """A place for logs, called as the extra that has its package.

    Attributes:
      package: what it needs.
      open: `open(folder, options)` gives how a row is written, and what ends it; what
        an earlier start of the run left there is replaced.
    """

    package: str
    open: Callable[[Path, Mapping[str, Any]], tuple[Write, Callable[[], object]]]


@contextmanager
def open_logs(
    folder: Path, options: Mapping[str, Any]
) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Gives `write(history)`, which adds those rows that were not written yet.

    A run that goes on writes all that it keeps anew: an epoch that was lost with its
    process is nowhere to be seen, and one that `--log` came too late for is.

    Args:
      folder: the run's.
      options: of the run; `log` are keys of `KINDS`.

    Raises:
      UsageError: a package is missing.
    """
    kinds = {name: KINDS[name] for name in options.get("log", ())}
    for name, kind in kinds.items():
        if find_spec(kind.package) is None:
            raise UsageError(
                f"--log {name}: {kind.package} is not installed: pip install "
                f"'jaxvision[{name}]' (in a checkout: -e '.[{name}]')"
            )
    with ExitStack() as stack:
        writers = []
        for kind in kinds.values() if processes.is_first() else ():
            writer, close = kind.open(folder, options)
            stack.callback(close)
            writers.append(writer)
        done = 0

        def write(history: Sequence[Row]) -> None:
            nonlocal done
            left = sum(row["seconds"] for row in history[done:])
            for row in history[done:] if writers else ():
                left -= row["seconds"]
                for writer in writers:
                    writer(row, time.time() - left)
            done = len(history)

        yield write


def tag(column: str) -> str:
    """A column of `metrics.csv` so that training and validation share a picture."""
    split, _, name = column.partition("_")
    return f"{name}/{split}" if split in ("train", "val") else column


def _tensorboard(
    folder: Path, options: Mapping[str, Any]
) -> tuple[Write, Callable[[], object]]:
    from tensorboardX import SummaryWriter

    del options  # a run's config.yaml has them
    place = folder / "tensorboard"
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    writer = SummaryWriter(str(place))

    def write(row: Row, when: float) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(tag(name), value, int(row["epoch"]), when)
        writer.flush()

    return write, writer.close


def _wandb(
    folder: Path, options: Mapping[str, Any]
) -> tuple[Write, Callable[[], object]]:
    """Offline, on disk, where `WANDB_MODE` says nothing else."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_MODE", "offline")
    import wandb

    for old in (folder / "wandb").glob("offline-run-*"):
        shutil.rmtree(old)
    run = wandb.init(
        project="jaxvision",
        name="-".join(folder.absolute().parts[-2:]),
        dir=str(folder),
        config=dict(options),
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )

    def write(row: Row, when: float) -> None:
        del when  # wandb has its own clock
        numbers = {tag(name): value for name, value in row.items() if name != "epoch"}
        run.log(numbers, step=int(row["epoch"]))

    return write, run.finish


KINDS = {
    "tensorboard": Kind("tensorboardX", _tensorboard),
    "wandb": Kind("wandb", _wandb),
}
