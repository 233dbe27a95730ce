"""What a server does with the photographs that it is sent."""

import json
import re
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, NamedTuple

from jaxvision.data.decode import extensions
from jaxvision.text import printable

LARGEST = 100 * 2**20
"""Bytes of a photograph that is taken."""
LONGEST = 120
"""Bytes of a safe name, beside what tells equal ones apart."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows gives to devices."""


class RefusedError(Exception):
    """A request that cannot be answered: an HTTP status and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


class Upload(NamedTuple):
    """A photograph that was sent.

    Attributes:
      name: what its sender calls it.
      data: the file's content.
      wishes: what stood behind `?`.
      is_gone: whether nobody waits for the answer any more.
    """

    name: str
    data: bytes
    wishes: Mapping[str, str]
    is_gone: Callable[[], bool]


class Reply(NamedTuple):
    """An answer: its media type and its content."""

    kind: str
    body: bytes


class Service(NamedTuple):
    """What is served.

    Attributes:
      about: what the page has to know.
      answers: by the path of the address; each is called in one thread, one at a time.
      warm: compiles ahead of the first photograph, in that thread.
      behind: what goes on meanwhile in a thread of its own, until the event is set.
    """

    about: Mapping[str, Any]
    answers: Mapping[str, Callable[[Upload], Reply]]
    warm: Callable[[], None]
    behind: Callable[[Event], None] | None = None


def as_json(value: Any) -> Reply:
    """A JSON reply; its numbers come back to the same bits."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Reply("application/json", f"{text}\n".encode("utf-8", "replace"))


def safe_name(name: str, *, instead: str) -> str:
    """`name` as a file or a folder that every system can have, and training finds.

    Args:
      name: of a class or of a file, without folders; any text.
      instead: where nothing is left of it.
    """
    plain = re.sub(r'[/\\:*?"<>|]', "_", printable(name).replace("\\", "_"))
    plain = plain.encode("utf-8", "replace").decode()
    plain = plain.strip(" .") or instead  # training passes over .hidden files
    while len(plain.encode()) > LONGEST:
        plain = plain[:-1]
    return f"_{plain}" if _RESERVED.fullmatch(plain) else plain


def safe_file(name: str, *, ending: str) -> str:
    """The safe name of a photo, with an `ending` where its own is not of a photo."""
    stem, dot, suffix = name.rpartition(".")
    if f".{suffix.lower()}" in extensions() and dot:
        return safe_name(stem, instead="photo") + f".{suffix}"
    return safe_name(name, instead="photo") + ending


def safe_folders(classes: tuple[str, ...]) -> list[str]:
    """A folder for each class, no two alike on any system."""
    found: list[str] = []
    for label, name in enumerate(classes):
        folder = safe_name(name, instead=f"class-{label}")
        while folder.lower() in map(str.lower, found):
            folder = f"{folder}-{label}"
        found.append(folder)
    return found
