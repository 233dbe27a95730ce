"""What a program says while it works: lines, tables and progress."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from jaxvision.text import printable

Show = Callable[[str, int, int, str], None]
"""`show(title, done, total, note)`: what goes on, how far it is, what to say of it."""


class _Terminal(Terminal):
    """Shows text from elsewhere, cells of tables too, as the characters that it has."""

    def _render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    render_str = _render_str


class _Output:
    """Standard output, as long as somebody reads it."""

    def write(self, text: str) -> None:
        stream = _stdout()
        try:
            stream.write(text)
        except UnicodeEncodeError:  # shown as far as it can be
            encoding = stream.encoding
            text = text.encode(encoding, "backslashreplace").decode(encoding)
            stream.write(text)
        except (OSError, ValueError, AttributeError):
            silence()

    def flush(self) -> None:
        try:
            _stdout().flush()
        except (OSError, ValueError, AttributeError):
            silence()

    def __getattr__(self, name: str) -> Any:
        return getattr(_stdout(), name)


def _stdout() -> Any:
    """Standard output itself, also while a progress bar stands before it."""
    return getattr(sys.stdout, "rich_proxied_file", sys.stdout)


def silence() -> None:
    """Sends what nobody reads nowhere, also what Python still holds when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def complain(line: str) -> None:
    """One line on standard error, where somebody reads it."""
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence()


class Console:
    """What a program says: a progress bar on a terminal, plain lines elsewhere.

    Where nobody reads it, a closed pipe's end say, it is lost and the program goes on.
    """

    def __init__(self):
        output = cast(IO[str], _Output())
        # What is said is text: names have brackets and colons, and mean no markup.
        # A notebook gets plain text too, whose long lines it breaks, and colours.
        self._terminal = _Terminal(
            file=output,
            highlight=False,
            soft_wrap=True,
            markup=False,
            emoji=False,
            force_jupyter=False,
            color_system="standard" if "ipykernel" in sys.modules else "auto",
        )
        self._last_line = time.monotonic()

    def say(self, line: str, *, style: str | None = None) -> None:
        """One line; it stands above the bar where there is one."""
        self._terminal.print(line, style=style)

    def table(self, table: Table) -> None:
        """A table for people; a script reads the files."""
        self._terminal.print(table)

    @contextmanager
    def progress(self, title: str) -> Iterator[Show]:
        """Shows how much is done, by the function it gives.

        On a terminal that is a bar with the time left; elsewhere a line a minute, so
        that the log of a long run stays short.
        """
        if not self._terminal.is_terminal:
            yield self._line_each_minute
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        with Progress(*columns, console=self._terminal, transient=True) as bar:
            task = bar.add_task(printable(title), total=None, note="")
            yield lambda title, done, total, note: bar.update(
                task,
                description=printable(title),
                completed=done,
                total=total,
                note=note,
            )

    @contextmanager
    def counting(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """`progress` for work that only counts: gives a `(done, total)` function."""
        with self.progress(title) as show:
            yield lambda done, total: show(title, done, total, "")

    def _line_each_minute(self, title: str, done: int, total: int, note: str) -> None:
        if time.monotonic() - self._last_line > 60:
            self._last_line = time.monotonic()
            self.say(f"{title}: {done / max(total, 1):.0%}  {note}")
