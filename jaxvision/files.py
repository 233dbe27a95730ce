"""Files that appear whole or not at all, and are files when they are read."""

import dataclasses
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

Options = TypeVar("Options")

# Read once, because reading means setting, which other threads would see.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well.

    The content is on the disk before the rename, so that a crash or a full disk
    leaves either the old file or the new one. On an exception the temporary file goes.

    Args:
      path: the file to write; its folder is made where it is missing. The temporary
        name keeps the suffix, because image writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, because a name may be as long as names can be, and this one is longer.
    suffix = path.suffix if len(path.suffix) <= 32 else ""
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem[:32]}.", suffix=suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it when the block ends well.

    Args:
      path: the folder to write, which is not there; that around it is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:32]}."))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_UMASK)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move(temporary: Path, path: Path) -> None:
    """Renames a finished file in its folder, once its content is on the disk."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o666 & ~_UMASK)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def cache_home() -> Path:
    """The folder of what jaxvision keeps for itself, which need not exist yet.

    `$JAXVISION_HOME`, or `jaxvision` in `user_cache()`.

    Raises:
      FileNotFoundError: the user has no home folder.
    """
    home = os.environ.get("JAXVISION_HOME")
    if home is None or not home:
        return user_cache() / "jaxvision"
    return expanded(home)


def user_cache() -> Path:
    """Where programs keep what can be had again: `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
      FileNotFoundError: the user has no home folder.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def expanded(path: str | Path) -> Path:
    """`path` with `~` as the user's home folder.

    Raises:
      FileNotFoundError: the user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FileNotFoundError(
            f"{path}: there is no home folder; set HOME, or JAXVISION_HOME to a folder "
            "for weights, data and compiled programs"
        ) from None


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes `data`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def regular_file(path: str, flags: int) -> int:
    """`open(path, opener=regular_file)` opens nothing but files.

    A named pipe would wait for a writer, for ever.

    Raises:
      OSError: there is none, or what is there is a folder, a pipe, a device.
    """
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "not a regular file", path)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a regular file, in hex digits.

    Raises:
      OSError: there is none.
    """
    with open(path, "rb", opener=regular_file) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | Path) -> bytes:
    """What is in a regular file.

    Raises:
      OSError: there is none.
    """
    with open(path, "rb", opener=regular_file) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a regular file.

    Raises:
      OSError: there is none.
      UnicodeDecodeError: it is no such text.
    """
    with open(path, encoding="utf-8", opener=regular_file) as file:
        return file.read()


def at_home(options: Options) -> Options:
    """A dataclass of options whose paths begin where people mean them to.

    A shell leaves `--output=~/runs` and a file's `output: ~/runs` as they are. A name
    such as `~draft`, which is nobody's home, stays.
    """

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(expanded, value))
        if isinstance(value, Path):
            return Path(os.path.expanduser(value))
        return value

    fields: Any = options
    found = {
        one.name: expanded(getattr(options, one.name))
        for one in dataclasses.fields(fields)
    }
    return dataclasses.replace(fields, **found)
