"""torchvision's weight files on this machine: found, fetched, checked, converted once.

The hash of a file is checked at every use. `converters.cache` says where they lie.
"""

import hashlib
import os
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout

from converters import cache, weights
from converters.http_file import (
    SLACK,
    Progress,
    TransferError,
    attempt,
    request,
    within,
)
from converters.weights import Row
from jaxvision import files
from jaxvision.holder import holder, sign

ATTEMPTS = 3
"""So many in a row without progress end a download."""
PATIENCE = 5.0
"""Seconds of waiting for another process's download until it is named."""
STEP = 1 << 20
"""Bytes that an attempt must bring to count as progress."""


class WeightsError(RuntimeError):
    """A weight file that is neither here nor to be had; the message says what to do."""


def source_url(row: Row) -> str:
    """Where to fetch from: torchvision's URL, or `FILE` in `$JAXVISION_WEIGHTS_URL`.

    That is a URL or, for files that are on this machine already, a folder.
    """
    mirror = os.environ.get("JAXVISION_WEIGHTS_URL")
    if not mirror:
        return row.url
    folder = files.expanded(mirror)
    if folder.is_dir():
        return (folder.absolute() / row.file).as_uri()
    return f"{mirror.rstrip('/')}/{row.file}"


def find_cached(row: Row) -> Path | None:
    """The file in torch's cache or ours, if its hash is right; changes nothing."""
    for folder in cache.folders():
        path = folder / row.file
        if not path.is_file():
            continue
        if cache.is_intact(path, row):
            return path
        if folder.name == "checkpoints":  # torch's, and not ours to set aside
            warnings.warn(
                f"{path} does not have the SHA-256 {row.sha256_prefix}... and is not "
                "used: delete it",
                stacklevel=2,
            )
    return None


def fetch(
    row: Row,
    *,
    progress: Progress | None = None,
    timeout: float = 30.0,
    backoff: float = 1.0,
) -> Path:
    """The file of `row` on this machine, downloaded if need be, its hash checked.

    Several processes that want the same file download it once. A damaged file in our
    cache is set aside, with a warning, and fetched again. What a broken connection, or
    a killed process, left of a file is the beginning of the next download.

    Args:
      row: from `weights.find`.
      progress: called during a download.
      timeout: seconds without an answer or with next to no data after which an attempt
        ends.
      backoff: seconds before the second attempt; doubled before the third.

    Raises:
      WeightsError: the file cannot be had; one line says what to put where.
    """
    path = find_cached(row)
    try:
        if path is None:
            path = _fetch_locked(row, progress, timeout, backoff)
    except OSError as error:
        folder = cache.cache_folder()
        reason = f"the folder {folder} cannot be written ({error}); set JAXVISION_HOME"
        raise _failure(row, reason) from error
    if path.parent == cache.cache_folder() and cache.recorded(row) is None:
        with suppress(OSError):  # a cache that is shared read-only has no record
            files.write_text(cache.record_path(row), cache.sha256(path) + "\n")
    return path


def reachable(*, row: Row | None = None, timeout: float = 5.0) -> bool:
    """Whether the server of the weights answers, within `timeout` seconds in all.

    One request, through a proxy where one is set. With a `row`, the server must also
    have that file.
    """
    url = source_url(row or weights.TABLE[0])
    asked = url if row else url.rsplit("/", 1)[0] + "/"

    def probe() -> bool:
        try:
            reply = urllib.request.urlopen(request(asked, "HEAD"), timeout=timeout)
            with reply:
                page = reply.headers.get_content_type() == "text/html"
                return not (row and page)
        except urllib.error.HTTPError as error:
            error.close()
            return row is None and error.code < 500 and error.code != 407

    with suppress(Exception):
        return within(timeout, probe)
    return False


def write_params(
    row: Row, arrays: Mapping[str, np.ndarray], *, source_sha256: str
) -> Path:
    """Writes the converted copy, with a hash over its content, and says where.

    Args:
      row: the weights that `arrays` are.
      arrays: as from `weights.load_state_dict`.
      source_sha256: the full hash of the file that `arrays` came from.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = _metadata(row, arrays, source_sha256)
    path = cache.cached_params_path(row)
    with files.atomic_path(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)
    path.chmod(path.stat().st_mode & ~cache.OTHERS_WRITE)
    return path


def read_params(row: Row) -> dict[str, np.ndarray] | None:
    """The converted copy of `row`, verified; None without one.

    A damaged copy is set aside, with a warning, and counts as none; so does one that
    somebody else may have put into a folder to which everybody can write: its hashes
    are its own, and prove nothing.
    """
    try:
        path = cache.cached_params_path(row)
    except FileNotFoundError:  # no home folder: nothing is kept
        return None
    if not path.is_file():
        return None
    if not cache.is_trusted(path):
        warnings.warn(
            f"{path} may be anybody's and is not used: everybody can write there, and "
            "it is not this user's alone",
            stacklevel=2,
        )
        return None
    try:
        arrays, metadata = weights.read_safetensors(path)
        source = metadata.get("source_sha256", "")
        if cache.is_right(source, row):
            if metadata == _metadata(row, arrays, source):
                return arrays
    except ValueError:
        pass
    with suppress(OSError):
        cache.set_aside(path)
    return None


def source_sha256(row: Row) -> str:
    """The full hash of the file that the converted copy was made from."""
    with suppress(OSError, safetensors.SafetensorError):
        with safetensors.safe_open(cache.cached_params_path(row), "np") as file:
            return (file.metadata() or {}).get("source_sha256", "")
    return cache.recorded(row) or ""


def is_cached(row: Row) -> bool:
    """Whether `imagenet_state_dict` can do without the network."""
    if read_params(row) is not None:
        return True
    return find_cached(row) is not None


def imagenet_state_dict(
    name: str, *, which: str = "imagenet", progress: Progress | None = None
) -> tuple[dict[str, np.ndarray], Row]:
    """ImageNet weights under torchvision's names, and their row.

    A file is read the first time only; then the converted copy serves.

    Args:
      name: torchvision's name of the model.
      which: as in `weights.find`.
      progress: called during a download.

    Raises:
      ValueError: no such model or weights.
      WeightsError: the file cannot be had.
    """
    row = weights.find(name, which=which)
    arrays = read_params(row)
    if arrays is not None:
        return arrays, row
    path = fetch(row, progress=progress)
    arrays = weights.load_state_dict(path)
    try:
        write_params(row, arrays, source_sha256=cache.sha256(path))
    except (OSError, safetensors.SafetensorError) as error:
        warnings.warn(f"no converted copy of {path} was kept: {error}", stacklevel=2)
    return arrays, row


def _fetch_locked(
    row: Row, progress: Progress | None, timeout: float, backoff: float
) -> Path:
    path = cache.cache_folder() / row.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if path.is_file():
            if cache.is_intact(path, row):  # another process was faster
                return path
            cache.set_aside(path)
        cache.record_path(row).unlink(missing_ok=True)
        part = _part(row)
        digest = _download(row, part, progress, timeout, backoff)
        files.move(part, path)
        files.write_text(cache.record_path(row), digest + "\n")
    return path


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


def _part(row: Row) -> Path:
    """Where a download grows; what is there already, if it can be the file's."""
    part = cache.cache_folder() / f"{row.file}.part"
    if part.is_symlink() or part.exists():
        too_long = part.lstat().st_size > row.size + SLACK
        if too_long or not cache.is_trusted(part):
            part.unlink()
    return part


def _download(
    row: Row, part: Path, progress: Progress | None, timeout: float, backoff: float
) -> str:
    """Brings `part` to its end, in `ATTEMPTS` without progress; the file's hash.

    Raises:
      WeightsError: it cannot be had.
    """
    failed, most = 0, _length(part)
    # A process may have been killed between the last byte and the new name.
    if most >= row.size - SLACK and cache.is_right(digest := cache.sha256(part), row):
        return digest
    while True:
        try:
            start = attempt(
                source_url(row),
                part,
                size=row.size,
                timeout=timeout,
                progress=progress,
            )
            if cache.is_right(digest := cache.sha256(part), row):
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
                raise _failure(row, str(error), kept=length) from None
        time.sleep(backoff * 2 ** (failed - 1))


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _failure(row: Row, reason: str, *, kept: int = 0) -> WeightsError:
    line = " ".join(reason.split())
    if kept:
        line += f"; {kept:,} bytes are kept, and the next start goes on from there"
    known = row.sha256 or f"begins with {row.sha256_prefix}"
    return WeightsError(
        f"{row.file} could not be fetched: {line}; get {source_url(row)} (its SHA-256 "
        f"{'is ' if row.sha256 else ''}{known}) and put it into {cache.cache_folder()}"
    )


def _metadata(
    row: Row, arrays: Mapping[str, np.ndarray], source_sha256: str
) -> dict[str, str]:
    """What a converted copy says of itself, with a hash over all that it holds."""
    sha256 = hashlib.sha256(f"{source_sha256}\0".encode())
    for name, array in sorted(arrays.items()):
        sha256.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha256.update(np.asarray(array, order="C").reshape(-1).view(np.uint8).data)
    return {
        "format": "pt",  # other readers of safetensors ask for it
        "source": row.file,
        "source_sha256": source_sha256,
        "content_sha256": sha256.hexdigest(),
    }
