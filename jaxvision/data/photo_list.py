"""A list of photographs in a file: CSV or JSON lines, with one label each or several.

A column has paths, from the folder of the file; another labels; one more may say which
split each photograph is of. Several labels stand in one cell (`cat;dog` or `cat|dog`),
in a list of JSON's, or in a column each, with 1 where a label holds and 0 elsewhere.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxvision.data.image_files import file_photo
from jaxvision.data.photo import Photo, Source
from jaxvision.data.split_names import split_kind
from jaxvision.data.table import Row, Rows, read_table, shown

ENDINGS = (".csv", ".tsv", ".jsonl")
PATHS = tuple(
    "path file filename file_name filepath file_path image image_path image_file "
    "image_name img img_path photo photo_path".split()
)
"""What the column of paths may be called, in any case, `_` as a blank or a hyphen."""
LABELS = tuple(
    "label labels label_name class classes class_name class_label target targets "
    "category categories tag tags".split()
)
"""What the column of labels may be called."""
SPLITS = ("split", "subset", "set", "partition")
"""What the column of the splits may be called."""
SEPARATORS = (";", "|")
"""What may stand between several labels in a cell."""
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True}
_FLAGS |= {"false": False, "true": True, "no": False, "yes": True}


class _Entry(NamedTuple):
    """One photograph of a list: its row, its path there, its labels, its split."""

    line: int
    path: str
    labels: tuple[str, ...]
    split: str


class _Labels(NamedTuple):
    """The labels of each row, how they are written, and whether none may be meant."""

    each: list[tuple[str, ...]]
    words: str
    none_is_meant: bool


def is_list(spec: str) -> bool:
    """Whether `spec` names a list of photographs."""
    return spec.lower().endswith(ENDINGS)


def open_list(spec: str, *, labelled: bool) -> Source:
    """The photographs that a list names.

    Where any has several labels, or none in a form that can say so, all have such
    (`Source.is_multilabel`). A photograph that is not there is found to be unreadable
    when it is opened.

    Raises:
      ValueError: the list is damaged, or it is not clear what it says; the message
        names the line.
    """
    path = Path(os.path.expanduser(spec))
    table = read_table(path, is_header=lambda cells: bool(_named(cells, PATHS)))
    where = _column(path, table, PATHS, "the paths of the photos")
    if where is None:
        raise ValueError(
            f"{path} has no column of paths: call it path, file, filename or image"
        )
    side = _column(path, table, SPLITS, "the split")
    said = f"{path}: paths from {shown(where)}"
    labels, multilabel = [()] * len(table.rows), False
    if labelled:
        found = _find_labels(path, table, {where, side})
        multilabel = _is_multilabel(path, table, found)
        labels, said = found.each, f"{said}, {found.words}"
        if multilabel:
            said += ", several a photo"
            _check_marks(path, labels)
    entries = [
        _Entry(
            row.line, _path(path, row, where), one, _split(path, row, side) or "train"
        )
        for row, one in zip(table.rows, labels, strict=True)
    ]
    _check_once(path, entries)
    source = _source(path, entries, said=said, multilabel=multilabel)
    if labelled and len(source.classes) < 2:
        names = source.classes
        found = f"one label, {shown(names[0])}" if names else "no labels"
        raise ValueError(f"{path} has {found}: two are needed")
    return source


def _source(
    path: Path, entries: Sequence[_Entry], *, said: str, multilabel: bool
) -> Source:
    kinds = [kind for kind in ("train", "val", "test") if _of(entries, kind)]
    if "train" not in kinds:
        raise ValueError(f"{path} has no photos of the split 'train'")
    judged = next((kind for kind in kinds if kind != "train"), None)
    train, val = _of(entries, "train"), _of(entries, judged) if judged else []
    if judged is not None:
        _check_same_labels(path, train, val, judged)
        said += (
            f"; training photos are those of 'train', validation photos of '{judged}'"
        )
        said += "; left out: those of 'test'" if kinds[2:] else ""
    classes = _sorted({name for one in (*train, *val) for name in one.labels})
    index = {name: label for label, name in enumerate(classes)}

    def photos(entries: Sequence[_Entry]) -> list[Photo]:
        return [_photo(path, one, index, multilabel=multilabel) for one in entries]

    return Source(
        name=path.stem,
        place=str(path),
        train=photos(train),
        val=photos(val),
        classes=classes,
        is_multilabel=multilabel,
        is_list=True,
        taken=said,
        warnings=_alike(path, classes),
    )


def _photo(
    path: Path, entry: _Entry, index: dict[str, int], *, multilabel: bool
) -> Photo:
    labels = tuple(sorted(index[name] for name in entry.labels))
    # Wherever the list lies, a photograph below its folder has the same key.
    return file_photo(
        os.path.join(path.parent, entry.path),
        key=Path(_below(path, entry.path)).as_posix(),
        label=labels if multilabel else labels[0] if labels else None,
    )


def _below(path: Path, name: str) -> str:
    """`name` from the list's folder where it lies below it, else as it is."""
    if os.path.isabs(name):
        inside = os.path.relpath(name, os.path.abspath(path.parent))
        return os.path.normpath(name) if inside.startswith(os.pardir) else inside
    return os.path.normpath(name)


def _of(entries: Sequence[_Entry], kind: str) -> list[_Entry]:
    return [one for one in entries if one.split == kind]


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [
        column
        for column in columns
        if column.lower().replace(" ", "_").replace("-", "_") in names
    ]


def _column(path: Path, table: Rows, names: Sequence[str], what: str) -> str | None:
    """The one column that is called so.

    Raises:
      ValueError: there are several.
    """
    found = _named(table.columns, names)
    if len(found) > 1:
        raise ValueError(
            f"{path}: {', '.join(map(shown, found))} may each be the column of {what}: "
            "rename all but one"
        )
    return found[0] if found else None


def _path(path: Path, row: Row, column: str) -> str:
    name = row.cells.get(column)
    if not isinstance(name, str) or not name or "\0" in name or not _is_text(name):
        said = "nothing" if name in (None, "") else shown(name)
        raise ValueError(
            f"{path}, line {row.line}: {shown(column)} is {said}, and no path"
        )
    return name


def _split(path: Path, row: Row, column: str | None) -> str | None:
    if column is None:
        return None
    said = row.cells.get(column)
    kind = split_kind(said) if isinstance(said, str) else None
    if kind is None:
        raise ValueError(
            f"{path}, line {row.line}: {shown(column)} is {shown(said)}, and none of "
            "train, val, test"
        )
    return kind


def _find_labels(path: Path, table: Rows, others: set[str | None]) -> _Labels:
    column = _column(path, table, LABELS, "the labels")
    if column is None:
        return _flags(path, table, [c for c in table.columns if c not in others])
    cells = [row.cells.get(column) for row in table.rows]
    words = f"labels from {shown(column)}"
    found = [
        mark
        for mark in SEPARATORS
        if any(isinstance(cell, str) and mark in cell for cell in cells)
    ]
    if path.suffix.lower() == ".jsonl":  # which has lists for several
        found = []
    if len(found) > 1:
        raise ValueError(
            f"{path}: in {shown(column)} some cells have ';' and others '|': put one "
            "of the two between several labels, and none of them into a label"
        )
    each = []
    for row, cell in zip(table.rows, cells, strict=True):
        names = cell.split(found[0]) if found and isinstance(cell, str) else cell
        names = names if isinstance(names, list) else [names]
        each.append(_names(path, row, column, names))
    lists = any(isinstance(cell, list) for cell in cells)
    if found:
        words += f", separated by {found[0]!r}"
    return _Labels(each, words, none_is_meant=lists)


def _names(path: Path, row: Row, column: str, values: Sequence[Any]) -> tuple[str, ...]:
    names = []
    for value in values:
        if value is None:
            continue
        if type(value) not in (str, int) or not _is_text(str(value)):
            raise ValueError(
                f"{path}, line {row.line}: {shown(column)} has {shown(value)}, and a "
                "label is a text or a whole number"
            )
        names.append(str(value).strip())
    return tuple(dict.fromkeys(name for name in names if name))


def _flags(path: Path, table: Rows, columns: Sequence[str]) -> _Labels:
    """Labels in columns of their own, with 0 and 1."""
    each: list[list[str]] = [[] for _ in table.rows]
    for column in columns:
        for row, names in zip(table.rows, each, strict=True):
            said = row.cells.get(column)
            holds = _FLAGS.get(str(said).lower())
            if holds is None:
                raise ValueError(
                    f"{path} has no column called label, and {shown(column)} is no "
                    f"label that holds or not: in line {row.line} it is {shown(said)}, "
                    "not 0 or 1; call the column of labels label, or remove others"
                )
            if holds:
                names.append(column)
    if len(columns) < 2:
        raise ValueError(
            f"{path} has no column of labels: call it label or class, or give each "
            "label a column with 0 and 1"
        )
    words = f"labels from {len(columns)} columns of 0 and 1"
    return _Labels([tuple(names) for names in each], words, none_is_meant=True)


def _is_multilabel(path: Path, table: Rows, labels: _Labels) -> bool:
    """Whether photographs have several labels.

    Raises:
      ValueError: they have one each, but for some that have none.
    """
    if any(len(one) > 1 for one in labels.each):
        return True
    lacking = [
        row.line for row, one in zip(table.rows, labels.each, strict=True) if not one
    ]
    if lacking and not labels.none_is_meant:
        more = f" and {len(lacking) - 1} others" if lacking[1:] else ""
        raise ValueError(
            f"{path}, line {lacking[0]}{more}: the label is empty; fill it in or "
            "remove the line"
        )
    return bool(lacking)


def _check_marks(path: Path, labels: Sequence[tuple[str, ...]]) -> None:
    """Raises ValueError where a label of several holds what separates them."""
    for name in sorted({name for one in labels for name in one}):
        if ";" in name:
            raise ValueError(
                f"{path}: the label {shown(name)} holds ';', which separates the "
                "labels of a photo in all tables: rename it"
            )


def _check_once(path: Path, entries: Sequence[_Entry]) -> None:
    """Raises ValueError where two rows name one photograph."""
    seen: dict[str, int] = {}
    twice = []
    for one in entries:
        key = _below(path, one.path)
        if key in seen:
            twice.append((seen[key], one))
        seen.setdefault(key, one.line)
    if twice:
        line, one = twice[0]
        raise ValueError(
            f"{path}: lines {line} and {one.line} name the same photo, "
            f"{shown(one.path)}{f'; {len(twice)} such' if twice[1:] else ''}: remove "
            "one; several labels of a photo go into one cell, as cat;dog"
        )


def _check_same_labels(
    path: Path, train: Sequence[_Entry], val: Sequence[_Entry], judged: str
) -> None:
    sides = {"train": train, judged: val}
    names = {kind: {n for one in sides[kind] for n in one.labels} for kind in sides}
    for have, lack in (("train", judged), (judged, "train")):
        only = sorted(names[have] - names[lack])
        if only:
            raise ValueError(
                f"{path}: {shown(only[0])}"
                f"{f' and {len(only) - 1} other labels are' if only[1:] else ' is'} in "
                f"{have!r} but not in {lack!r}: add photos there, or remove these"
            )


def _sorted(names: set[str]) -> tuple[str, ...]:
    """By name; whole numbers by their value."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _alike(path: Path, classes: Sequence[str]) -> list[str]:
    """A line on labels that differ in capitals alone; or none."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            return [
                f"{path}: {shown(other)} and {shown(name)} are taken as two labels; "
                "make them one if they are"
            ]
    return []


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair, which JSON can hold
        return False
    return True
