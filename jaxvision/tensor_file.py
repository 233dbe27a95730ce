"""Safetensors files whose bytes follow from what they hold, and that check it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from jaxvision.files import atomic_path, regular_file

SHA256 = "sha256"
"""The key of the metadata under which the digest of all else stands."""
KINDS = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32"}
ALIGNMENT = 8


def save_tensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file; equal arrays and metadata give equal bytes.

    The library's own writer shuffles the order of the metadata. A digest is added to
    them, which `check_digest` looks at.

    Raises:
      KeyError: an array has a type that the file is not made for.
    """
    # Not ascontiguousarray, which makes a vector of a single number.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # As the library orders them: the wide types first, so that each array is aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    said = dict(metadata) | {SHA256: digest(arrays, metadata)}
    header: dict[str, object] = {"__metadata__": dict(sorted(said.items()))}
    end = 0
    for name in names:
        array, begin = arrays[name], end
        end = begin + array.nbytes
        header[name] = {
            "dtype": KINDS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = arrays[name].reshape(-1)
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """A safetensors file as the library opens it, whose tensors come as numpy's.

    Raises:
      OSError: it is no regular file.
      safetensors.SafetensorError: it is damaged.
    """
    with open(path, "rb", opener=regular_file):
        pass  # the library would wait for the writer of a named pipe
    with safe_open(path, framework="np") as file:
        yield file


def digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """The sha256 of all that a file holds, in whatever order it does."""
    said = sorted((k, v) for k, v in metadata.items() if k != SHA256)
    shapes = [(n, a.dtype.name, list(a.shape)) for n, a in sorted(arrays.items())]
    found = hashlib.sha256(json.dumps([said, shapes]).encode())
    for _, array in sorted(arrays.items()):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def check_digest(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Raises ValueError where a file does not hold what was written.

    A file without a digest, of another program, is not looked into.
    """
    if metadata.get(SHA256, digest(arrays, metadata)) != digest(arrays, metadata):
        raise ValueError(
            f"{path} is damaged: it does not hold what was written (its sha256 "
            "differs); get it again, or --resume its run, which writes it anew"
        )
