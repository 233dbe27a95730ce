"""Cells of tables that people open in spreadsheets, which compute what looks so."""

import re
from typing import Any

_COMPUTED = re.compile(r"'*(?![+-]?[\d.]+(?:[eE][+-]?\d+)?\Z)[=+\-@\t\r\n]")
"""Text that a spreadsheet runs, apostrophes before it aside; a number is none."""


def guarded(value: Any) -> Any:
    """A cell's value; text that would be computed has an apostrophe before it.

    Names of files and classes may begin with `=`, `+`, `-`, `@`, a tab or a new line.
    A spreadsheet takes what follows for a formula, a program may be one, and shows what
    has the apostrophe as it is.
    """
    return f"'{value}" if isinstance(value, str) and _COMPUTED.match(value) else value


def unguarded(text: str) -> str:
    """The text that `guarded` was given, whichever that was."""
    return text[1:] if text.startswith("'") and _COMPUTED.match(text) else text
