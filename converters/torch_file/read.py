"""Reading a file of `torch.save` with numpy alone."""

from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any

import numpy as np

from converters.torch_file import archive, legacy, pickles
from converters.torch_file.calls import StorageType
from converters.torch_file.dtypes import swapped
from converters.torch_file.errors import CURE, Damage, Refusal, TorchFileError, quoted
from converters.torch_file.names import Names
from jaxvision.files import regular_file

_ALIGNMENT = 16  # of the largest type, complex128
_SPARE = 1 << 26


def read_torch(path: str | Path) -> Any:
    """What `torch.save` wrote, with numpy arrays for tensors; torch is not needed.

    All formats are read: the zip archive (torch 1.6 and later), the stream before it
    and the tar archive of torch 0.1. Only names on a list are known, and none is
    imported or called, so a hostile file can do no more than be refused. Dictionaries
    of every kind come back as `dict`, `torch.Size` as a tuple, types as numpy's,
    devices and layouts as text, a bare storage as an array of one dimension. Objects of
    `argparse.Namespace` and paths are skipped: an empty `Skipped` stands for each.
    Checksums are not read, as torch does not.

    The arrays of a zip archive are views of one private map of the file: the file may
    be replaced or deleted, but not cut short, while they live. Tensors that share a
    storage share it here, and arrays may be written to, which leaves the file alone.

    Raises:
      TorchFileError: the file is missing, damaged, or holds what is not read.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=regular_file) as file:
            if not file.seek(0, 2):
                raise TorchFileError(f"{path} is empty: get it again")
            data = mmap(file.fileno(), 0, access=ACCESS_COPY)
    except FileNotFoundError:
        raise TorchFileError(f"{path} does not exist") from None
    except OSError as error:
        raise TorchFileError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _read(data)
    except Damage as fault:
        line = (
            f"{path} is damaged or not written by torch.save ({fault}): get it again, "
            f"or {CURE}"
        )
    except Refusal as fault:
        line = f"{path} {fault}"
    except (ArithmeticError, LookupError, TypeError, ValueError):
        line = f"{path} is damaged or not written by torch.save: get it again or {CURE}"
    raise TorchFileError(line)


def _read(data: mmap) -> Any:
    names = Names(16 * len(data) + _SPARE)
    if data[:4] == b"PK\3\4":
        return _read_zip(data, names)
    if legacy.is_tar(data):
        return legacy.read_tar(data, names)
    return legacy.read_stream(data, names)


def _read_zip(data: mmap, names: Names) -> Any:
    members = archive.members(data)
    tops = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")]
    tops = [top for top in tops if top.count("/") == 1]
    if len(tops) != 1:
        raise Damage("it is a zip archive without one data.pkl, none of torch.save")
    top = tops[0]
    if any(name.startswith((f"{top}code/", f"{top}constants.pkl")) for name in members):
        raise Refusal(
            "holds a TorchScript program, which could run any code and is not loaded: "
            "re-save it with torch.save(torch.jit.load(FILE).state_dict(), NEW) or as "
            "safetensors"
        )
    order = b"little"
    if f"{top}byteorder" in members:
        mark = archive.find(members, f"{top}byteorder")
        order = data[mark.start : mark.start + min(mark.size, 9)]
    if order not in (b"little", b"big"):
        raise Damage(f"its byte order is {quoted(order)}")
    storages = _Storages(data, members, top, is_big=order == b"big")
    start, size, _ = archive.find(members, f"{top}data.pkl")
    end = start + size
    return pickles.load(data, start, end, names=names, persistent=storages.named)[0]


class _Storages:
    """The storages of an archive, read when they are first named."""

    def __init__(
        self, data: mmap, members: dict[str, archive.Member], top: str, *, is_big: bool
    ):
        self.data, self.members, self.top, self.is_big = data, members, top, is_big
        self.left = len(data)
        self.known: dict[str, np.ndarray] = {}

    def named(self, reference: Any) -> np.ndarray:
        """The storage that a persistent id names."""
        if type(reference) is not tuple or len(reference) != 5:
            raise Damage("it refers to a tensor in no way that torch does")
        what, kind, key, _, count = reference
        if what != "storage" or type(kind) is not StorageType or type(key) is not str:
            raise Damage(f"it refers to {quoted(what)}, not to a storage")
        if key not in self.known:
            member = archive.find(self.members, f"{self.top}data/{key}")
            self.known[key] = self._read(member, kind.dtype, count)
        return self.known[key].view(kind.dtype)

    def _read(self, member: archive.Member, dtype: np.dtype, count: Any) -> np.ndarray:
        size = count * dtype.itemsize if type(count) is int else -1
        if not 0 <= size <= member.size:
            raise Damage(
                f"a storage of {member.size:,} bytes has {quoted(count)} elements"
            )
        self.left -= size  # members that lie over each other must not add up
        if self.left < 0:
            raise Damage("it names storages that are larger than the file")
        if not size:
            return np.empty(0, dtype)
        storage = np.frombuffer(self.data, dtype, count, member.start)
        if self.is_big:
            return swapped(storage)
        return storage.copy() if member.start % _ALIGNMENT else storage
