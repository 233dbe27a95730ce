"""The options of what need not fit into the memory, and what comes of them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from experiments.command import limits
from experiments.command.console import Console
from experiments.command.limits import limited
from experiments.command.options import UsageError
from jaxvision import processes, stream

SHARE = 0.25
"""Of the memory, of the machine's and of a device's, that the photos may take."""
GIB = 2**30
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where a container's limit stands, by the versions of control groups."""


@dataclass(frozen=True)
class Memory:
    """Where the photos are while a model is trained."""

    input: Literal["auto", "resident", "stream"] = "auto"
    """resident: decoded once, and all on each device; stream: decoded anew in each
    epoch, batch by batch, to the same bits; auto: by --memory."""
    memory: float | None = limited(None, limits.positive)
    """GiB that decoded photos may take to be resident. By default a quarter of the
    memory of the machine or of a device, whichever is less."""


def choose_input(options: Memory, needed: int, *, console: Console) -> str:
    """What `--input` means here, said in a line with the reason; the same for all.

    Args:
      options: the program's.
      needed: bytes that the photos take, decoded.
      console: is told.

    Raises:
      UsageError: they have to be streamed, and Grain is not installed.
    """
    chosen, why = processes.from_first(lambda: list(_chosen(options, needed)))
    if chosen == "stream" and not stream.is_possible():
        raise UsageError(
            f"{why}: that needs grain, {stream.INSTALL}; or give --input resident"
        )
    console.say(why)
    return chosen


def _chosen(options: Memory, needed: int) -> tuple[str, str]:
    size = f"{_shown(needed)} of decoded photos"
    if options.input != "auto":
        words = {"resident": "kept in memory", "stream": "streamed"}
        chosen = options.input
        return chosen, f"{size}: {words[chosen]}, as --input says"
    if getattr(options, "resume", None) is not None:
        # Runs write down what auto came to, since there are streams; and a streamed
        # set is known by other facts than a resident one.
        return "resident", f"{size}: kept in memory, as when the run began"
    budget, whose = default_budget()
    if options.memory is not None:
        budget, whose = options.memory * GIB, "--memory"
    if needed > budget:
        return "stream", f"{size} > {_shown(budget)} ({whose}): streamed"
    return "resident", f"{size}, of {_shown(budget)} ({whose}): kept in memory"


def _shown(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{1024 * size / GIB:.0f} MiB"


def default_budget() -> tuple[float, str]:
    """Bytes that decoded photos may take, and a quarter of what that is."""
    memory = {"machine": machine_memory()}
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        memory["device"] = limit
    whose = min(memory, key=lambda name: memory[name])
    return SHARE * memory[whose], f"a quarter of the {whose}'s memory"


def machine_memory() -> int:
    """Bytes of memory that this process may come to: the machine's, or a container's.

    Where nothing says how many, as on Windows, 16 GiB.
    """
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 16 * GIB
    for name in LIMITS:
        try:
            text = (Path("/sys/fs/cgroup") / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            found = min(found, int(text))
    return found
