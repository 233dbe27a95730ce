"""torchvision's weight files on this machine: found, fetched, checked, converted once.

torch's own cache is looked at first and never written. Ours is
`$JAXVISION_HOME/weights`, by default `~/.cache/jaxvision/weights`: the files under
torchvision's names, and beside each the full SHA-256 seen when it was first used
(`.sha256`) and the copy that needs no torch (`.safetensors`). The hash of a file is
checked at every use.
"""

import hashlib
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors.numpy
from filelock import FileLock

from converters import weights
from converters.weights import Row
from jaxvision import files

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have come and, where the server says it, their total."""

_BLOCK = 1 << 18


class WeightsError(RuntimeError):
    """A weight file that is neither here nor to be had; the message says what to do."""


class _TransferError(Exception):
    """One attempt that failed; `again` where another may do better."""

    def __init__(self, reason: str, *, again: bool):
        super().__init__(reason)
        self.again = again


def cache_folder() -> Path:
    """Our folder of weights, which need not exist yet."""
    home = os.environ.get("JAXVISION_HOME")
    return (
        Path(home) if home else _user_cache() / "jaxvision"
    ).expanduser() / "weights"


def torch_cache_folder() -> Path:
    """The folder in which torch.hub keeps its downloads, which need not exist."""
    home = os.environ.get("TORCH_HOME")
    folder = (Path(home) if home else _user_cache() / "torch").expanduser()
    return folder / "hub" / "checkpoints"


def source_url(row: Row) -> str:
    """Where to fetch from: torchvision's URL, or `$JAXVISION_WEIGHTS_URL/FILE`."""
    mirror = os.environ.get("JAXVISION_WEIGHTS_URL")
    return f"{mirror.rstrip('/')}/{row.file}" if mirror else row.url


def find_cached(row: Row) -> Path | None:
    """The file in torch's cache or ours, if its hash is right; changes nothing."""
    for folder in (torch_cache_folder(), cache_folder()):
        path = folder / row.file
        if not path.is_file():
            continue
        if _is_intact(path, row):
            return path
        if folder == torch_cache_folder():
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
    cache is set aside, with a warning, and fetched again.

    Args:
      row: from `weights.find`.
      progress: called during a download.
      timeout: seconds without an answer or without data after which an attempt ends.
      backoff: seconds before the second attempt; doubled before the third.

    Raises:
      WeightsError: the file cannot be had; one line says what to put where.
    """
    path = find_cached(row)
    try:
        if path is None:
            path = _fetch_locked(row, progress, timeout, backoff)
    except OSError as error:
        folder = cache_folder()
        reason = f"the folder {folder} cannot be written ({error}); set JAXVISION_HOME"
        raise _failure(row, reason) from error
    if path.parent == cache_folder() and _recorded(row) is None:
        with suppress(OSError):  # a cache that is shared read-only has no record
            files.write_text(_record_path(row), _sha256(path) + "\n")
    return path


def reachable(*, row: Row | None = None, timeout: float = 5.0) -> bool:
    """Whether the server of the weights answers, within `timeout` seconds in all.

    One request, through a proxy where one is set. With a `row`, the server must also
    have that file.
    """
    url = source_url(row or weights.TABLE[0])
    answers = []

    def probe():
        with suppress(Exception):
            request = _request(url if row else url.rsplit("/", 1)[0] + "/", "HEAD")
            try:
                with urllib.request.urlopen(request, timeout=timeout) as reply:
                    page = reply.headers.get_content_type() == "text/html"
                    answers.append(not (row and page))
            except urllib.error.HTTPError as error:
                error.close()
                answers.append(row is None and error.code < 500 and error.code != 407)

    # A thread, because no timeout of urllib's covers the look-up of the host's name.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answers and answers[0])


def cached_params_path(row: Row) -> Path:
    """Where the converted copy of `row` lives: torchvision's names and layouts."""
    return (cache_folder() / row.file).with_suffix(".safetensors")


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
    path = cached_params_path(row)
    with files.atomic_path(path) as temporary:
        safetensors.numpy.save_file(arrays, temporary, metadata=metadata)
    return path


def read_params(row: Row) -> dict[str, np.ndarray] | None:
    """The converted copy of `row`, verified; None without one.

    A damaged copy is set aside, with a warning, and counts as none.
    """
    path = cached_params_path(row)
    if not path.is_file():
        return None
    try:
        arrays, metadata = weights.read_safetensors(path)
        source = metadata.get("source_sha256", "")
        if source.startswith(row.sha256_prefix):
            if metadata == _metadata(row, arrays, source):
                return arrays
    except ValueError:
        pass
    with suppress(OSError):
        _set_aside(path)
    return None


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
        write_params(row, arrays, source_sha256=_sha256(path))
    except (OSError, safetensors.SafetensorError) as error:
        warnings.warn(f"no converted copy of {path} was kept: {error}", stacklevel=2)
    return arrays, row


def _fetch_locked(
    row: Row, progress: Progress | None, timeout: float, backoff: float
) -> Path:
    path = cache_folder() / row.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{row.file}.lock")):
        if path.is_file():
            if _is_intact(path, row):  # another process was faster
                return path
            _set_aside(path)
        _record_path(row).unlink(missing_ok=True)
        # What a killed download left: under the lock nobody is writing these.
        for leftover in path.parent.glob(f".{path.stem}.*{path.suffix}"):
            leftover.unlink()
        digest = _download(row, path, progress, timeout, backoff)
        files.write_text(_record_path(row), digest + "\n")
    return path


def _download(
    row: Row, path: Path, progress: Progress | None, timeout: float, backoff: float
) -> str:
    """Downloads `row` in three attempts at most; the full hash of the file."""
    waits = iter((backoff, 2 * backoff))
    while True:
        try:
            with files.atomic_path(path) as temporary:
                return _stream(row, temporary, progress, timeout)
        except _TransferError as error:
            wait = next(waits, None)
            if not error.again or wait is None:
                raise _failure(row, str(error)) from None
        time.sleep(wait)


def _stream(row: Row, path: Path, progress: Progress | None, timeout: float) -> str:
    sha256, done = hashlib.sha256(), 0
    with path.open("wb") as file:
        for block, total in _blocks(source_url(row), timeout):
            file.write(block)
            sha256.update(block)
            done += len(block)
            if progress:
                progress(done, total)
    digest = sha256.hexdigest()
    if not digest.startswith(row.sha256_prefix):
        reason = f"wrong hash, what came is another file (SHA-256 {digest[:8]}...)"
        raise _TransferError(reason, again=False)
    return digest


def _blocks(url: str, timeout: float) -> Iterator[tuple[bytes, int | None]]:
    """The body at `url` in pieces, each with the total length where it is known."""
    host = url
    try:
        host = urllib.parse.urlsplit(url).netloc or url
        with urllib.request.urlopen(_request(url, "GET"), timeout=timeout) as reply:
            length = reply.headers.get("Content-Length")
            total = int(length) if length else None
            done = 0
            while block := reply.read(_BLOCK):
                fault = None if done else weights.find_fault(block[:512])
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


def _request(url: str, method: str) -> urllib.request.Request:
    return urllib.request.Request(
        url, headers={"User-Agent": "jaxvision"}, method=method
    )


def _failure(row: Row, reason: str) -> WeightsError:
    line = " ".join(reason.split())
    return WeightsError(
        f"{row.file} could not be fetched: {line}; get {source_url(row)} (its SHA-256 "
        f"begins with {row.sha256_prefix}) and put it into {cache_folder()}"
    )


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _record_path(row: Row) -> Path:
    return cache_folder() / f"{row.file}.sha256"


def _recorded(row: Row) -> str | None:
    """The full hash written when the file was first used."""
    try:
        text = _record_path(row).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _is_intact(path: Path, row: Row) -> bool:
    try:
        digest = _sha256(path)
    except OSError:
        return False
    return digest.startswith(row.sha256_prefix) and _recorded(row) in (None, digest)


def _sha256(path: Path) -> str:
    with open(path, "rb", opener=files.regular_file) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    warnings.warn(f"{path} is damaged; it is kept as {aside.name}", stacklevel=4)
