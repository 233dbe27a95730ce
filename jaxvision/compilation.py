"""XLA's compiled programs kept on disk, so that the next process need not compile."""

import glob
import hashlib
import os
import re
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxvision.files import cache_home

LIMIT = 2**30
"""Bytes that the folder may hold; a large network's step is some megabytes."""
SHORTEST = 0.2
"""Seconds of compilation from which a program is kept. JAX's own default is 1."""
NAME = "compiled-programs"
MARKER = "made-by-jaxvision.txt"
"""Stands in the folder: without it, what is there is somebody's and stays as it is."""
MARKER_TEXT = "jaxvision keeps compiled programs here, and deletes the oldest ones.\n"
SUFFIXES = ("-cache", "-atime")
"""How the files end that JAX writes."""
DAMAGED = re.compile("Error reading persistent compilation cache entry for '([^']+)'")
"""What JAX warns of."""
ENABLED = "jax_enable_compilation_cache"
FOLDER = "jax_compilation_cache_dir"
SECONDS = "jax_persistent_cache_min_compile_time_secs"


def check_device() -> None:
    """Has JAX find its devices now.

    Raises:
      ValueError: it finds none of the kind that `JAX_PLATFORMS` asks for.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of CUDA without a GPU
        asked = getattr(jax.config, "jax_platforms", None)
        said = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device here"
            f"{said and f' ({said})'}; unset it, or install JAX for that device"
        ) from None


def use_cache() -> Path | None:
    """Has JAX keep compiled programs in a private folder; returns the one in use.

    It is `$JAXVISION_HOME/compiled-programs`, by default below `~/.cache/jaxvision`,
    and there a folder for this machine. JAX's own settings win: where
    `JAX_COMPILATION_CACHE_DIR` names a folder it is left as it is, and
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing. The oldest programs go when the
    folder is full; nothing else is ever deleted.

    None is returned, and every process compiles, where the folder cannot be written,
    holds something else, is a link, or belongs to somebody else, whose programs would
    be run; and on a CPU where loading a program is known to fail.
    """
    if not getattr(jax.config, ENABLED):
        return None
    if chosen := getattr(jax.config, FOLDER):
        return Path(chosen)
    if jax.default_backend() == "cpu" and not loads(_processor()):
        return None
    try:
        home = _ours(cache_folder())
        folder = _private(home / machine(_processor()))
        _prune(home, limit=LIMIT)
    except OSError:
        return None
    if SECONDS.upper() not in os.environ:
        jax.config.update(SECONDS, SHORTEST)
    jax.config.update(FOLDER, str(folder))
    _replace_damaged(folder)
    return folder


def cache_folder() -> Path:
    """The folder of all machines' programs, which need not exist yet."""
    return cache_home() / NAME


def machine(processor: str) -> str:
    """A name for a processor and how many of its cores there are.

    JAX's key leaves out the cores, but a program compiled for one splits no loop
    between two. The processor is there because machines may share a home folder:
    another's instructions would crash.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return hashlib.sha256(f"{cores} {processor}".encode()).hexdigest()[:16]


def loads(processor: str) -> bool:
    """Whether XLA loads a CPU program that it has kept.

    For Intel's processors it notes tuning preferences, such as `prefer-no-gather`, as
    if the processor had to support them: at each load it logs an error and compiles
    anew (openxla/xla#44565). On macOS large programs overflow a stack.
    """
    return sys.platform == "linux" and "GenuineIntel" not in processor


def _processor() -> str:
    """What the system says of the processor, the same for all its cores."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    names = "vendor_id|cpu family|model|model name|stepping|flags|Features|CPU part"
    return "\n".join(sorted(set(re.findall(rf"^(?:{names})\s*:.*$", text, re.M))))


def _ours(folder: Path) -> Path:
    """The folder of compiled programs, made and marked where it is missing.

    Raises:
      OSError: it cannot be made, is not ours, or was not made for this.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_owner(folder)
    marker = folder / MARKER
    if not marker.exists():
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} holds something else")
        marker.write_text(MARKER_TEXT, encoding="utf-8")
    return _private(folder)


def _private(folder: Path) -> Path:
    """The folder, made where it is missing, closed to others.

    Raises:
      OSError: it cannot be made or is not ours.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_owner(folder)
    folder.chmod(0o700)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written")
    return folder


def _check_owner(folder: Path) -> None:
    """Raises OSError where the folder is a link or belongs to another user."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")


def _replace_damaged(folder: Path) -> None:
    """Deletes each program of JAX's `folder` that JAX says it cannot read.

    JAX then compiles it, and writes nothing over a file that is there: a damaged one
    would be read, and the program compiled, in each process from then on.
    """
    show = warnings.showwarning

    def look(message, category, filename, lineno, file=None, line=None):
        if found := DAMAGED.match(str(message)):
            # The key begins with the module's name, and the warning has no more of it.
            for path in folder.glob(f"{glob.escape(found[1])}-*"):
                path.unlink(missing_ok=True)
            message = (
                f"a damaged compiled program was deleted and is made anew: {message}"
            )
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = look


def _prune(folder: Path, *, limit: int) -> None:
    """Deletes the programs used longest ago until the rest takes `limit` bytes."""
    entries = sorted(_entries(folder), reverse=True)
    total = 0
    for _, size, path in entries:
        total += size
        if total > limit:
            path.unlink(missing_ok=True)


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each of JAX's files was last used, its bytes, its path; no link's."""
    for machines in os.scandir(folder):
        if not machines.is_dir(follow_symlinks=False):
            continue
        for entry in os.scandir(machines):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # another process has just deleted it
                continue
            if stat.S_ISREG(found.st_mode) and entry.name.endswith(SUFFIXES):
                used = max(found.st_atime, found.st_mtime)
                yield used, found.st_size, Path(entry.path)
