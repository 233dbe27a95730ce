"""Files of known content on this machine: found, or fetched once and checked.

A download appears whole or not at all, and has the hash that is expected. Several
processes that want the same file download it once. The full SHA-256 seen when a file
was first used is kept beside it (`.sha256`).
"""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from jaxvision import files

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have come and, where the server says it, their total."""

_BLOCK = 1 << 18


class DownloadError(RuntimeError):
    """A file that is neither here nor to be had; the message says what to do."""


class Remote(NamedTuple):
    """A file that a server has, and where it belongs on this machine.

    Attributes:
      path: where it is kept.
      url: where it is fetched from.
      sha256: its SHA-256 in hex, or the beginning of it.
      find_fault: says of its first bytes why they cannot be right, if they cannot.
    """

    path: Path
    url: str
    sha256: str
    find_fault: Callable[[bytes], str | None]


class _TransferError(Exception):
    """One attempt that failed; `again` where another may do better."""

    def __init__(self, reason: str, *, again: bool):
        super().__init__(reason)
        self.again = again


def fetch(
    remote: Remote,
    *,
    progress: Progress | None = None,
    timeout: float = 30.0,
    backoff: float = 1.0,
) -> Path:
    """The file of `remote` on this machine, downloaded if need be, its hash checked.

    Several processes that want the same file download it once. A damaged file in its
    place is set aside, with a warning, and fetched again.

    Args:
      remote: what is wanted.
      progress: called during a download.
      timeout: seconds without an answer or without data after which an attempt ends.
      backoff: seconds before the second attempt; doubled before the third.

    Raises:
      DownloadError: the file cannot be had; one line says what to put where.
    """
    path = remote.path
    try:
        if not is_intact(remote):
            _fetch_locked(remote, progress, timeout, backoff)
    except OSError as error:
        reason = (
            f"the folder {path.parent} cannot be written ({error}); set JAXVISION_HOME"
        )
        raise _failure(remote, reason) from error
    if _recorded(remote) is None:
        with suppress(OSError):  # a cache that is shared read-only has no record
            files.write_text(_record_path(remote), file_sha256(path) + "\n")
    return path


def _fetch_locked(
    remote: Remote, progress: Progress | None, timeout: float, backoff: float
) -> None:
    path = remote.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file():
            if is_intact(remote):  # another process was faster
                return
            set_aside(path)
        _record_path(remote).unlink(missing_ok=True)
        # What a killed download left: under the lock nobody is writing these.
        for leftover in path.parent.glob(f".{path.stem}.*{path.suffix}"):
            leftover.unlink()
        digest = _download(remote, progress, timeout, backoff)
        files.write_text(_record_path(remote), digest + "\n")


def _download(
    remote: Remote, progress: Progress | None, timeout: float, backoff: float
) -> str:
    """Downloads `remote` in three attempts at most; the full hash of the file."""
    waits = iter((backoff, 2 * backoff))
    while True:
        try:
            with files.atomic_path(remote.path) as temporary:
                return _stream(remote, temporary, progress, timeout)
        except _TransferError as error:
            wait = next(waits, None)
            if not error.again or wait is None:
                raise _failure(remote, str(error)) from None
        time.sleep(wait)


def _stream(
    remote: Remote, path: Path, progress: Progress | None, timeout: float
) -> str:
    sha256, done = hashlib.sha256(), 0
    with path.open("wb") as file:
        for block, total in _blocks(remote, timeout):
            file.write(block)
            sha256.update(block)
            done += len(block)
            if progress:
                progress(done, total)
    digest = sha256.hexdigest()
    if not digest.startswith(remote.sha256):
        reason = f"wrong hash, what came is another file (SHA-256 {digest[:8]}...)"
        raise _TransferError(reason, again=False)
    return digest


def _blocks(remote: Remote, timeout: float) -> Iterator[tuple[bytes, int | None]]:
    """The body in pieces, each with the total length where it is known."""
    host = url = remote.url
    try:
        host = urllib.parse.urlsplit(url).netloc or url
        with urllib.request.urlopen(request(url, "GET"), timeout=timeout) as reply:
            length = reply.headers.get("Content-Length")
            total = int(length) if length else None
            done = 0
            while block := reply.read(_BLOCK):
                fault = None if done else remote.find_fault(block[:512])
                if fault:
                    raise _TransferError(f"what {host} sent {fault}", again=False)
                done += len(block)
                yield block, total
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"{host} answered {error.code} {error.reason}"
        again = error.code >= 500 or error.code == 429
        raise _TransferError(reason, again=again) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            cause = f"no answer or no data for {timeout:g} seconds"
        again = not isinstance(error, ValueError)
        raise _TransferError(f"{host}: {cause}", again=again) from None
    if total is not None and done < total:
        reason = f"{host} sent {done:,} of {total:,} bytes"
        raise _TransferError(reason, again=True)
    if not done:
        raise _TransferError(f"{host} sent nothing", again=True)


def request(url: str, method: str) -> urllib.request.Request:
    """A request that says whose it is."""
    return urllib.request.Request(
        url, headers={"User-Agent": "jaxvision"}, method=method
    )


def _failure(remote: Remote, reason: str) -> DownloadError:
    line = " ".join(reason.split())
    says = "is" if len(remote.sha256) == 64 else "begins with"
    return DownloadError(
        f"{remote.path.name} could not be fetched: {line}; get {remote.url} (its "
        f"SHA-256 {says} {remote.sha256}) and put it into {remote.path.parent}"
    )


def _record_path(remote: Remote) -> Path:
    return remote.path.with_name(f"{remote.path.name}.sha256")


def _recorded(remote: Remote) -> str | None:
    """The full hash written when the file was first used."""
    try:
        text = _record_path(remote).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def is_intact(remote: Remote) -> bool:
    """Whether the file is here, with the hash that it must have."""
    try:
        digest = file_sha256(remote.path)
    except OSError:
        return False
    return digest.startswith(remote.sha256) and _recorded(remote) in (None, digest)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path) -> None:
    """Renames a damaged file, with a warning."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    warnings.warn(f"{path} is damaged; it is kept as {aside.name}", stacklevel=4)
