"""Several processes as one program: who is first, what they agree on, who is gone.

JAX's own coordination service carries all of it. What the processes tell one another is
text on the host: it names who is missing, costs no device time and waits as long as it
must. With one process nothing is sent, and the answers are its own.
"""

import hashlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # its client has no public name; Orbax takes it here

BY_HAND = "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
"""What says who a process is where nothing else does; JAX itself reads the first."""
SPARE = 30
"""Seconds that JAX waits longer than `heartbeat`; it ends with a stack trace."""
LOOK = 1000
"""Milliseconds of waiting between two looks at signals."""
FAREWELL = 5.0
"""Seconds that the first process, which has the service, stays for the others."""
_KEYS = "jaxvision"
_rounds = itertools.count()
_end = threading.Lock()
"""Held by the thread that ends the process: it alone says why."""
_finished = threading.Event()


class Fault(NamedTuple):
    """Why the program ends, as the process that noticed it says."""

    process: int
    host: str
    line: str
    noticed: bool
    """Whether it is of another process, which cannot say so itself."""


def _client() -> Any:
    """Of JAX's coordination service; None, where there is one process."""
    return distributed.global_state.client


def count() -> int:
    """How many processes the program has."""
    return distributed.global_state.num_processes or 1


def index() -> int:
    """Which of them this is, from zero on. No device is touched."""
    return distributed.global_state.process_id or 0


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return index() == 0


def start(*, heartbeat: int, say: Callable[[str], object]) -> None:
    """Joins the other processes, before any device is touched.

    Slurm, Kubernetes, Cloud TPU and Open MPI say who this process is, and else the
    variables of `BY_HAND`. A process of which nothing was heard for `heartbeat`
    seconds, or that ended by `fail`, ends the others.

    Args:
      heartbeat: seconds.
      say: is given the line that says why the program ends, on the first process.

    Raises:
      ValueError: nothing says who this process is, or the others are not there.
    """
    # It would take SIGTERM away from Python; whether to stop is agreed on by `gather`.
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            num_processes=_number("JAX_NUM_PROCESSES"),
            process_id=_number("JAX_PROCESS_ID"),
            heartbeat_timeout_seconds=heartbeat + SPARE,
        )
    except (ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"this process cannot join others ({said}): start it by Slurm, Kubernetes, "
            f"Open MPI or on Cloud TPU, or set {BY_HAND}"
        ) from None
    _finished.clear()
    watch = threading.Thread(
        target=_watch, args=(heartbeat, say), name="processes", daemon=True
    )
    watch.start()


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if text and not text.isdecimal():
        raise ValueError(f"{variable}={text!r} is no number")
    return int(text) if text else None


def gather(text: str) -> list[str]:
    """What each process gave, in their order; all must call it, as often as the others.

    It returns when the last one called it.
    """
    client = _client()
    if client is None:
        return [text]
    number = next(_rounds)
    client.key_value_set(f"{_KEYS}/{number}/{index()}", f"={text}")
    found = [_wait(f"{_KEYS}/{number}/{i}")[1:] for i in range(count())]
    # All are here, so all have read what was said the last time.
    client.key_value_delete(f"{_KEYS}/{number - 1}/{index()}")
    return found


def _wait(key: str) -> str:
    client = _client()
    while True:
        try:
            return client.blocking_key_value_get(key, LOOK)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def from_first(compute: Callable[[], Any]) -> Any:
    """What `compute()` is on the first process, for all; there alone it is called.

    It passes through JSON, which keeps every float, and makes lists of tuples.
    """
    return json.loads(gather(json.dumps(compute()) if is_first() else "")[0])


def gather_values(value: Any) -> list[Any]:
    """As `gather`, of what passes through JSON."""
    return [json.loads(text) for text in gather(json.dumps(value))]


def at_first(act: Callable[[], object]) -> None:
    """Has the first process do it, and the others wait until it is done."""
    if is_first():
        act()
    gather("done")


def differences(facts: Mapping[str, str]) -> str:
    """What differs between the processes of what should not, in words; or nothing.

    Args:
      facts: what it is -> its value or digest; the same names on each process.
    """
    said = [json.loads(text) for text in gather(json.dumps([_host(), dict(facts)]))]
    lines = []
    for process, (host, theirs) in enumerate(said):
        names = [n for n, value in said[0][1].items() if theirs.get(n) != value]
        if names:
            what = "; ".join(_told(n, said[0][1][n], theirs.get(n)) for n in names)
            lines.append(f"process {process} on {host}: {what}")
    return "; ".join(lines)


def _told(name: str, first: str, theirs: str | None) -> str:
    if max(len(first), len(theirs or "")) > 40:  # digests tell nobody anything
        return f"other {name} than process 0"
    return f"{name} is {theirs}, and {first} on process 0"


def finish() -> None:
    """Waits for the other processes' end: none may leave while another one works."""
    if _client() is not None:
        gather("done")
        _finished.set()


def fail(line: str, *, say: Callable[[str], object], code: int) -> None:
    """Ends this process by an error, and the others with it; alone, it returns.

    A line that several processes have is said once.
    """
    client = _client()
    if client is None:
        return
    with _end:
        if _post(Fault(index(), _host(), line, noticed=False)) or is_first():
            say(line if is_first() else f"{_who(index())}: {line}")
        _leave(code)


def broke_off(error: BaseException) -> bool:
    """Whether an error says that another process no longer answers."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "socket closed")
    return count() > 1 and any(word in str(error).lower() for word in words)


def await_end(heartbeat: int) -> None:
    """Waits for the watch to find out who is gone, which ends this process."""
    time.sleep(heartbeat + SPARE)


def _watch(heartbeat: int, say: Callable[[str], object]) -> None:
    """Says that this process is alive, until another one is not or has failed."""
    client, me = _client(), index()
    period, mine = min(1.0, heartbeat / 5), f"{_KEYS}-alive/{me}"
    heard: dict[int, tuple[str, float, float]] = {}
    while not _finished.wait(period):
        now, clock = time.monotonic(), time.time()
        try:
            client.key_value_set(mine, str(clock), allow_overwrite=True)
            faults = client.key_value_dir_get(f"{_KEYS}-fault/")
            beats = dict(client.key_value_dir_get(f"{_KEYS}-alive/"))
        except (RuntimeError, ValueError):
            return  # the service is gone with the first process: JAX ends this one
        if faults:
            _end_by(Fault(*json.loads(faults[0][1])), say)
        for process in range(count()):
            beat = beats.get(f"{_KEYS}-alive/{process}", "")
            if process not in heard or heard[process][0] != beat:
                heard[process] = beat, now, clock
            silent = now - heard[process][1]
            if silent > heartbeat and process != me:
                since = time.strftime("%H:%M:%S", time.localtime(heard[process][2]))
                line = (
                    f"error: nothing was heard of it since {since}, for {silent:.0f} s "
                    f"(--heartbeat {heartbeat}): it died or hangs. Start the same "
                    "command again, with --resume and the run's folder, on all machines"
                )
                fault = Fault(process, "", line, noticed=True)
                _post(fault)
                _end_by(fault, say)


def _end_by(fault: Fault, say: Callable[[str], object]) -> None:
    """Ends this process by what is wrong with another one."""
    if fault.process == index() and not fault.noticed:
        return  # its main thread is about to
    with _end:
        if is_first():
            say(f"{_who(fault.process, fault.host)}: {fault.line}")
        _leave(1)


def _post(fault: Fault) -> bool:
    """Tells the others; whether none has told the same before."""
    digest = hashlib.sha256(fault.line.encode(errors="replace")).hexdigest()[:16]
    try:
        _client().key_value_set(f"{_KEYS}-fault/{digest}", json.dumps(fault))
    except (RuntimeError, ValueError):  # somebody has, or the service is gone
        return False
    return True


def _leave(code: int) -> None:
    """Ends the process at once; JAX would wait for the others, for minutes."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    client = _client()
    try:
        client.key_value_set(f"{_KEYS}-gone/{index()}", "", allow_overwrite=True)
        until = time.monotonic() + FAREWELL
        while is_first() and time.monotonic() < until:
            if len(client.key_value_dir_get(f"{_KEYS}-gone/")) == count():
                break
            time.sleep(0.1)
    except (RuntimeError, ValueError):
        pass
    os._exit(code)


def _who(process: int, host: str = "") -> str:
    return f"process {process} of {count()}" + (f" on {host}" if host else "")


def _host() -> str:
    return socket.gethostname()
