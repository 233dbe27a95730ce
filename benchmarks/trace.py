"""Where a program's time goes on a device: its profile, by category."""

import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

CATEGORIES = {
    "convolutions and products": "conv|gemm|dot|xmma|cutlass|cublas|wgmma|nvjet",
    "fusions with a reduction": "reduce",
    "copies": "copy|memcpy|memset|transpose",
    "other fusions": "fusion|wrapped|loop_",
}
"""Category and what the name of an operation or of its kernel has; the first counts."""
OTHERS, GAPS = "all else", "gaps"
CONTROL = re.compile("^(while|call|conditional)")
"""Operations that only hold others."""

Event = dict[str, Any]


def profile(run: Callable[[int], Any], calls: int) -> dict[str, float]:
    """Milliseconds a call by category, of `run(calls)`, which must be compiled.

    `gaps` is the time from the first operation to the last in which none ran.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(calls)
        (path,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    return {name: us / calls / 1e3 for name, us in by_category(events).items()}


def by_category(events: Iterable[Event]) -> dict[str, float]:
    """Microseconds of a device's operations in each category, and of the gaps.

    Args:
      events: of a trace in Chrome's format. Those of a GPU are taken from its streams,
        on which the operations of a program follow one another.
    """
    events = list(events)
    streams = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name"
        and event["args"]["name"].startswith("Stream")
    }
    found = dict.fromkeys((*CATEGORIES, OTHERS), 0.0)
    spans = []
    for event in events:
        said = event.get("args", {})
        if event.get("ph") != "X" or "hlo_op" not in said:
            continue
        if streams and (event["pid"], event["tid"]) not in streams:
            continue
        if CONTROL.match(said["hlo_op"]):
            continue
        found[category(said["hlo_op"], event["name"])] += event["dur"]
        spans.append((event["ts"], event["ts"] + event["dur"]))
    return found | {GAPS: _gaps(spans)}


def category(operation: str, kernel: str) -> str:
    """The row of `CATEGORIES` for an operation of XLA and the kernel that does it."""
    text = f"{operation} {kernel}".lower()
    found = (name for name, words in CATEGORIES.items() if re.search(words, text))
    return next(found, OTHERS)


def _gaps(spans: list[tuple[float, float]]) -> float:
    """How much of the time from the first span's begin on is in none of them."""
    total, end = 0.0, None
    for begin, stop in sorted(spans):
        if end is not None:
            total += max(0.0, begin - end)
        end = stop if end is None else max(end, stop)
    return total
