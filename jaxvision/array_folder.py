"""A folder of arrays by name, which Orbax writes and reads.

What Orbax makes of a folder's path, and what it says of a fault, are kept from the
rest: it takes brackets in a path for a pattern and loses what it saved there, and of a
full disk it says a thousand lines.
"""

import hashlib
import itertools
import logging
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxvision import processes

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
    if not arrays:  # Orbax refuses none
        path.mkdir()
        return
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
            raise _differs(path, name)


def begin_arrays(
    path: Path, arrays: Mapping[str, jax.Array | np.ndarray]
) -> Callable[[], None]:
    """Begins to write arrays of which no process has all; all processes call it.

    Each writes what it has into the same new folder `path`, whose name is a number.

    Args:
      path: the folder.
      arrays: numpy's are those of the first process.

    Returns:
      What waits until all is written, and raises OSError as this does. The arrays may
      be donated by then. On the first process it reads them again, whole, and raises
      where any part is not what the process that has it wrote.

    Raises:
      OSError: they cannot be written.
    """
    args = ocp.args.Composite(state=ocp.args.PyTreeSave(dict(arrays)))
    places = {name: _places(array) for name, array in arrays.items()}
    with ThreadPoolExecutor() as pool:
        digests = processes.gather_values(list(pool.map(_own_digest, arrays.values())))

    @contextmanager
    def plainly() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind, as above
            raise OSError(f"{path} cannot be written: {reason(error)}") from None

    with plainly(), ExitStack() as stack:
        manager = stack.enter_context(_manager(path.parent, together=True))
        if not manager.save(int(path.name), args=args, force=True):
            raise OSError("Orbax refuses to")
        kept = stack.pop_all()

    def wait() -> None:
        with plainly(), kept:
            manager.wait_until_finished()
        if processes.is_first():
            found = read_arrays(path, places)
            for number, (name, of) in enumerate(places.items()):
                for process, at in of.items():
                    read = _digest(found[name][index] for index in at)
                    if read != digests[process][number]:
                        raise _differs(path, name)

    return wait


def _places(array: jax.Array | np.ndarray) -> dict[int, list[Any]]:
    """The index of each part of an array, by the process that has it.

    Of a part that several have, one counts.
    """
    if isinstance(array, np.ndarray):
        return {0: [...]}
    places = defaultdict(list)
    for shard in sorted(array.global_shards, key=lambda shard: shard.device.id):
        if shard.replica_id == 0:
            places[shard.device.process_index].append(shard.index)
    return dict(places)


def _own_digest(array: jax.Array | np.ndarray) -> str:
    """Of the parts that are this process's by `_places`, in that order."""
    if isinstance(array, np.ndarray):
        return _digest([array])
    own = sorted(array.addressable_shards, key=lambda shard: shard.device.id)
    # Copies, as a view of a CPU array would stop its donation.
    return _digest(np.array(shard.data) for shard in own if shard.replica_id == 0)


def _digest(parts: Iterable[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _differs(path: Path, name: str) -> OSError:
    return OSError(f"{path} cannot be read: {name} is not what was written")


def read_arrays(path: Path, names: Iterable[str]) -> Arrays:
    """The arrays of these names in the folder `path`, bit for bit.

    Raises:
      OSError: they cannot be read.
    """
    names = list(names)
    if not names:
        return {}
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
        those = ocp.options.MultiprocessingOptions(
            active_processes=set(range(jax.process_count())),
            barrier_sync_key_prefix=f"all{next(_together)}",
        )
    else:
        those = ocp.options.MultiprocessingOptions(
            process,
            active_processes={process},
            barrier_sync_key_prefix=f"only{process}",
        )
    options = ocp.CheckpointManagerOptions(
        create=False,
        enable_async_checkpointing=together,
        multiprocessing_options=those,
    )
    logger = logging.getLogger("absl")
    logger.addFilter(has_news)
    try:
        # Compression would take four times as long and save 8 % of float32 weights.
        state = ocp.PyTreeCheckpointHandler(
            use_compression=False, multiprocessing_options=those
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
