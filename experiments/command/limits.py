"""What values an option may have, said beside the field that holds it."""

from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, NoReturn

Limit = Callable[[Any], bool]
"""What must hold of a value."""


def at_least(smallest: int) -> Limit:
    """Numbers from `smallest` on."""
    return lambda value: value >= smallest


def positive(value: float) -> bool:
    """Above 0."""
    return value > 0


def share(value: float) -> bool:
    """From 0 on, below 1."""
    return 0 <= value < 1


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
            refuse(one.name, value)


def refuse(name: str, value: Any) -> NoReturn:
    """Raises the ValueError that says that an option cannot have this value."""
    raise ValueError(f"--{name.replace('_', '-')} cannot be {value}")
