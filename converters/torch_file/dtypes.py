"""torch's types, numpy's types for them, and the storages that carry them."""

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(getattr(ml_dtypes, name, None) or name)
    for name in (
        *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
        *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("bool", "float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz"),
        *("float8_e4m3fnuz", "float8_e8m0fnu"),
    )
}
"""By the name after `torch.`; what is missing here, numpy does not have."""

STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": DTYPES["float64"],
    "FloatStorage": DTYPES["float32"],
    "HalfStorage": DTYPES["float16"],
    "BFloat16Storage": DTYPES["bfloat16"],
    "LongStorage": DTYPES["int64"],
    "IntStorage": DTYPES["int32"],
    "ShortStorage": DTYPES["int16"],
    "CharStorage": DTYPES["int8"],
    "ByteStorage": DTYPES["uint8"],
    "BoolStorage": DTYPES["bool"],
    "ComplexDoubleStorage": DTYPES["complex128"],
    "ComplexFloatStorage": DTYPES["complex64"],
    "UntypedStorage": DTYPES["uint8"],
    "_UntypedStorage": DTYPES["uint8"],
}
"""The classes of a type of their own, and those of bytes whose tensors name theirs."""


def swapped(storage: np.ndarray) -> np.ndarray:
    """A copy with the bytes of each number in the other order."""
    if storage.dtype.kind == "c":
        half = storage.dtype.itemsize // 2
        return storage.view(f"u{half}").byteswap().view(storage.dtype)
    if storage.dtype.itemsize == 1:
        return storage
    return storage.view(f"u{storage.dtype.itemsize}").byteswap().view(storage.dtype)
