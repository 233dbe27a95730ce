"""What each opcode of a pickle does to the machine; what is not here is refused."""

import pickle
from collections.abc import Callable
from typing import Any

from converters.torch_file.errors import Damage, quoted
from converters.torch_file.machine import Machine, checked_key

_LONGEST_INTEGER = 256  # bytes
_LONGEST_NAME = 200


def _mark(m: Machine) -> None:
    m.marked.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _tuple(m: Machine) -> None:
    items = m.pop_mark()
    m.stack.append(tuple(items))


def _short_tuple(count: int) -> Callable[[Machine], None]:
    def action(m: Machine) -> None:
        if len(m.stack) < count:
            raise LookupError
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return action


def _append(m: Machine) -> None:
    item = m.stack.pop()
    _target(m, list).append(item)


def _appends(m: Machine) -> None:
    items = m.pop_mark()
    _target(m, list).extend(items)


def _set_item(m: Machine) -> None:
    value = m.stack.pop()
    key = checked_key(m.stack.pop())
    _target(m, dict)[key] = value


def _set_items(m: Machine) -> None:
    items = m.pop_mark()
    target = _target(m, dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value


def _add_items(m: Machine) -> None:
    items = m.pop_mark()
    _target(m, set).update(map(checked_key, items))


def _frozen_set(m: Machine) -> None:
    items = m.pop_mark()
    m.stack.append(frozenset(map(checked_key, items)))


def _target(m: Machine, kind: type) -> Any:
    """The container on top of the stack; its type, exactly, is `kind`."""
    if type(m.stack[-1]) is not kind:
        raise TypeError
    return m.stack[-1]


def _put(kind: str) -> Callable[[Machine], None]:
    def action(m: Machine) -> None:
        m.memo[m.number(kind)] = m.stack[-1]

    return action


def _get(kind: str) -> Callable[[Machine], None]:
    def action(m: Machine) -> None:
        m.stack.append(m.memo[m.number(kind)])

    return action


def _memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _global(m: Machine) -> None:
    module, name = m.line(), m.line()
    m.stack.append(_find(m, module, name))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise TypeError
    m.stack.append(_find(m, module, name))


def _find(m: Machine, module: str, name: str) -> Any:
    dotted = f"{module}.{name}"
    if len(dotted) > _LONGEST_NAME or not all(
        part.isidentifier() for part in dotted.split(".")
    ):
        raise Damage(f"{quoted(dotted)} at byte {m.position} is no name")
    # What Python 2, and Python 3 in its protocol, call the module of the built-ins.
    return m.names.find(dotted.replace("__builtin__.", "builtins.", 1))


def _call(m: Machine) -> None:
    args = m.stack.pop()
    function = m.stack.pop()
    m.budget -= 4
    if type(args) is not tuple:
        raise TypeError
    m.stack.append(m.names.call(function, args))


def _build(m: Machine) -> None:
    state = m.stack.pop()
    m.budget -= 4
    m.names.build(m.stack[-1], state)


def _persistent(m: Machine) -> None:
    if m.persistent is None:
        raise Damage("it refers to a tensor where none can be")
    m.budget -= 4
    m.stack.append(m.persistent(m.stack.pop()))


def _counted(kind: str, convert: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    """Pushes a value whose bytes follow their number."""

    def action(m: Machine) -> None:
        m.stack.append(convert(m.take(m.number(kind))))

    return action


def _number(kind: str) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(m.number(kind))


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value)


def _empty(kind: type) -> Callable[[Machine], None]:
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


STOP = pickle.STOP[0]

# Left out on purpose, beside the text opcodes of protocol 0: INST and OBJ, which call;
# EXT1 to EXT4, which look up a registry; NEWOBJ_EX, PERSID and the out-of-band buffers.
ACTIONS: dict[int, Callable[[Machine], None]] = {
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
