"""The options of a program that may be one of several processes, and who they are."""

import hashlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import jax

from experiments.command.console import complain
from experiments.command.limits import at_least, limited
from jaxvision import processes

HERE = ("distributed", "heartbeat", "memory")
"""Options of one start on these machines, which a run does not keep."""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")
CODE = ("jaxvision", "converters", "experiments")


@dataclass(frozen=True)
class Machines:
    """Where a program runs."""

    distributed: bool = False
    """Be one of several processes, each started by the same command; the batch is
    spread over all their devices. Found by Slurm, Kubernetes, Cloud TPU, Open MPI, or
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID; see docs/scaling.md."""
    heartbeat: int = limited(100, at_least(5, most=3600))
    """Seconds without a sign of life after which a process counts as dead, and ends the
    others."""


def what_runs() -> dict[str, str]:
    """What must be the same in all processes beside their options."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in CODE:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return {
        "code": digest.hexdigest(),
        **{name: metadata.version(name) for name in PACKAGES},
        "kind of device": jax.local_devices()[0].device_kind,
        "count of devices": str(jax.local_device_count()),
    }


def join(config: Any) -> None:
    """Joins the other processes where the options say so; all but the first are mute.

    Raises:
      ValueError: it cannot.
    """
    if not getattr(config, "distributed", False):
        return
    processes.start(heartbeat=config.heartbeat, say=complain)
    if not processes.is_first():
        sys.stdout.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # also for what libraries say that are not Python's
        os.close(nowhere)
        warnings.simplefilter("ignore")


@contextmanager
def together(config: Any) -> Iterator[None]:
    """None of the processes leaves the block before the last; its errors end them all.

    Where another process no longer answers, that is said, not what broke of it.
    """
    try:
        yield
    except SystemExit:
        processes.finish()
        raise
    except Exception as error:
        if processes.broke_off(error):
            processes.await_end(config.heartbeat)
        raise
    processes.finish()


def end(line: str, *, code: int) -> NoReturn:
    """Ends the program, all its processes, with a line on standard error."""
    processes.fail(line, say=complain, code=code)
    complain(line)
    sys.exit(code)


def end_by_fault() -> None:
    """Ends all processes by what nobody foresaw; alone, it returns."""
    if processes.count() > 1:
        traceback.print_exc()
        end(f"error: {sys.exc_info()[1]!r:.300}", code=1)
