"""Official archives of data sets: fetched, checked, and read without being trusted.

They are kept in `$JAXVISION_HOME/data/SET`, by default `~/.cache/jaxvision/data/SET`.
No path in an archive is ever written to or followed: members are asked for by name.
"""

import gzip
import os
import tarfile
from collections.abc import Callable, Collection, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from jaxvision import download, files
from jaxvision.http_file import Remote

Tell = Callable[[str, int, int], None]
"""Called with what goes on, how much of it is done, and of how much."""

_GZIP = b"\x1f\x8b"
_MOST_MEMBERS = 100_000


class Archive(NamedTuple):
    """An archive that its authors publish.

    Attributes:
      folder: of the set in the cache and on a mirror.
      file: its name.
      site: where its authors keep it.
      size: in bytes.
      sha256: in hex.
    """

    folder: str
    file: str
    site: str
    size: int
    sha256: str

    @property
    def url(self) -> str:
        """Where to fetch from: the authors' site, or `$JAXVISION_DATA_URL/FOLDER`.

        That is a URL or, for files that are on this machine already, a folder.
        """
        mirror = os.environ.get("JAXVISION_DATA_URL")
        name = f"{self.folder}/{self.file}"
        return download.mirrored(f"{self.site}/{self.file}", name=name, mirror=mirror)

    @property
    def remote(self) -> Remote:
        """What is to be fetched, and its place in the cache."""
        path = data_folder(self.folder) / self.file
        return Remote(path, self.url, self.sha256, self.size, find_fault)

    def fetch(self, *, tell: Tell | None = None) -> Path:
        """The archive in the cache, downloaded if need be, its hash checked.

        Raises:
          DownloadError: it cannot be had; one line says what to put where.
        """

        def progress(done: int, total: int | None) -> None:
            if tell is not None:
                tell(f"fetching {self.file}", done, total or self.size)

        return download.fetch(self.remote, progress=progress)

    def check(self, path: Path) -> None:
        """Raises ValueError unless the file at `path` is this archive."""
        if not download.is_intact(path, self.remote):
            size = path.stat().st_size if path.is_file() else 0
            raise ValueError(
                f"{path} is damaged or another file ({size:,} bytes; {self.file} has "
                f"{self.size:,} and the SHA-256 {self.sha256}): get {self.url} again"
            )


def data_folder(name: str) -> Path:
    """The folder of a set in our cache, which need not exist yet.

    Raises:
      ValueError: the user has no home folder.
    """
    try:
        return files.cache_home() / "data" / name
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None


def find_fault(head: bytes) -> str | None:
    """Why a file that begins with `head` is no tar archive, if it is none."""
    if head.startswith(_GZIP) or head[257:262] == b"ustar":
        return None
    is_page = head.lstrip(b"\xef\xbb\xbf\t\r\n ").startswith(b"<")
    return "is a web page and no archive" if is_page else "is no tar archive"


def read_members(
    path: Path, wanted: Collection[str], *, largest: int, most: int
) -> Iterator[tuple[str, bytes]]:
    """The wanted members of a tar archive, compressed by gzip or not, as they come.

    Other members are passed over. The names that come are those of `wanted`.

    Args:
      path: the archive.
      wanted: names of members, as the archive has them.
      largest: bytes that one of these may hold.
      most: bytes that the whole archive may come to when it is unpacked.

    Raises:
      ValueError: the archive is damaged, holds too much, a path that leads out of it, a
        wanted member twice or as something else than a file; or it lacks one. The
        message is one line. Members that came before are as they are in the archive.
    """
    left = set(wanted)
    try:
        with open(path, "rb", opener=files.regular_file) as file:
            for member, data in _walk(file, wanted, largest, most):
                if member not in left:
                    raise _Refused(f"holds {member} twice")
                left.remove(member)
                yield member, data
    except _Refused as error:
        raise ValueError(f"{path} {error}: it is not the official archive") from None
    except Exception as error:  # tarfile and gzip raise nearly anything on damage
        why = " ".join(f"{error}".split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read ({why}): get it again") from error
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ValueError(
            f"{path} lacks {min(left)}{more}: it is short or not the official archive"
        )


class _Refused(Exception):
    """What an archive has that none should have."""


class _Bounded:
    """A file of which no more than so many bytes are read."""

    def __init__(self, file: BufferedIOBase, most: int):
        self._file = file
        self._left = most
        self._most = most

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _Refused(f"unpacks to more than {self._most:,} bytes")
        return data


def _walk(
    file: BufferedIOBase, wanted: Collection[str], largest: int, most: int
) -> Iterator[tuple[str, bytes]]:
    is_gzip = file.read(2) == _GZIP
    file.seek(0)
    content = gzip.open(file) if is_gzip else file
    # As a stream: it is read once, forwards, and no offset in it can lead back.
    bounded: Any = _Bounded(content, most)  # all that a stream asks for is `read`
    with tarfile.open(fileobj=bounded, mode="r|") as tar:
        for count, member in enumerate(tar):
            if count >= _MOST_MEMBERS:  # each is kept in memory
                raise _Refused(f"holds more than {_MOST_MEMBERS:,} members")
            name = member.name
            if name.startswith(("/", "\\")) or ".." in Path(name).parts:
                raise _Refused(f"holds {name[:80]!r}, a path that leads out of it")
            if name not in wanted:
                continue
            if not member.isreg() or member.issparse():
                raise _Refused(f"holds {name} as a link or device, not as a plain file")
            if member.size > largest:
                raise _Refused(
                    f"holds {name} with {member.size:,} bytes, more than {largest:,}"
                )
            opened = tar.extractfile(member)
            data = opened.read() if opened else b""
            if len(data) != member.size:
                raise EOFError(f"{name} ends early")
            yield name, data
