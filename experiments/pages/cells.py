"""Lines of tables that people open in spreadsheets, which compute what looks so."""

import re
from collections.abc import Iterable
from typing import Any

_COMPUTED = re.compile(r"'*(?![+-]?[\d.]+(?:[eE][+-]?\d+)?\Z)[=+\-@\t\r\n]")
"""Text that a spreadsheet runs, apostrophes before it aside; a number is none."""


def guarded(value: Any) -> str:
    """A cell's text; text that would be computed has an apostrophe before it.

    Names of files and classes may begin with `=`, `+`, `-`, `@`, a tab or a new line.
    A spreadsheet takes what follows for a formula, which may start a program, and shows
    what has the apostrophe as it is. Numbers stay numbers, None is empty.
    """
    if isinstance(value, str) and _COMPUTED.match(value):
        return f"'{value}"
    return "" if value is None else str(value)


def unguarded(text: str) -> str:
    """The text that `guarded` was given, whichever that was."""
    return text[1:] if text.startswith("'") and _COMPUTED.match(text) else text


def csv_line(values: Iterable[Any]) -> str:
    """One line of a table, guarded.

    Not by Python's `csv`, which before 3.13 leaves a carriage return without quotes, so
    that the line ends there for who reads it.
    """
    cells = map(guarded, values)
    return ",".join(_quoted(cell) for cell in cells) + "\n"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search('[",\r\n]', cell) else cell
