"""What values an option may have, said beside the field that holds it."""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

Limit = Callable[[Any], bool]
"""What must hold of a value; as text, it says so where that helps."""
MOST = 10**6
"""Of whatever is counted: a typing error beyond it fills the memory, or never ends."""
LONGEST = 60
"""Characters of a value in a message."""


@dataclass(frozen=True)
class Between:
    """Numbers from `smallest` to `most`."""

    smallest: int
    most: int

    def __call__(self, value: int) -> bool:
        return self.smallest <= value <= self.most

    def __str__(self) -> str:
        return f"; it goes from {self.smallest} to {self.most}"


def at_least(smallest: int, *, most: int = MOST) -> Limit:
    """Numbers from `smallest` to `most`."""
    return Between(smallest, most)


def positive(value: float) -> bool:
    """Above 0, and a number."""
    return 0 < value < math.inf


def share(value: float) -> bool:
    """From 0 on, below 1."""
    return 0 <= value < 1


def chance(value: float) -> bool:
    """Above 0 and below 1."""
    return 0 < value < 1


def seed(value: int) -> bool:
    """What numpy and JAX take as one."""
    return 0 <= value < 2**32


def given(_: Any) -> bool:
    """Any value: of an option with several, there must be one."""
    return True


def limited(default: Any, limit: Limit) -> Any:
    """A field of a dataclass with a default and a limit; None is always within.

    Of a tuple, the limit is that of each value, and it may not be empty.
    """
    return field(default=default, metadata={"limit": limit})


def check_limits(config: Any) -> None:
    """Raises ValueError, with the option's name, for the first limit that is broken."""
    for one in fields(config):
        limit: Limit | None = one.metadata.get("limit")
        value = getattr(config, one.name)
        if limit is None or value is None:
            continue
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(map(limit, values)):
            hint = str(limit) if isinstance(limit, Between) else ""
            refuse(one.name, value, hint=hint)


def refuse(name: str, value: Any, *, hint: str = "") -> NoReturn:
    """Raises the ValueError that says that an option cannot have this value."""
    option = f"--{name.replace('_', '-')}"
    raise ValueError(f"{option} cannot be {brief(value)}{hint}")


def brief(value: Any) -> str:
    """A value as it is written, its middle left out where it is long or deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = LONGEST
    text = short.repr(value)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"
