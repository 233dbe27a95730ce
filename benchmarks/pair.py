"""Ours and the peer in two processes that take turns.

Two OpenMP runtimes in one process slow each other and XLA, so that each side has a
process of its own. While one works the other is stopped by a signal: none of its
threads can spin. Both have the same environment.
"""

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.worker import cores

ROOT = Path(__file__).parents[1]
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}
"""glibc keeps freed memory: what `JAXVISION_MALLOC=keep` does, for both sides."""
PREPARE_LIMIT = 900.0
BLOCK_LIMIT = 300.0
ENOUGH_PAIRS = 3


class WorkerError(RuntimeError):
    """A side that cannot do its case; the message is the reason, in one line."""


class Task(NamedTuple):
    """What a side prepares: a function, `module:name`, and its arguments."""

    function: str
    arguments: dict[str, Any] = {}


class Timing(NamedTuple):
    """Seconds a call, by the clock and of all threads together."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
      pairs: turns of each side.
      seconds: the least length of a turn; a longer call is a turn by itself.
      limit: seconds of measuring after which `ENOUGH_PAIRS` are enough.
    """

    pairs: int = 5
    seconds: float = 1.0
    limit: float = 40.0


@dataclass(frozen=True)
class Comparison:
    """The turns of both sides, and what they said of their cases."""

    ours: list[Timing]
    peer: list[Timing]
    ours_facts: dict[str, Any] = field(default_factory=dict)
    peer_facts: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Medians in milliseconds; the ratio ours / peer, its median and its range.

        A ratio is that of two neighbouring turns, so that what slows the machine for
        longer than a turn slows both.
        """
        both = list(zip(self.ours, self.peer, strict=True))
        ratios = [a.wall / b.wall for a, b in both]
        return {
            "ours_ms": 1e3 * median(t.wall for t in self.ours),
            "peer_ms": 1e3 * median(t.wall for t in self.peer),
            "ratio": median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "cpu_ratio": median(a.cpu / max(b.cpu, 1e-9) for a, b in both),
            "ours_cpu_ms": 1e3 * median(t.cpu for t in self.ours),
            "peer_cpu_ms": 1e3 * median(t.cpu for t in self.peer),
            "pairs": len(both),
        }


def environment(*, malloc: str, waiting: str) -> dict[str, str]:
    """What both sides share: threads by affinity, the allocator, how threads wait."""
    threads = str(cores())
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if malloc == "keep":
        shared |= KEEP_MEMORY
    if waiting == "passive":
        shared["OMP_WAIT_POLICY"] = "PASSIVE"
    return shared


def _left(limit: float, end: float) -> float:
    """The limit, or what is left until `end` where that is less."""
    return min(limit, max(0.0, end - time.monotonic()))


class Worker:
    """A process that runs `benchmarks.worker`; it starts at the first request."""

    def __init__(self, variables: dict[str, str]):
        self._variables = variables
        self._process: subprocess.Popen | None = None
        self._log: Any = None
        self._task: Task | None = None
        self._facts: dict[str, Any] = {}

    def prepare(self, task: Task, *, end: float = math.inf) -> dict[str, Any]:
        """Prepares a case, unless it is the one at hand, and returns its facts."""
        if task != self._task:
            self._task = None
            request = {"prepare": task.function, "arguments": task.arguments}
            limit = _left(PREPARE_LIMIT, end)
            self._facts = self._ask(request, limit=limit)["facts"]
            self._task = task
        return self._facts

    def measure(self, calls: int, *, end: float = math.inf) -> Timing:
        """Times `calls` calls of the case."""
        answer = self._ask({"calls": calls}, limit=_left(BLOCK_LIMIT, end))
        return Timing(answer["wall"], answer["cpu"])

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.communicate()
            self._log.close()
            self._process = self._task = None

    def _ask(self, request: dict[str, Any], *, limit: float) -> dict[str, Any]:
        process = self._started()
        self._signal(signal.SIGCONT)
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], limit)
            line = process.stdout.readline() if ready else b""
        except BrokenPipeError:
            ready, line = [process.stdout], b""
        if not line:
            reason = self._last_words() if ready else f"no answer in {limit:.0f} s"
            self.close()
            raise WorkerError(reason)
        self._signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _started(self) -> Any:
        if self._process is None:
            self._log = tempfile.TemporaryFile()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=ROOT,
                env=os.environ | self._variables,
                # Signals go to the children that it may have, too.
                start_new_session=True,
            )
        return self._process

    def _signal(self, number: int) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass  # it has ended: the next read says so

    def _last_words(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        if code < 0:
            return f"the process ended by {signal.Signals(-code).name}{said}"
        return f"the process ended with exit code {code}{said}"


class Side(NamedTuple):
    """Somebody who takes turns; the name is that of its failures."""

    name: str
    worker: Worker
    task: Task


def take_turns(
    sides: Sequence[Side], *, plan: Plan, end: float = math.inf
) -> list[tuple[list[Timing], dict[str, Any]]]:
    """Prepares all cases and lets them take turns: the timings and facts of each.

    Raises:
      WorkerError: a side failed, or was not done by `end` of the monotonic clock; the
        message names it.
    """

    def ask(side: Side, function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments, end=end)
        except WorkerError as error:
            raise WorkerError(f"{side.name}: {error}") from error

    found: list[tuple[list[Timing], dict[str, Any]]] = []
    calls = []
    for side in sides:
        found.append(([], ask(side, side.worker.prepare, side.task)))
        # The first may compile once more, for what it was given back.
        once = min(ask(side, side.worker.measure, 1).wall for _ in range(2))
        calls.append(max(1, round(plan.seconds / max(once, 1e-7))))
    begun = time.monotonic()
    for done in range(plan.pairs):
        if done >= ENOUGH_PAIRS and time.monotonic() - begun > plan.limit:
            break
        for side, (timings, _), count in zip(sides, found, calls, strict=True):
            timings.append(ask(side, side.worker.measure, count))
    return found


class Pair:
    """A worker for each side, for cases one after the other; a context manager."""

    def __init__(self, variables: dict[str, str]):
        self._ours, self._peer = Worker(variables), Worker(variables)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_error) -> None:
        self._ours.close()
        self._peer.close()

    def compare(self, ours: Task, peer: Task, *, plan: Plan) -> Comparison:
        """Prepares both cases and lets them take turns.

        Raises:
          WorkerError: a side failed; the message names it.
        """
        sides = (
            Side("ours", self._ours, ours),
            Side("peer", self._peer, peer),
        )
        (mine, my_facts), (other, other_facts) = take_turns(sides, plan=plan)
        return Comparison(mine, other, my_facts, other_facts)
