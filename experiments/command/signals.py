"""Ctrl-C and SIGTERM: a training stops between two steps, and says how to go on."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


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


def interrupted(folder: Path, module: str, stop: Stop) -> NoReturn:
    """Ends the process after a signal, saying how to go on."""
    print(
        f"stopped; all is saved. To go on: python -m {module} --resume {folder}",
        file=sys.stderr,
    )
    sys.exit(128 + (stop.signum or signal.SIGINT))
