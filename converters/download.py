"""torchvision's weight files on this machine: found, fetched, checked, converted once.

The hash of a file is checked at every use. `converters.cache` says where they lie.
"""

import hashlib
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors.numpy

from converters import cache, weights
from converters.weights import Row
from jaxvision import download, files
from jaxvision.http_file import Progress, Remote, request, within

SLACK = 1024
"""Bytes by which a file may differ from the size that is known of it."""


def source_url(row: Row) -> str:
    """Where to fetch from: torchvision's URL, or `FILE` in `$JAXVISION_WEIGHTS_URL`.

    That is a URL or, for files that are on this machine already, a folder.
    """
    mirror = os.environ.get("JAXVISION_WEIGHTS_URL")
    return download.mirrored(row.url, name=row.file, mirror=mirror)


def find_cached(row: Row) -> Path | None:
    """The file in torch's cache or ours, if its hash is right; changes nothing."""
    path = _in_torch_cache(row)
    if path is None:
        with suppress(FileNotFoundError):  # without a home folder there is no cache
            remote = _remote(row, cache.cache_folder())
            path = remote.path if download.is_intact(remote.path, remote) else None
    return path


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
      DownloadError: the file cannot be had; one line says what to put where.
    """
    return _in_torch_cache(row) or download.fetch(
        _remote(row, cache.cache_folder()),
        progress=progress,
        timeout=timeout,
        backoff=backoff,
    )


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
    path.chmod(path.stat().st_mode & ~download.OTHERS_WRITE)
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
    if not download.is_trusted(path):
        warnings.warn(
            f"{path} may be anybody's and is not used: everybody can write there, and "
            "it is not this user's alone",
            stacklevel=2,
        )
        return None
    try:
        arrays, metadata = weights.read_safetensors(path)
        source = metadata.get("source_sha256", "")
        if source.startswith(row.sha256 or row.sha256_prefix):
            if metadata == _metadata(row, arrays, source):
                return arrays
    except ValueError:
        pass
    with suppress(OSError):
        download.set_aside(path)
    return None


def source_sha256(row: Row) -> str:
    """The full hash of the file that the converted copy was made from."""
    with suppress(OSError, safetensors.SafetensorError):
        with safetensors.safe_open(cache.cached_params_path(row), "np") as file:
            return (file.metadata() or {}).get("source_sha256", "")
    return download.recorded(_remote(row, cache.cache_folder())) or ""


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
      DownloadError: the file cannot be had.
    """
    row = weights.find(name, which=which)
    arrays = read_params(row)
    if arrays is not None:
        return arrays, row
    path = fetch(row, progress=progress)
    arrays = weights.load_state_dict(path)
    try:
        write_params(row, arrays, source_sha256=files.sha256(path))
    except (OSError, safetensors.SafetensorError) as error:
        warnings.warn(f"no converted copy of {path} was kept: {error}", stacklevel=2)
    return arrays, row


def _remote(row: Row, folder: Path) -> Remote:
    return Remote(
        path=folder / row.file,
        url=source_url(row),
        sha256=row.sha256 or row.sha256_prefix,
        size=row.size,
        find_fault=weights.find_fault,
        slack=SLACK,
    )


def _in_torch_cache(row: Row) -> Path | None:
    with suppress(FileNotFoundError):  # without a home folder there is none
        path = cache.torch_cache_folder() / row.file
        if not path.is_file():
            return None
        # The hash that was seen first is in our cache, if there is one.
        if download.is_intact(path, _remote(row, cache.folders()[-1])):
            return path
        warnings.warn(
            f"{path} does not have the SHA-256 {row.sha256_prefix}... and is not used: "
            "delete it",
            stacklevel=3,
        )
    return None


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
