"""Text from elsewhere, such as names of files and classes, made fit to be shown."""

import io
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

_UNSEEN = re.compile(
    "[\0-\x08\n-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a terminal's cursor, colours or reorders the rest of the line, or is no
character: controls but the tab, marks of direction, and halves of surrogate pairs, as
which Python has the bytes of a file name that is no UTF-8."""


def printable(text: str) -> str:
    r"""`text` on one line, with an escape such as `\x1b` where it could do harm."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def shell_word(path: str | Path) -> str:
    r"""A path as one word of a shell, on one line.

    What cannot be shown, bytes that are no UTF-8 too, is an escape in `$'...'`, which
    bash, zsh and ksh know.
    """
    text = os.fspath(path)
    if not _UNSEEN.search(text):
        return shlex.quote(text)
    escaped = "".join(
        "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
        if _UNSEEN.match(char) or char in "\\'"
        else char
        for char in text
    )
    return f"$'{escaped}'"


def speak_plainly() -> None:
    """Has this process, a program, say all that it says in lines that can be shown.

    A warning is its message alone; where a terminal lacks a character, an accent say,
    it shows the number.
    """
    warnings.formatwarning = _plain
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _plain(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"warning: {message}\n"
