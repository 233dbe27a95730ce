"""The names that a checkpoint may use, and what is made of their arguments."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.torch_file.dtypes import DTYPES, STORAGES
from converters.torch_file.errors import CURE, Damage, Refusal, quoted
from converters.torch_file.machine import checked_key


@dataclass(frozen=True)
class StorageType:
    """One of torch's storage classes."""

    dtype: np.dtype


@dataclass(frozen=True)
class Function:
    """A name that may be called: with the file's `Names` and the arguments."""

    name: str
    apply: Callable[..., Any]


class Skipped:
    """Stands where a file has an object that says nothing of tensors; it is empty."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<skipped: {self.name}>"


def counts(values: Any) -> tuple[int, ...]:
    """Sizes, strides or positions out of a file, as a tuple.

    Raises:
      Damage: one is no such number.
    """
    for value in values:
        if type(value) is not int or not 0 <= value < 2**63:
            raise Damage(f"{quoted(value)} is no size")
    return tuple(values)


def _rebuild(names, storage, offset, size, stride, *rest):
    _, _, *lazy = rest or (False, None)
    _check_lazy(*lazy)
    return names.tensor(storage, offset, size, stride)


def _rebuild_typed(names, storage, offset, size, stride, *rest):
    _, _, dtype, *lazy = rest
    if not isinstance(dtype, np.dtype):
        raise Damage("a tensor has no type")
    _check_lazy(*lazy)
    return names.tensor(storage, offset, size, stride, dtype=dtype)


def _check_lazy(marks=None):
    if marks:
        raise Refusal(
            "holds a tensor whose conjugation or sign is still to be applied: save "
            "x.resolve_conj().resolve_neg() in its place"
        )


def _from_type(names, function, kind, args, state):
    return names.call(function, args)


def _parameter(names, data=None, *rest):
    if type(data) is not np.ndarray:
        raise Damage("a parameter has no tensor")
    return data


def _moved(names, data, dtype, *rest):
    array = _parameter(names, data)
    if not isinstance(dtype, np.dtype):
        raise Damage("a tensor has no type")
    names.spend(array.size * dtype.itemsize)
    with np.errstate(all="ignore"):
        return array.astype(dtype, copy=False)


def _sized(names, items):
    """`items`, paid for: calls may copy one long list again and again."""
    names.spend(100 * len(items))
    return items


def _dict(names, items=()):
    pairs = _sized(names, items)
    pairs = pairs.items() if type(pairs) is dict else pairs
    return {checked_key(key): value for key, value in pairs}


def _default_dict(names, factory=None, items=()):
    return _dict(names, items)


def _list(names, items=()):
    return list(_sized(names, items))


def _set(names, items=()):
    return {checked_key(item) for item in _sized(names, items)}


def _frozen_set(names, items=()):
    return frozenset(_set(names, items))


def _size(names, items=()):
    return counts(_sized(names, items))


def _encoded(names, text, encoding="latin1"):
    if type(text) is not str or encoding not in ("latin1", "latin-1", "utf-8"):
        raise Damage("bytes are coded in no way that pickle uses")
    names.spend(4 * len(text))
    return text.encode(encoding)


def _bytearray(names, *args):
    raw = args[0] if len(args) == 1 else _encoded(names, *args) if args else b""
    if type(raw) is not bytes:
        raise Damage("a bytearray is not made of bytes")
    return bytearray(_sized(names, raw))


def _complex(names, real, imag=0.0):
    return complex(float(real), float(imag))


def _text(names, text="", *rest):
    if type(text) is not str or len(text) > 1000:
        raise Damage("a text is none")
    return ":".join([text, *(str(n) for n in rest if type(n) is int)])


def _numpy_dtype(names, code, *rest):
    if type(code) is not str or not re.fullmatch(r"[biufc](1|2|4|8|16)", code):
        raise Refusal(
            f"holds a numpy array of type {quoted(code)} and is not loaded: {CURE}"
        )
    return np.dtype(code)


def _numpy_scalar(names, dtype, raw):
    return _numbers(names, dtype, raw, ())[()]


def _numbers(names, dtype, raw, shape) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or type(raw) not in (bytes, str):
        raise Damage("a numpy value is not made of bytes")
    names.spend(len(raw) + 64)
    raw = raw.encode("latin1") if type(raw) is str else raw
    if len(shape) > 64 or len(raw) != math.prod(counts(shape)) * dtype.itemsize:
        raise Damage("a numpy value has another size than its type")
    return np.frombuffer(raw, dtype).reshape(shape)


def _numpy_array(names, raw, dtype, shape, order):
    raw = bytes(_sized(names, raw)) if type(raw) is bytearray else raw
    flat = _numbers(names, dtype, raw, shape).reshape(-1)
    return flat.copy().reshape(shape, order="F" if order == "F" else "C")


def _blank(names, *args):
    return names.blank_array()


def fill(blank: np.ndarray, state: Any, names: Any) -> None:
    """Gives a numpy array that was pickled its numbers."""
    _, shape, dtype, is_fortran, raw = state
    flat = _numbers(names, dtype, raw, shape).reshape(-1)
    full: Any = (1, tuple(shape), dtype, bool(is_fortran), flat.tobytes())
    blank.__setstate__(full)


def _skipped(name: str) -> Function:
    return Function(name, lambda names, *args: Skipped(name))


def _cure(what: str, cure: str) -> str:
    return f"holds {what}, which is not read: {cure}"


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _moved,
    "torch._utils._rebuild_device_tensor_from_numpy": _moved,
    "torch._utils._rebuild_xla_tensor": _moved,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.parameter.Buffer": _parameter,
    "torch.autograd.variable.Variable": _parameter,
    "torch.Tensor": _parameter,
    "torch.Size": _size,
    "torch.device": _text,
    "torch.serialization._get_layout": _text,
    "torch.torch_version.TorchVersion": _text,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": _default_dict,
    "builtins.dict": _dict,
    "builtins.list": _list,
    "builtins.set": _set,
    "builtins.frozenset": _frozen_set,
    "builtins.int": lambda names: 0,
    "builtins.float": lambda names: 0.0,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": lambda names: b"",
    "builtins.complex": _complex,
    "_codecs.encode": _encoded,
    "numpy.dtype": _numpy_dtype,
    "numpy.ndarray": lambda names: np.empty(0),
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray.scalar": _numpy_scalar,
            "multiarray._reconstruct": _blank,
            "numeric._frombuffer": _numpy_array,
        }.items()
    },
}

_SKIPPED = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
)

VALUES: dict[str, Any] = {
    **{name: Function(name, apply) for name, apply in _FUNCTIONS.items()},
    **{name: _skipped(name) for name in _SKIPPED},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{
        f"{module}.{name}": StorageType(dtype)
        for module in ("torch", "torch.cuda", "torch.storage")
        for name, dtype in STORAGES.items()
    },
}

REFUSED = {
    r"torch\._utils\._rebuild_qtensor|torch\.(per_|Q\w+Storage|q\w+$)": _cure(
        "a quantised tensor", "save x.dequantize() in its place"
    ),
    r"torch\._utils\._rebuild_sparse|torch\.sparse": _cure(
        "a sparse tensor", "save x.to_dense() in its place"
    ),
    r"torch\._utils\._rebuild_meta": _cure(
        "a tensor on the meta device, without values",
        "load weights into the model before it is saved",
    ),
    r"torch\._utils\._rebuild_nested|torch\.nested": _cure(
        "a nested tensor", "save x.to_padded_tensor(0.0) or its parts"
    ),
    r"torch\._utils\._rebuild_wrapper_subclass": _cure(
        "a tensor of a class of its own", "save an ordinary tensor in its place"
    ),
    r"torch\.distributed": _cure(
        "a tensor spread over processes", "save x.full_tensor() in its place"
    ),
    r"torch\.(bits|complex32|float4|u?int[1-7]$)": _cure(
        "a tensor of a type that numpy does not have", "save x.float() in its place"
    ),
}
