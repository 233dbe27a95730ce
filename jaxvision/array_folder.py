"""A folder of arrays by name, which Orbax writes and reads.

What Orbax makes of a folder's path, and what it says of a fault, are kept from the
rest: it takes brackets in a path for a pattern and loses what it saved there, and of a
full disk it says a thousand lines.
"""

import itertools
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

Arrays = dict[str, np.ndarray]

PLAIN = re.compile(r"[A-Za-z0-9/._+=,@-]{1,512}")
"""Paths that Orbax takes as they are; others it is led to through a link."""
FAULTS = re.compile(
    r"no space left on device|disk quota exceeded|file too large|permission denied|"
    r"read-only file system|input/output error|too many open files|"
    r"file name too long|cannot allocate memory",
    re.IGNORECASE,
)
"""What the system says is wrong, somewhere in what Orbax says."""
LONGEST = 300
_together = itertools.count()


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Writes `arrays` into a new folder `path`, whose name is a number, and reads them.

    Raises:
      OSError: they cannot be written, or are not what was written when read again.
    """
    args = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays))
    before = sys.unraisablehook
    sys.unraisablehook = partial(_unless_late, before)
    try:
        with _manager(path.parent) as manager:
            if not manager.save(int(path.name), args=args, force=True):
                raise OSError("Orbax refuses to")
        found = read_arrays(path, arrays)
        # After a fault the threads still answer, so it stays.
        sys.unraisablehook = before
    except Exception as error:  # of Orbax, TensorStore or asyncio: any kind there is
        raise OSError(f"{path} cannot be written: {reason(error)}") from None
    for name, array in arrays.items():
        read = found[name]
        if (read.dtype, read.shape) != (array.dtype, array.shape) or (
            read.tobytes() != array.tobytes()
        ):
            raise OSError(f"{path} cannot be read: {name} is not what was written")


def begin_arrays(path: Path, arrays: dict[str, jax.Array]) -> Callable[[], None]:
    """Begins to write arrays of which no process has all; all processes call it.

    Each writes what it has into the same new folder `path`, whose name is a number.

    Returns:
      What waits until all is written, and raises OSError as this does. The arrays may
      be donated by then.

    Raises:
      OSError: they cannot be written.
    """
    args = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays))
    stack = ExitStack()

    @contextmanager
    def plainly() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind, as above
            raise OSError(f"{path} cannot be written: {reason(error)}") from None

    with plainly():
        manager = stack.enter_context(_manager(path.parent, together=True))
        if not manager.save(int(path.name), args=args, force=True):
            raise OSError("Orbax refuses to")

    def wait() -> None:
        with plainly(), stack:
            manager.wait_until_finished()

    return wait


def read_arrays(path: Path, names: Iterable[str]) -> Arrays:
    """The arrays of these names in the folder `path`, bit for bit.

    Raises:
      OSError: they cannot be read.
    """
    names = list(names)
    state = ocp.args.PyTreeRestore(
        item=dict.fromkeys(names, 0),
        restore_args=dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray)),
    )
    args = ocp.args.Composite(state=state)
    try:
        with _manager(path.parent) as manager:
            return manager.restore(int(path.name), args=args)["state"]
    except Exception as error:  # of any kind, as above
        raise OSError(f"{path} cannot be read: {reason(error)}") from None


def _unless_late(hook: Callable[[Any], object], raised: Any) -> None:
    """Passes on what could not be raised, but for answers that Orbax gave up on."""
    late = isinstance(raised.exc_value, RuntimeError)
    if not late or str(raised.exc_value) != "Event loop is closed":
        hook(raised)


def reason(error: BaseException) -> str:
    """One line of what may be hundreds."""
    if found := FAULTS.search(str(error)):
        return found[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line[:LONGEST]}"


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """A path to `folder` in which Orbax sees no pattern."""
    if PLAIN.fullmatch(str(folder)):
        yield folder
        return
    place = tempfile.gettempdir()
    if not PLAIN.fullmatch(place):
        place = "/tmp"
    with tempfile.TemporaryDirectory(prefix="jaxvision-", dir=place) as temporary:
        link = Path(temporary) / "checkpoints"
        link.symlink_to(folder, target_is_directory=True)
        yield link


@contextmanager
def _manager(
    folder: Path, *, together: bool = False
) -> Iterator[ocp.CheckpointManager]:
    """Orbax on one folder, in this process alone or in all, its notes held back.

    Its errors are raised; it would write a hundred lines of each to the log, too.
    """

    def has_news(record: logging.LogRecord) -> bool:
        return record.levelno == logging.WARNING or "orbax" not in record.pathname

    process = jax.process_index()
    if together:
        processes = ocp.options.MultiprocessingOptions(
            active_processes=set(range(jax.process_count())),
            barrier_sync_key_prefix=f"all{next(_together)}",
        )
    else:
        processes = ocp.options.MultiprocessingOptions(
            process,
            active_processes={process},
            barrier_sync_key_prefix=f"only{process}",
        )
    options = ocp.CheckpointManagerOptions(
        create=False,
        enable_async_checkpointing=together,
        multiprocessing_options=processes,
    )
    logger = logging.getLogger("absl")
    logger.addFilter(has_news)
    try:
        # Compression would take four times as long and save 8 % of float32 weights.
        state = ocp.PyTreeCheckpointHandler(
            use_compression=False, multiprocessing_options=processes
        )
        with (
            _plain(folder) as plain,
            ocp.CheckpointManager(
                plain, options=options, item_handlers={"state": state}
            ) as manager,
        ):
            yield manager
    finally:
        logger.removeFilter(has_news)
