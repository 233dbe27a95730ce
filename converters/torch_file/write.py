"""Writing a file that `torch.load` reads, without torch."""

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converters.torch_file.dtypes import DTYPES, STORAGES
from jaxvision.files import atomic_path

_ALIGNMENT = 64
_LOCAL_HEADER = 30  # bytes before the name
_TOP = "archive"
_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items() if "Untyped" not in name}
_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same arrays give the same file


def write_torch(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a `state_dict` as `torch.save` does since 1.6, whole or not at all.

    `torch.load` reads it, with `weights_only=True` too. Types that torch has had no
    storage class for (unsigned integers of more than 8 bits, float8) need torch 2.3.

    Args:
      path: the file to write.
      arrays: by name, in the order in which they are to be loaded.

    Raises:
      ValueError: an array is of a type that torch does not have.
    """
    for name, array in arrays.items():
        if array.dtype.newbyteorder("=") not in _NAME_OF:
            raise ValueError(f"{path}: {name} is {array.dtype}, which torch has not")
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            _add(file, "data.pkl", _pickled(arrays))
            _add(file, ".format_version", b"1")
            _add(file, ".storage_alignment", b"%d" % _ALIGNMENT)
            _add(file, "byteorder", b"little")
            for index, array in enumerate(arrays.values()):
                little = array.astype(array.dtype.newbyteorder("<"), "C", copy=False)
                _add(file, f"data/{index}", little.reshape(-1).view(np.uint8).data)
            _add(file, "version", b"3\n")


def _add(file: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    """One member, whose bytes begin at a multiple of 64."""
    info = zipfile.ZipInfo(f"{_TOP}/{name}", _LONG_AGO)
    info.file_size = len(content)
    wide = info.file_size * 1.05 > zipfile.ZIP64_LIMIT  # as zipfile reckons
    begin = file.start_dir + _LOCAL_HEADER + len(info.filename)
    begin += 4 + (20 if wide else 0)
    padding = -begin % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with file.open(info, "w") as member:
        member.write(content)


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of an OrderedDict of tensors; their storages are numbered."""
    parts = [pickle.PROTO, b"\2", _ordered_dict(), pickle.MARK]
    for index, (name, array) in enumerate(arrays.items()):
        parts += [_text(name), _tensor(array, str(index))]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _tensor(array: np.ndarray, key: str) -> bytes:
    """A call of `_rebuild_tensor_v2`, or of `_v3` where the storage has no type."""
    dtype = array.dtype.newbyteorder("=")
    storage = _STORAGE_OF.get(dtype)
    kind = ("torch", storage) if storage else ("torch.storage", "UntypedStorage")
    reference = _tuple(
        _text("storage"),
        _global(*kind),
        _text(key),
        _text("cpu"),
        _integer(array.size if storage else array.nbytes),
    )
    arguments = [
        reference + pickle.BINPERSID,
        _integer(0),
        _tuple(*map(_integer, array.shape)),
        _tuple(*map(_integer, _strides(array.shape))),
        pickle.NEWFALSE,
        _ordered_dict(),
    ]
    if not storage:
        arguments.append(_global("torch", _NAME_OF[dtype]))
    name = "_rebuild_tensor_v2" if storage else "_rebuild_tensor_v3"
    return _global("torch._utils", name) + _tuple(*arguments) + pickle.REDUCE


def _strides(shape: tuple[int, ...]) -> list[int]:
    """In elements, of a tensor whose last axis moves fastest."""
    return [
        math.prod(max(1, size) for size in shape[i + 1 :]) for i in range(len(shape))
    ]


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _tuple(*items: bytes) -> bytes:
    return b"".join([pickle.MARK, *items, pickle.TUPLE])


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    raw = pickle.encode_long(value)
    return pickle.LONG1 + struct.pack("<B", len(raw)) + raw
