"""The stack, the marks and the memo of a pickle, and the bytes it is read from."""

import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any, Protocol, runtime_checkable

from converters.torch_file.errors import Damage, Refusal, quoted

BUDGET = 2_000_000
"""Opcodes in one file; a tensor takes about forty, and a call counts as five."""

_LONGEST_NAME = 200


@runtime_checkable
class Names(Protocol):
    """What the names in a file's pickles mean."""

    budget: int
    """How many opcodes may still be run, `BUDGET` at first."""

    def find(self, name: str) -> Any:
        """The value or the function that stands for a dotted name."""
        ...

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """What a function of `find` makes of `args`."""
        ...

    def build(self, target: Any, state: Any) -> None:
        """Gives `target` its state."""
        ...


class Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(
        self,
        data: mmap | bytes,
        start: int,
        end: int,
        names: Names,
        persistent: Callable[[Any], Any] | None,
    ):
        self.data, self.position, self.end = data, start, end
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = names.budget

    def take(self, count: int) -> bytes:
        start = self.position
        if not 0 <= count <= self.end - start:
            raise Damage(f"its pickle ends inside a value at byte {start}")
        self.position = start + count
        return self.data[start : self.position]

    def number(self, kind: str) -> Any:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def line(self) -> str:
        start = self.position
        stop = self.data.find(b"\n", start, min(self.end, start + _LONGEST_NAME + 1))
        if stop < 0:
            raise Damage(f"a name at byte {start} has no end")
        self.position = stop + 1
        return self.data[start:stop].decode("utf-8")

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items


def checked_key(key: Any) -> Any:
    """`key`, if hashing it costs no more than reading it did.

    A tuple hashes all it holds, which is without bound where tuples hold each other
    twice; and tuples and long integers that collide are easily made.

    Raises:
      Refusal: it is a key of another kind.
    """
    if key is None or type(key) in (str, bytes, float, bool):
        return key
    if type(key) is int and -(2**63) <= key < 2**64:
        return key
    kind = f"long integer {quoted(key)}" if type(key) is int else type(key).__name__
    raise Refusal(
        f"holds a {kind} as a key of a dictionary or in a set and is not loaded: "
        "save the tensors of the model alone, torch.save(model.state_dict(), FILE)"
    )
