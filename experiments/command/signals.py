"""Ctrl-C and its like: a training stops between two steps, and says how to go on."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from experiments.command.console import complain
from jaxvision import processes
from jaxvision.text import shell_word

# A terminal that is closed hangs up; batch systems warn by SIGUSR1 before time is up.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Stop:
    """Whether a signal asked the run to stop; the second Ctrl-C is at once."""

    signum: int | None = None
    agreed: bool = False
    """Whether all processes know of it: those of one program stop together."""

    def look(self) -> bool:
        """Whether a signal asked any process to stop; all have to look at once."""
        heard = self.signum if self else None
        said = max(int(one) for one in processes.gather(str(int(heard or 0))))
        if said:
            self.signum, self.agreed = said, True
        return self.agreed

    def __bool__(self) -> bool:
        return self.signum is not None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A flag that the signals set, so that a step is never cut in the middle.

    A hang-up that is ignored, as under nohup, stays so.
    """
    stop = Stop()

    def handle(signum, _frame):
        if stop and signum == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signum = signum

    before = {}
    for one in SIGNALS:
        handler = signal.getsignal(one)
        if one == getattr(signal, "SIGHUP", None) and handler == signal.SIG_IGN:
            continue
        before[one] = signal.signal(one, handle)
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            # None: set by another library than Python's
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def interrupted(folder: Path, module: str, stop: Stop) -> NoReturn:
    """Ends the process after a signal, saying how to go on."""
    if processes.is_first():
        complain(
            f"stopped; all is saved. To go on: python -m {module} --resume "
            f"{shell_word(folder)}"
        )
    sys.exit(128 + (stop.signum or signal.SIGINT))
