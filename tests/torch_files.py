"""Files of torch's formats made by hand, also such as torch would never write."""

import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np

from converters.torch_file.legacy import MAGIC, PROTOCOL

KINDS = (
    *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
    *("uint8", "int8", "int16", "int32", "int64", "bool", "uint16", "uint32", "uint64"),
    *("float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz"),
)


def text(value: str) -> bytes:
    raw = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(raw)]) + raw


def tuple_of(*items: bytes) -> bytes:
    return b"".join([pickle.MARK, *items, pickle.TUPLE])


def name(dotted: str) -> bytes:
    module, _, last = dotted.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{last}\n".encode()


def call(dotted: str, *args: bytes) -> bytes:
    return name(dotted) + tuple_of(*args) + pickle.REDUCE


def storage(key="0", count=6, *, kind="torch.FloatStorage", view=None) -> bytes:
    """A persistent id; `view` is that of the stream format."""
    parts = [text("storage"), name(kind), text(key), text("cpu"), number(count)]
    return tuple_of(*parts, *([view] if view else [])) + pickle.BINPERSID


def tensor(*, offset=0, size=(2, 3), stride=(3, 1), of=None) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        storage() if of is None else of,
        number(offset),
        tuple_of(*map(number, size)),
        tuple_of(*map(number, stride)),
        pickle.NEWFALSE,
        call("collections.OrderedDict"),
    )


def dict_of(**items: bytes) -> bytes:
    pairs = b"".join(text(key) + value for key, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def program(value: bytes) -> bytes:
    return pickle.PROTO + b"\2" + value + pickle.STOP


FLOATS = struct.pack("<6f", *range(6))


def archive(
    value: bytes, storages=None, *, top="archive", members=(), method=zipfile.ZIP_STORED
) -> bytes:
    """A zip file; `members` are further ones, which may repeat a name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr(f"{top}/data.pkl", program(value))
        for key, raw in ({"0": FLOATS} if storages is None else storages).items():
            file.writestr(f"{top}/data/{key}", raw)
        for key, raw in members:
            file.writestr(f"{top}/{key}", raw)
        file.writestr(f"{top}/version", b"3\n")
    return buffer.getvalue()


def stream(value: bytes, storages=None, *, keys=None) -> bytes:
    """A file of the time before zip; `storages` have a count and bytes."""
    storages = {"0": (6, FLOATS)} if storages is None else storages
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": 1})]
    parts += [program(value), pickle.dumps(sorted(storages) if keys is None else keys)]
    for _, (count, raw) in sorted(storages.items()):
        parts += [struct.pack("<q", count), raw]
    return b"".join(parts)


def tar(value: bytes, storages: bytes, tensors: bytes) -> bytes:
    """A file of torch 0.1.1 to 0.1.9 out of its members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as file:
        for member, raw in {
            "sys_info": pickle.dumps({"protocol_version": 1000}, 2),
            "pickle": program(value),
            "tensors": tensors,
            "storages": storages,
        }.items():
            info = tarfile.TarInfo(member)
            info.size, info.mtime = len(raw), 1.5  # a fraction has a header of its own
            file.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def tar_storages(*storages, views=()) -> bytes:
    """The member of storages: (key, name of the class, count, bytes) each."""
    parts = [pickle.dumps(len(storages), 2)]
    for key, kind, count, raw in storages:
        parts += [program(tuple_of(number(key), text("cpu"), name(kind)))]
        parts += [struct.pack("<q", count), raw]
    return b"".join([*parts, pickle.dumps(list(views), 2)])


def tar_tensors(*tensors) -> bytes:
    """The member of tensors: (key, storage, size, stride, offset) each."""
    parts = [pickle.dumps(len(tensors), 2)]
    for key, owner, size, stride, offset in tensors:
        parts += [program(tuple_of(number(key), number(owner), name("torch.Size")))]
        parts += [struct.pack("<ii", len(size), 0)]
        parts += [struct.pack(f"<{2 * len(size) + 1}q", *size, *stride, offset)]
    return b"".join(parts)


def tar_tensor(key: int) -> bytes:
    return text(str(key)) + pickle.BINPERSID


def bits(torch, x) -> bytes:
    x = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    if not x.numel():
        return b""
    flat = torch.empty(x.numel(), dtype=x.dtype).copy_(x.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def assert_same(torch, ours, theirs):
    """Equal to the bit, in type, shape and nesting."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, np.ndarray)
        assert f"torch.{ours.dtype.name}" == str(theirs.dtype)
        assert ours.shape == tuple(theirs.shape)
        assert ours.tobytes() == bits(torch, theirs)
        assert ours.flags.aligned
    elif isinstance(theirs, dict):
        assert type(ours) is dict and list(ours) == list(theirs)
        for key, value in theirs.items():
            assert_same(torch, ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert isinstance(ours, list | tuple) and len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(torch, mine, other)
    elif isinstance(theirs, float) and theirs != theirs:
        assert ours != ours
    else:
        assert type(ours) is type(theirs) and ours == theirs
