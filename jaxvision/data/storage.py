"""Faults of a disk or a file server, which are no faults of the photograph asked for.

A photograph that is missing or damaged is left out, and the same ones are on every
machine. What a server could not give this time is another matter: to leave it out would
train on other photographs than the next start, or the process beside this one.
"""

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

PAUSES = (1.0, 5.0)
"""Seconds before each further try."""
OF_FILES = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,  # no regular file
        errno.ENXIO,  # a socket
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EILSEQ,
    }
)
"""What the system says of a name behind which there is no readable file. All else that
it says is of the disk, the network or the machine."""


class StorageError(OSError):
    """A disk or a file server that fails; the message is one line."""


def patiently(name: str, act: Callable[[], Result]) -> Result:
    """What `act()` gives; it is tried again, after `PAUSES`, where the storage fails.

    Args:
      name: what is read, for the message.
      act: may raise anything, which is passed on where it is no fault of the storage.

    Raises:
      StorageError: it fails still.
    """
    for pause in (*PAUSES, None):
        try:
            return act()
        except Exception as error:  # of Pillow, Riegeli or tfds: any kind there is
            fault = storage_fault(error)
            if not fault:
                raise
            if pause is None:
                raise StorageError(
                    f"{name}: {fault}, {len(PAUSES) + 1} times in "
                    f"{sum(PAUSES):.0f} s: not the photo, but the disk or the file "
                    "server fails"
                ) from error
            time.sleep(pause)
    raise AssertionError


def storage_fault(error: Exception) -> str:
    """What the system says, if that is of the storage; else empty.

    Libraries that are not Python's give what it said somewhere in their own words.
    """
    if isinstance(error, StorageError):
        return ""
    if isinstance(error, OSError):
        is_fault = error.errno is not None and error.errno not in OF_FILES
        return error.strerror or str(error) if is_fault else ""
    words = str(error)
    said = (os.strerror(code) for code in _FAULTS if os.strerror(code) in words)
    return next(said, "")


_NAMES = (
    "EIO ESTALE ETIMEDOUT ENOTCONN ECONNRESET ECONNABORTED ECONNREFUSED EHOSTDOWN "
    "EHOSTUNREACH ENETDOWN ENETUNREACH EREMOTEIO ENOLINK EMFILE ENFILE ENOMEM"
)
_FAULTS = [getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name)]
"""Those that are looked for in a library's words."""
