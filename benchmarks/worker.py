"""One side of a comparison: a process that prepares a case and times calls of it.

`benchmarks.pair` starts it and speaks with it in lines of JSON. A case is what a
function `prepare(**arguments) -> Case` gives, named as `module:function`.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Case(NamedTuple):
    """Something to time: `run(calls)` does it so many times and waits for the end."""

    run: Callable[[int], Any]
    facts: dict[str, Any]


def time_calls(run: Callable[[int], Any], calls: int) -> dict[str, float]:
    """Seconds a call, by the clock and of all the process's threads together."""
    if calls > 1:
        run(1)  # short ones: the other side has had the caches since the last block
    wall, cpu = time.perf_counter(), time.process_time()
    run(calls)
    return {
        "wall": (time.perf_counter() - wall) / calls,
        "cpu": (time.process_time() - cpu) / calls,
    }


@contextmanager
def grown() -> Iterator[dict[str, float]]:
    """A dictionary that gets `mib`: how much more memory was held at most meanwhile."""
    facts: dict[str, float] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield facts
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts["mib"] = (after - before) / 1024


def one_line(error: BaseException) -> str:
    """The error's type and the first line of its message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _end_with_parent() -> None:
    """A worker is stopped most of the time, and would not see its pipe being closed."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def main() -> None:
    """Answers requests, a line each, until the other end is closed."""
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    case: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                case = None  # its memory is free before the next one is built
                module, _, function = request["prepare"].partition(":")
                prepare = getattr(importlib.import_module(module), function)
                case = prepare(**request["arguments"])
                answer: dict[str, Any] = {"facts": case.facts}
            else:
                assert case is not None, "nothing is prepared"
                answer = time_calls(case.run, request["calls"])
        except Exception as error:
            answer = {"error": one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
