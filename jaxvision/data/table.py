"""The rows of a table that people wrote: CSV of any dialect, or JSON lines."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxvision.files import regular_file

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may stand between the cells of a CSV file."""
LONGEST = 60
"""Characters of a cell that a message shows."""


class Row(NamedTuple):
    """One row.

    Attributes:
      line: where it ends in the file, counted from one.
      cells: column -> text, or in JSON any value; there it may lack columns.
    """

    line: int
    cells: dict[str, Any]


class Rows(NamedTuple):
    """The columns of a table, in their order, and its rows."""

    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path, *, is_header: Callable[[Sequence[str]], bool]) -> Rows:
    """The rows of a `.jsonl` file, or of a `.csv` or `.tsv` file with a header.

    Cells and names come without the blanks around them. Empty lines, and columns
    without a name, such as the row numbers that pandas writes, are passed over.

    Args:
      path: UTF-8, with a byte order mark or without, and with any ends of lines.
      is_header: whether these are the columns that are looked for: what separates the
        cells is that of `DELIMITERS` by which they are.

    Raises:
      ValueError: it cannot be read; one line says where and why.
    """
    text = _text(path)
    if path.suffix.lower() == ".jsonl":
        rows = list(_json_rows(path, text))
        columns = tuple(dict.fromkeys(name for row in rows for name in row.cells))
    else:
        columns, rows = _csv_rows(path, text, is_header)
    if not rows:
        raise ValueError(f"{path} has no rows")
    return Rows(columns, rows)


def shown(value: Any) -> str:
    """A cell in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _text(path: Path) -> str:
    try:
        with open(os.fspath(path), "rb", opener=regular_file) as file:
            data = file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the text is not UTF-8: save it as UTF-8 (Excel "
            "calls that 'CSV UTF-8')"
        ) from error


def _csv_rows(
    path: Path, text: str, is_header: Callable[[Sequence[str]], bool]
) -> tuple[tuple[str, ...], list[Row]]:
    delimiter = _delimiter(path, text, is_header)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows = []
    try:
        for line in lines:
            cells = [cell.strip() for cell in line]
            if not any(cells):
                continue
            if header is None:
                header = cells
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {lines.line_num}: {len(cells)} cells, and the first "
                    f"line names {len(header)} columns, separated by "
                    f"{DELIMITERS[delimiter]}; a cell that has such inside is quoted"
                )
            named = zip(header, cells, strict=True)
            rows.append(Row(lines.line_num, {n: cell for n, cell in named if n}))
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from error
    columns = [name for name in header or () if name]
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise ValueError(f"{path} has two columns called {shown(twice[0])}: rename one")
    return tuple(columns), rows


def _delimiter(
    path: Path, text: str, is_header: Callable[[Sequence[str]], bool]
) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    # What gives the same cells is the same: a table may have one column.
    found = {}
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:
            continue
        found.setdefault(tuple(cell.strip() for cell in cells), delimiter)
    fitting = [delimiter for cells, delimiter in found.items() if is_header(cells)]
    if not fitting:
        raise ValueError(
            f"{path}: the first line must name the columns, with commas, semicolons "
            f"or tabs between them, and that of the photos path, file, filename or "
            f"image; it is {shown(first)}"
        )
    return fitting[0]


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path}, line {number}: no JSON ({reason})") from error
        if not isinstance(value, dict):
            raise ValueError(
                f"{path}, line {number}: {shown(value)} is no object, such as "
                '{"path": "a.jpg", "label": "cat"}'
            )
        yield Row(
            number,
            {
                name.strip(): cell.strip() if isinstance(cell, str) else cell
                for name, cell in value.items()
            },
        )
