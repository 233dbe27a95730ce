"""The formats before torch 1.6: a stream of pickles and storages, and a tar of them."""

import struct
from mmap import mmap
from typing import Any

import numpy as np

from converters.torch_file import pickles
from converters.torch_file.calls import StorageType
from converters.torch_file.errors import Damage, quoted
from converters.torch_file.names import Names

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_stream(data: mmap, names: Names) -> Any:
    """The value in a file of torch 0.1.10 to 1.5.

    Five pickles follow each other: a magic number, a version, facts on the machine,
    the value itself and the keys of its storages; then come the storages. Each is made
    when the value first names it, and filled when its turn comes.

    Raises:
      Damage: the parts do not fit each other.
      Refusal: it holds what is not read.
    """
    position = 0
    for expected in (MAGIC, PROTOCOL):
        value, position = pickles.load(data, position, len(data), names=names)
        if type(value) is not int or value != expected:
            raise Damage("it begins with none of the marks of torch.save")
    _, position = pickles.load(data, position, len(data), names=names)
    storages = _Storages(len(data))
    value, position = pickles.load(
        data, position, len(data), names=names, persistent=storages.named
    )
    keys, position = pickles.load(data, position, len(data), names=names)
    storages.fill(data, position, keys)
    return value


class _Storages:
    """The storages of a stream, at most as large together as the file."""

    def __init__(self, limit: int):
        self.left = limit
        self.known: dict[str, np.ndarray] = {}

    def named(self, reference: Any) -> np.ndarray:
        """The storage, or the view of one, that a persistent id names."""
        if type(reference) is not tuple or len(reference) < 5:
            raise Damage("it refers to a tensor in no way that torch does")
        what, kind, key, _, count, *rest = reference
        if what != "storage" or type(kind) is not StorageType or type(key) is not str:
            raise Damage(f"it refers to {quoted(what)}, not to a storage")
        if type(count) is not int or count < 0:
            raise Damage(f"a storage has {quoted(count)} elements")
        storage = self.known.get(key)
        if storage is None:
            self.left -= count * kind.dtype.itemsize
            if self.left < 0:
                raise Damage("it names storages that are larger than the file")
            storage = self.known[key] = np.empty(count, kind.dtype)
        view = rest[0] if rest else None
        typed = storage.view(kind.dtype)
        if view is None:
            return typed
        _, offset, size = view
        if type(offset) is not int or type(size) is not int:
            raise Damage("a view of a storage has no size")
        if not 0 <= offset <= offset + size <= len(typed):
            raise Damage("a view of a storage reaches past it")
        return typed[offset : offset + size]

    def fill(self, data: mmap, position: int, keys: Any) -> None:
        """Reads the storages in the order of `keys`."""
        if type(keys) is not list or any(type(key) is not str for key in keys):
            raise Damage("its list of storages is none")
        if len(keys) != len(self.known) or set(keys) != self.known.keys():
            raise Damage("its storages are not those that its tensors name")
        for key in keys:
            position = _read_into(self.known[key], data, position)


def _read_into(storage: np.ndarray, data: mmap, position: int) -> int:
    """Fills `storage` from its bytes, which follow its number of elements."""
    count = _number(data, position)
    if count != len(storage):
        raise Damage(f"a storage has {count:,} elements and should have {len(storage)}")
    position += 8
    if position + storage.nbytes > len(data):
        raise Damage("it is cut inside a storage")
    if count:
        storage[:] = np.frombuffer(data, storage.dtype, count, position)
    return position + storage.nbytes


def _number(data: mmap, position: int, kind: str = "<q") -> int:
    if position + struct.calcsize(kind) > len(data):
        raise Damage("it is cut")
    return struct.unpack_from(kind, data, position)[0]


def is_tar(data: mmap) -> bool:
    """Whether the file is a tar archive."""
    return data[257:262] == b"ustar"


def read_tar(data: mmap, names: Names) -> Any:
    """The value in a file of torch 0.1.1 to 0.1.9.

    Storages, tensors and the value, which names tensors by number, are members of their
    own.

    Raises:
      Damage: the parts do not fit each other.
      Refusal: it holds what is not read.
    """
    found = _tar_members(data)
    missing = {"storages", "tensors", "pickle"} - found.keys()
    if missing:
        raise Damage(f"its tar archive has no {', '.join(sorted(missing))}")
    known: dict[int, np.ndarray] = {}
    _read_tar_storages(data, *found["storages"], names, known)
    _read_tar_tensors(data, *found["tensors"], names, known)

    def named(reference: Any) -> np.ndarray:
        if type(reference) not in (str, int):
            raise Damage("it refers to a class of a model")
        return known[int(str(reference)[:32])]

    return pickles.load(data, *found["pickle"], names=names, persistent=named)[0]


def _tar_members(data: mmap) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    position = 0
    while position + 512 <= len(data) and data[position]:
        header = data[position : position + 512]
        name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
        digits = header[124:136].strip(b" \0")
        kind = header[156:157]
        if not digits.isdigit():
            raise Damage(f"its tar archive has no size for {quoted(name)}")
        start, size = position + 512, int(digits, 8)
        if start + size > len(data):
            raise Damage(f"its tar archive is cut inside {quoted(name)}")
        if kind in (b"0", b"\0"):
            if name in found:
                raise Damage(f"its tar archive has {quoted(name)} twice")
            found[name] = start, start + size
        position = start + -(-size // 512) * 512
    return found


def _read_tar_storages(data, start, end, names, known) -> None:
    count, position = pickles.load(data, start, end, names=names)
    for _ in _times(count):
        (key, _, kind), position = pickles.load(data, position, end, names=names)
        if type(key) is not int or key in known or type(kind) is not StorageType:
            raise Damage("its list of storages is none")
        size = _number(data, position)
        if not 0 <= size <= (end - position - 8) // kind.dtype.itemsize:
            raise Damage("it is cut inside a storage")
        known[key] = np.empty(size, kind.dtype)
        position = _read_into(known[key], data, position)
    views, _ = pickles.load(data, position, end, names=names)
    for target, root, offset, size in views:
        whole = known[root]
        if type(target) is not int or target in known:
            raise Damage("a view of a storage has no key of its own")
        if not 0 <= offset <= offset + size <= len(whole):
            raise Damage("a view of a storage reaches past it")
        known[target] = whole[offset : offset + size]


def _read_tar_tensors(data, start, end, names, known) -> None:
    count, position = pickles.load(data, start, end, names=names)
    tensors: dict[int, np.ndarray] = {}
    for _ in _times(count):
        (key, owner, _), position = pickles.load(data, position, end, names=names)
        if type(key) is not int or key in known or key in tensors:
            raise Damage("a tensor has no key of its own")
        dims = _number(data, position, "<i")
        if not 0 <= dims <= 64 or position + 16 + 16 * dims > end:
            raise Damage(f"a tensor has {dims} dimensions")
        # The number of dimensions takes eight bytes, four of which say nothing.
        numbers = struct.unpack_from(f"<{2 * dims + 1}q", data, position + 8)
        position += 16 + 16 * dims
        size, stride, offset = numbers[:dims], numbers[dims:-1], numbers[-1]
        storage = np.empty(0, np.float32) if owner is None else known[owner]
        tensors[key] = names.tensor(storage, offset, size, stride)
    known.update(tensors)


def _times(count: Any) -> range:
    if type(count) is not int or count < 0:
        raise Damage(f"{quoted(count)} is no number of tensors")
    return range(count)
