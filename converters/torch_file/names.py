"""What the names in one file mean, and what its tensors may take of memory."""

import math
import re
from typing import Any

import numpy as np

from converters.torch_file.calls import (
    REFUSED,
    VALUES,
    Function,
    Skipped,
    counts,
    fill,
)
from converters.torch_file.errors import CURE, Damage, Refusal, quoted
from converters.torch_file.machine import BUDGET


class Names:
    """The allow-list, with what one file's tensors may take of memory.

    Args:
      limit: bytes that all arrays may have together. Views share their storage, but
        whoever copies them does not.
    """

    def __init__(self, limit: int):
        self.left = limit
        self.budget = BUDGET
        self._blank: dict[int, np.ndarray] = {}

    def find(self, name: str) -> Any:
        """The value or function of a dotted name.

        Raises:
          Refusal: it is on no list.
        """
        if name in VALUES:
            return VALUES[name]
        for pattern, what in REFUSED.items():
            if re.match(pattern, name):
                raise Refusal(what)
        raise Refusal(
            f"holds pickled Python objects ({name}), which could run any code and is "
            f"not loaded: {CURE}"
        )

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """What `function` makes of `args`.

        Raises:
          Damage: it is none, or they do not fit it.
        """
        if type(function) is not Function:
            raise Damage(f"it calls {quoted(type(function).__name__)}, no function")
        try:
            return function.apply(self, *args)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            raise Damage(f"{function.name} is called wrongly") from None

    def build(self, target: Any, state: Any) -> None:
        """Fills a numpy array; other states say nothing of tensors and are left out.

        Raises:
          Damage: `target` is of a kind that has no state.
        """
        if id(target) in self._blank:
            fill(self._blank.pop(id(target)), state, self)
        elif isinstance(target, np.dtype):
            if type(state) is not tuple or len(state) < 2 or state[1] not in "<|=":
                raise Damage("a numpy type is not little-endian")
        elif type(target) not in (dict, Skipped, np.ndarray, str):
            raise Damage(f"it gives a state to a {type(target).__name__}")

    def spend(self, size: int) -> None:
        """Takes `size` bytes from the limit, for what a call copies or spreads out.

        Raises:
          Refusal: there are not that many left.
        """
        self.left -= size
        if self.left < 0:
            raise Refusal(
                "holds tensors that would fill many times the size of the file "
                "(expanded views) and is not loaded: save x.contiguous() of each"
            )

    def tensor(
        self, storage: Any, offset: int, size: Any, stride: Any, *, dtype: Any = None
    ) -> np.ndarray:
        """A view of `storage`, with offset and strides in elements.

        Raises:
          Damage: it does not lie inside the storage.
        """
        if type(storage) is not np.ndarray or storage.ndim != 1:
            raise Damage("a tensor has no storage")
        dtype = storage.dtype if dtype is None else dtype
        if not isinstance(dtype, np.dtype):
            raise Damage("a tensor has no type")
        if len(size) != len(stride) or len(size) > 64:
            raise Damage(f"a tensor has {len(size)} sizes and {len(stride)} strides")
        offset, *steps = counts((offset, *stride))
        size = counts(size)
        count = math.prod(size)
        self.spend(count * dtype.itemsize + 64)
        if not count:
            return np.empty(size, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, steps, strict=True))
        if (last + 1) * dtype.itemsize > storage.nbytes:
            raise Damage(
                f"a tensor of shape {size} reaches past its storage of "
                f"{storage.nbytes:,} bytes"
            )
        strides = [
            dtype.itemsize * (step if n > 1 else 1)
            for n, step in zip(size, steps, strict=True)
        ]
        buffer: Any = storage.view(np.uint8)
        return np.ndarray(size, dtype, buffer, offset * dtype.itemsize, strides)

    def blank_array(self) -> np.ndarray:
        """An array whose state follows."""
        array = np.empty(0, np.uint8)
        self._blank[id(array)] = array
        return array
