"""One file from a server: goes on where it broke off, and ends where it has to.

Nothing here waits for ever, whatever the server does: it answers in time, sends as fast
as `FLOOR`, and no more than the file has.
"""

import http.client
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have come and, where the server says it, their total."""

FLOOR = 4096
"""Bytes a second; a server that sends less is as good as silent."""

_BLOCK = 1 << 18


class Remote(NamedTuple):
    """A file that a server has, and where it belongs on this machine.

    Attributes:
      path: where it is kept.
      url: where it is fetched from.
      sha256: its SHA-256 in hex digits, or the first of them.
      size: its bytes.
      find_fault: says of its first bytes why they cannot be right, if they cannot.
      slack: how much the size may be wrong, in bytes.
    """

    path: Path
    url: str
    sha256: str
    size: int
    find_fault: Callable[[bytes], str | None]
    slack: int = 0


class TransferError(Exception):
    """One attempt that failed; `again` where another may do better."""

    def __init__(self, reason: str, *, again: bool):
        super().__init__(reason)
        self.again = again


def attempt(
    remote: Remote, part: Path, *, timeout: float, progress: Progress | None
) -> int:
    """Brings what `part` lacks of the file, in one attempt.

    What came stays in `part` when it fails, for the next attempt, unless it is of
    another file. A server that cannot begin in the middle sends everything anew.

    Args:
      remote: the file.
      part: what there is of it; need not exist.
      timeout: seconds without an answer, or with less than `FLOOR` of data, after which
        the attempt ends.
      progress: told what has come.

    Returns:
      The byte from which the server began.

    Raises:
      TransferError: the file is not whole.
      OSError: `part` cannot be written.
    """
    have = part.stat().st_size if part.is_file() else 0
    server = _Server(remote.url, timeout)
    try:
        with server.opened(have) as reply:
            start, total = _place(reply, have)
            with part.open("r+b" if start else "wb") as file:
                done = file.seek(start)
                for block in server.blocks(reply):
                    _check(block, done, total, remote=remote)
                    file.write(block)
                    done += len(block)
                    if progress:
                        progress(done, total)
    except _OtherFileError as error:
        part.unlink(missing_ok=True)
        raise TransferError(f"{server.host} {error}", again=error.again) from None
    if done < (remote.size - remote.slack if total is None else total):
        reason = f"{server.host} sent {done:,} of {total or remote.size:,} bytes"
        raise TransferError(reason, again=True)
    return start


class _OtherFileError(TransferError):
    """What comes does not belong to what is there, or to the file at all."""


def _place(reply: Any, have: int) -> tuple[int, int | None]:
    """From which byte on the server sends, and how many there are in all."""
    if getattr(reply, "status", None) != 206:
        length = reply.headers.get("Content-Length") or ""
        return 0, int(length) if length.isdigit() else None
    said = reply.headers.get("Content-Range") or ""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said.strip())
    if not found or int(found[1]) != have:
        raise _OtherFileError(f"sent another part than asked for ({said})", again=True)
    return have, None if found[2] == "*" else int(found[2])


def _check(block: bytes, done: int, total: int | None, *, remote: Remote) -> None:
    """Raises _OtherFileError where `block`, or the size, is not the file's."""
    size, most = remote.size, remote.size + remote.slack
    fault = None if done else remote.find_fault(block[:512])
    if fault:
        raise _OtherFileError(f"sent what {fault}", again=False)
    if total is not None and abs(total - size) > remote.slack:
        raise _OtherFileError(
            f"has another file, of {total:,} bytes and not {size:,}", again=False
        )
    if done + len(block) > most:
        raise _OtherFileError(f"sent more than the file's {size:,} bytes", again=False)


class _Server:
    """Where the file comes from; each fault has its name before it."""

    def __init__(self, url: str, timeout: float):
        self.url, self.timeout, self.host = url, timeout, url

    def opened(self, start: int) -> Any:
        """The answer to a request for the bytes from `start` on."""
        with self._faults():
            self.host = urllib.parse.urlsplit(self.url).netloc or self.url
            asked = request(self.url, "GET", start=start)
            return within(
                self.timeout,
                partial(urllib.request.urlopen, asked, timeout=self.timeout),
            )

    def blocks(self, reply: Any) -> Iterator[bytes]:
        """The body in pieces, as long as they come fast enough."""
        since, count = time.monotonic(), 0
        while True:
            with self._faults():
                block = reply.read1(_BLOCK)
            if not block:
                return
            yield block
            count += len(block)
            seconds = time.monotonic() - since
            if seconds >= self.timeout:
                if count < FLOOR * seconds:
                    sent = f"{count:,} bytes in {seconds:.3g} seconds"
                    reason = f"{self.host} sent {sent}, too slow to wait for"
                    raise TransferError(reason, again=True)
                since, count = time.monotonic(), 0

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                raise _OtherFileError("has less than is here", again=True) from None
            reason = f"{self.host} answered {error.code} {error.reason}"
            again = error.code >= 500 or error.code == 429
            raise TransferError(reason, again=again) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                cause = f"no answer or no data for {self.timeout:g} seconds"
            again = not isinstance(error, ValueError)
            raise TransferError(f"{self.host}: {cause}", again=again) from None


def request(url: str, method: str, *, start: int = 0) -> urllib.request.Request:
    """For the file at `url`, from the byte `start` on."""
    headers = {"User-Agent": "jaxvision"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urllib.request.Request(url, headers=headers, method=method)


def within(timeout: float, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises, if it does so within `timeout` seconds.

    In a thread, because no timeout of urllib's covers the look-up of a host's name, nor
    headers that drip.

    Raises:
      TimeoutError: it takes longer.
    """
    outcome: list[Callable[[], Any]] = []

    def run() -> None:
        try:
            value = call()
        except Exception as error:
            outcome.append(partial(_throw, error))
        else:
            outcome.append(lambda: value)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise TimeoutError
    return outcome[0]()


def _throw(error: Exception) -> None:
    raise error
