"""Files of known content on this machine: found, or fetched once and checked.

Beside each lie the full SHA-256 seen when it was first used (`.sha256`) and what a
broken download left (`.part`). Several processes that want the same file download it
once.
"""

import os
import re
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from jaxvision import files
from jaxvision.holder import holder, sign
from jaxvision.http_file import Progress, Remote, TransferError, attempt

ATTEMPTS = 3
"""So many in a row without progress end a download."""
PATIENCE = 5.0
"""Seconds of waiting for another process's download until it is named."""
STEP = 1 << 20
"""Bytes that an attempt must bring to count as progress."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""What only the owner may do to a file of ours."""


class DownloadError(RuntimeError):
    """A file that is neither here nor to be had; the message says what to do."""


def fetch(
    remote: Remote,
    *,
    progress: Progress | None = None,
    timeout: float = 30.0,
    backoff: float = 1.0,
) -> Path:
    """The file of `remote` on this machine, downloaded if need be, its hash checked.

    Several processes that want the same file download it once. A damaged file in its
    place is set aside, with a warning, and fetched again. What a broken connection, or
    a killed process, left of a file is the beginning of the next download.

    Args:
      remote: what is wanted.
      progress: called during a download.
      timeout: seconds without an answer or with next to no data after which an attempt
        ends.
      backoff: seconds before the second attempt; doubled before the third.

    Raises:
      DownloadError: the file cannot be had; one line says what to put where.
    """
    path = remote.path
    try:
        if not is_intact(path, remote):
            _fetch_locked(remote, progress, timeout, backoff)
    except OSError as error:
        reason = (
            f"the folder {path.parent} cannot be written ({error}); set JAXVISION_HOME"
        )
        raise _failure(remote, reason) from error
    if recorded(remote) is None:
        with suppress(OSError):  # a cache that is shared read-only has no record
            files.write_text(record_path(remote), files.sha256(path) + "\n")
    return path


def mirrored(url: str, *, name: str, mirror: str | None) -> str:
    """Where to fetch from: `url`, or `name` in a mirror where there is one.

    Args:
      url: the authors'.
      name: of the file, below the mirror.
      mirror: a URL or, for files that are on this machine already, a folder.
    """
    if not mirror:
        return url
    folder = files.expanded(mirror)
    if folder.is_dir():
        return (folder.absolute() / name).as_uri()
    return f"{mirror.rstrip('/')}/{name}"


def is_right(digest: str, remote: Remote) -> bool:
    """Whether `digest` is that of the file of `remote`, as far as it is known."""
    return digest.startswith(remote.sha256)


def is_intact(path: Path, remote: Remote) -> bool:
    """Whether `path` is the file of `remote`, and the one that was first seen here."""
    try:
        digest = files.sha256(path)
    except OSError:
        return False
    return is_right(digest, remote) and recorded(remote) in (None, digest)


def record_path(remote: Remote) -> Path:
    """Where the full hash of the file is written when it is first used."""
    return remote.path.with_name(f"{remote.path.name}.sha256")


def recorded(remote: Remote) -> str | None:
    """The full hash written when the file was first used."""
    try:
        text = record_path(remote).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def is_trusted(path: Path) -> bool:
    """Whether nobody but this user, the system or the cache's keepers made `path`.

    A file of ours, or root's, that others cannot write; or any where not everybody can
    write to the cache's folders, whose writers one has chosen by naming it.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return False
        mine = found.st_uid in (os.getuid(), 0) and not found.st_mode & OTHERS_WRITE
        writable = (p.stat().st_mode for p in (path.parent, path.parent.parent))
        shared = any(mode & stat.S_IWOTH for mode in (found.st_mode, *writable))
    except OSError:
        return False
    return mine or not shared


def set_aside(path: Path) -> None:
    """Renames a damaged file, with a warning, so that it is looked at no more."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    warnings.warn(f"{path} is damaged; it is kept as {aside.name}", stacklevel=4)


def _fetch_locked(
    remote: Remote, progress: Progress | None, timeout: float, backoff: float
) -> None:
    path = remote.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if path.is_file():
            if is_intact(path, remote):  # another process was faster
                return
            set_aside(path)
        record_path(remote).unlink(missing_ok=True)
        part = _part(remote)
        digest = _download(remote, part, progress, timeout, backoff)
        files.move(part, path)
        files.write_text(record_path(remote), digest + "\n")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time fetch `path`; one that takes long is named."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    signed = path.with_name(f".{path.name}.running.json")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        warnings.warn(
            f"waiting for {path.name}, which {holder(signed)}, is fetching: end it if "
            "it hangs",
            stacklevel=5,
        )
        lock.acquire()
    try:
        sign(signed)
        yield
    finally:
        signed.unlink(missing_ok=True)
        lock.release()


def _part(remote: Remote) -> Path:
    """Where a download grows; what is there already, if it can be the file's."""
    part = remote.path.with_name(f"{remote.path.name}.part")
    if part.is_symlink() or part.exists():
        too_long = part.lstat().st_size > remote.size + remote.slack
        if too_long or not is_trusted(part):
            part.unlink()
    return part


def _download(
    remote: Remote,
    part: Path,
    progress: Progress | None,
    timeout: float,
    backoff: float,
) -> str:
    """Brings `part` to its end, in `ATTEMPTS` without progress; the file's hash.

    Raises:
      DownloadError: it cannot be had.
    """
    failed, most = 0, _length(part)
    # A process may have been killed between the last byte and the new name.
    if most >= remote.size - remote.slack and is_right(
        digest := files.sha256(part), remote
    ):
        return digest
    while True:
        try:
            start = attempt(remote, part, timeout=timeout, progress=progress)
            if is_right(digest := files.sha256(part), remote):
                return digest
            part.unlink()
            reason = f"wrong hash, what came is another file (SHA-256 {digest[:8]}...)"
            # Its beginning may have been another one's.
            raise TransferError(reason, again=start > 0)
        except TransferError as error:
            length = _length(part)
            failed = 1 if length >= most + STEP else failed + 1
            most = max(most, length)
            if not error.again or failed == ATTEMPTS:
                raise _failure(remote, str(error), kept=length) from None
        time.sleep(backoff * 2 ** (failed - 1))


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _failure(remote: Remote, reason: str, *, kept: int = 0) -> DownloadError:
    line = " ".join(reason.split())
    if kept:
        line += f"; {kept:,} bytes are kept, and the next start goes on from there"
    says = "is" if len(remote.sha256) == 64 else "begins with"
    return DownloadError(
        f"{remote.path.name} could not be fetched: {line}; get {remote.url} (its "
        f"SHA-256 {says} {remote.sha256}) and put it into {remote.path.parent}"
    )
