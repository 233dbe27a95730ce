"""The pickles in checkpoints, read by a machine that imports nothing and calls no code.

Python's own unpickler looks names up by importing their modules, and calls what it
finds. This one knows the opcodes that build plain values, and hands each name, each
call and each persistent reference to tables of ours. Memory is bounded by the bytes
of the pickle and by `BUDGET`.
"""

import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any

from converters.torch_file.errors import Damage, Refusal
from converters.torch_file.machine import BUDGET, Machine, Names
from converters.torch_file.opcodes import ACTIONS, STOP


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
    machine = Machine(data, start, end, names, persistent)
    try:
        value = _run(machine)
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


def _run(machine: Machine) -> Any:
    data, end, actions = machine.data, machine.end, ACTIONS
    while machine.position < end:
        opcode = data[machine.position]
        machine.position += 1
        machine.budget -= 1
        if machine.budget < 0:
            raise Refusal(
                f"holds a pickle of more than {BUDGET:,} values and is not loaded: "
                "save the tensors of the model alone, torch.save(model."
                "state_dict(), FILE)"
            )
        if opcode == STOP:
            return machine.stack.pop()
        action = actions.get(opcode)
        if action is None:
            raise Damage(
                f"opcode {opcode:#04x} at byte {machine.position - 1} is none that "
                "torch writes"
            )
        action(machine)
    raise Damage("its pickle has no end")
