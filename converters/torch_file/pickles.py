"""A machine for the pickles in checkpoints; it imports nothing and calls no code.

Python's own unpickler looks names up by importing their modules, and calls what it
finds. This one knows the opcodes that build plain values, and hands each name, each
call and each persistent reference to tables of ours. Memory is bounded by the bytes
of the pickle and by `BUDGET`.
"""

import pickle
import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any, Protocol

from converters.torch_file.errors import Damage, Refusal, quoted

BUDGET = 4_000_000
"""Opcodes in one file; a tensor takes about forty, and a call counts as five."""

_LONGEST_INTEGER = 256  # bytes
_LONGEST_NAME = 200


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


def load(
    data: mmap | bytes,
    start: int,
    end: int,
    *,
    names: Names,
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """The value of the pickle that begins at `start`, and where it ends.

    Args:
      data: the file.
      start: position of the first opcode.
      end: position that the pickle may not pass.
      names: the meaning of names, calls and states.
      persistent: from a persistent id to what it stands for; none, none may occur.

    Raises:
      Damage: this is no pickle, or not one that torch writes.
      Refusal: it names what is not read, or is too long.
    """
    machine = _Machine(data, start, end, names, persistent)
    try:
        value = machine.run()
        names.budget = machine.budget
        return value, machine.position
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ):
        raise Damage(f"its pickle is broken at byte {machine.position}") from None


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, data, start, end, names, persistent):
        self.data, self.position, self.end = data, start, end
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = names.budget

    def run(self) -> Any:
        data, end, actions = self.data, self.end, _ACTIONS
        while self.position < end:
            opcode = data[self.position]
            self.position += 1
            self.budget -= 1
            if self.budget < 0:
                raise Refusal(
                    f"holds a pickle of more than {BUDGET:,} values and is not loaded: "
                    "save the tensors of the model alone, torch.save(model."
                    "state_dict(), FILE)"
                )
            if opcode == _STOP:
                return self.stack.pop()
            action = actions.get(opcode)
            if action is None:
                raise Damage(
                    f"opcode {opcode:#04x} at byte {self.position - 1} is none that "
                    "torch writes"
                )
            action(self)
        raise Damage("its pickle has no end")

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


def _mark(m: _Machine) -> None:
    m.marked.append(m.stack)
    m.stack = []


def _pop(m: _Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _tuple(m: _Machine) -> None:
    items = m.pop_mark()
    m.stack.append(tuple(items))


def _short_tuple(count: int) -> Callable[[_Machine], None]:
    def action(m: _Machine) -> None:
        if len(m.stack) < count:
            raise LookupError
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return action


def _append(m: _Machine) -> None:
    item = m.stack.pop()
    _target(m, list).append(item)


def _appends(m: _Machine) -> None:
    items = m.pop_mark()
    _target(m, list).extend(items)


def _set_item(m: _Machine) -> None:
    value = m.stack.pop()
    key = checked_key(m.stack.pop())
    _target(m, dict)[key] = value


def _set_items(m: _Machine) -> None:
    items = m.pop_mark()
    target = _target(m, dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value


def _add_items(m: _Machine) -> None:
    items = m.pop_mark()
    _target(m, set).update(map(checked_key, items))


def _frozen_set(m: _Machine) -> None:
    items = m.pop_mark()
    m.stack.append(frozenset(map(checked_key, items)))


def _target(m: _Machine, kind: type) -> Any:
    """The container on top of the stack; its type, exactly, is `kind`."""
    if type(m.stack[-1]) is not kind:
        raise TypeError
    return m.stack[-1]


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


def _put(kind: str) -> Callable[[_Machine], None]:
    def action(m: _Machine) -> None:
        m.memo[m.number(kind)] = m.stack[-1]

    return action


def _get(kind: str) -> Callable[[_Machine], None]:
    def action(m: _Machine) -> None:
        m.stack.append(m.memo[m.number(kind)])

    return action


def _memoize(m: _Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _global(m: _Machine) -> None:
    module, name = m.line(), m.line()
    m.stack.append(_find(m, module, name))


def _stack_global(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise TypeError
    m.stack.append(_find(m, module, name))


def _find(m: _Machine, module: str, name: str) -> Any:
    dotted = f"{module}.{name}"
    if len(dotted) > _LONGEST_NAME or not all(
        part.isidentifier() for part in dotted.split(".")
    ):
        raise Damage(f"{quoted(dotted)} at byte {m.position} is no name")
    # What Python 2, and Python 3 in its protocol, call the module of the built-ins.
    return m.names.find(dotted.replace("__builtin__.", "builtins.", 1))


def _call(m: _Machine) -> None:
    args = m.stack.pop()
    function = m.stack.pop()
    m.budget -= 4
    if type(args) is not tuple:
        raise TypeError
    m.stack.append(m.names.call(function, args))


def _build(m: _Machine) -> None:
    state = m.stack.pop()
    m.budget -= 4
    m.names.build(m.stack[-1], state)


def _persistent(m: _Machine) -> None:
    if m.persistent is None:
        raise Damage("it refers to a tensor where none can be")
    m.budget -= 4
    m.stack.append(m.persistent(m.stack.pop()))


def _counted(kind: str, convert: Callable[[bytes], Any]) -> Callable[[_Machine], None]:
    """Pushes a value whose bytes follow their number."""

    def action(m: _Machine) -> None:
        m.stack.append(convert(m.take(m.number(kind))))

    return action


def _number(kind: str) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(m.number(kind))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


def _empty(kind: type) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(kind())


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _old_text(raw: bytes) -> str | bytes:
    """A string of Python 2, which did not tell text from bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _integer(raw: bytes) -> int:
    if len(raw) > _LONGEST_INTEGER:
        raise Damage(f"an integer of {len(raw):,} bytes is none that torch writes")
    return int.from_bytes(raw, "little", signed=True)


_STOP = pickle.STOP[0]

# Left out on purpose, beside the text opcodes of protocol 0: INST and OBJ, which call;
# EXT1 to EXT4, which look up a registry; NEWOBJ_EX, PERSID and the out-of-band buffers.
_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    opcode[0]: action
    for opcode, action in {
        pickle.PROTO: lambda m: m.take(1),
        pickle.FRAME: lambda m: m.take(8),
        pickle.MARK: _mark,
        pickle.POP: _pop,
        pickle.POP_MARK: lambda m: m.pop_mark(),
        pickle.DUP: lambda m: m.stack.append(m.stack[-1]),
        pickle.NONE: _constant(None),
        pickle.NEWTRUE: _constant(True),
        pickle.NEWFALSE: _constant(False),
        pickle.EMPTY_TUPLE: _constant(()),
        pickle.EMPTY_LIST: _empty(list),
        pickle.EMPTY_DICT: _empty(dict),
        pickle.EMPTY_SET: _empty(set),
        pickle.BININT: _number("<i"),
        pickle.BININT1: _number("<B"),
        pickle.BININT2: _number("<H"),
        pickle.BINFLOAT: _number(">d"),
        pickle.LONG1: _counted("<B", _integer),
        pickle.LONG4: _counted("<i", _integer),
        pickle.BINUNICODE: _counted("<I", _text),
        pickle.SHORT_BINUNICODE: _counted("<B", _text),
        pickle.BINUNICODE8: _counted("<Q", _text),
        pickle.BINSTRING: _counted("<i", _old_text),
        pickle.SHORT_BINSTRING: _counted("<B", _old_text),
        pickle.BINBYTES: _counted("<I", bytes),
        pickle.SHORT_BINBYTES: _counted("<B", bytes),
        pickle.BINBYTES8: _counted("<Q", bytes),
        pickle.BYTEARRAY8: _counted("<Q", bytearray),
        pickle.TUPLE: _tuple,
        pickle.TUPLE1: _short_tuple(1),
        pickle.TUPLE2: _short_tuple(2),
        pickle.TUPLE3: _short_tuple(3),
        pickle.APPEND: _append,
        pickle.APPENDS: _appends,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.ADDITEMS: _add_items,
        pickle.FROZENSET: _frozen_set,
        pickle.BINPUT: _put("<B"),
        pickle.LONG_BINPUT: _put("<I"),
        pickle.MEMOIZE: _memoize,
        pickle.BINGET: _get("<B"),
        pickle.LONG_BINGET: _get("<I"),
        pickle.GLOBAL: _global,
        pickle.STACK_GLOBAL: _stack_global,
        pickle.REDUCE: _call,
        pickle.NEWOBJ: _call,
        pickle.BUILD: _build,
        pickle.BINPERSID: _persistent,
    }.items()
}
