"""What folders of training, validation and test photographs are called."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

KINDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation", "holdout"),
    "test": ("test", "testing"),
}
"""Words for each split, in any case."""

_KIND = {word: kind for kind, words in KINDS.items() for word in words}
_PLAIN = {"set", "data", "dataset", "split", "folder"} | {
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"
}  # fmt: skip
_ENDS = ("set", "data", "images", "photos")


class Layout(NamedTuple):
    """The folders of two splits, by name: what to train on and what to judge by."""

    train: str
    val: str


def split_kind(name: str) -> str | None:
    """The split of a folder that is called by nothing but a word for it."""
    return _KIND.get(name.lower())


def find_layout(names: Sequence[str], *, where: object) -> Layout | None:
    """Which of the folders `names` hold the training and the validation photographs.

    Beside a word of `KINDS` a name may have others, and they must be the same for both:
    `seg_train` and `seg_test`, `TrainingSet` and `TestSet`; `steam_train` and
    `crash_test` are none. A name that is the word alone goes before one with others.
    Photographs to test by are validated by where there are no others.

    Raises:
      ValueError: two folders may be the same split; it names them, in `where`.
    """
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in names:
        kind, rest = parse(name)
        if kind is not None:
            groups.setdefault(rest, {}).setdefault(kind, []).append(name)
    whole = {
        rest: {kind: _clear(found) for kind, found in kinds.items()}
        for rest, kinds in groups.items()
        if "train" in kinds and len(kinds) > 1
    }
    if () in whole:
        whole = {(): whole[()]}
    layouts = [
        (kinds["train"], kinds.get("val") or kinds["test"]) for kinds in whole.values()
    ]
    for what, folders in (
        ("training", [name for train, _ in layouts for name in train]),
        ("validation", [name for _, val in layouts for name in val]),
    ):
        if len(folders) > 1:
            raise ValueError(
                f"{where} has several folders that may hold the {what} photos, "
                f"{listed(folders)}: rename or move away all but one of them"
            )
    return Layout(layouts[0][0][0], layouts[0][1][0]) if layouts else None


def listed(names: Collection[str]) -> str:
    """Folders in words: `a/, b/`."""
    return ", ".join(f"{name}/" for name in names)


def parse(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that `name` says, and what else it says."""
    kinds, rest = [], []
    for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name):
        word = part.lower()
        forms = [word, *(word.removesuffix(end) for end in _ENDS)]
        kind = next((_KIND[form] for form in forms if form in _KIND), None)
        if kind is not None:
            kinds.append(kind)
        elif word not in _PLAIN:
            rest.append(word)
    return (kinds[0], tuple(rest)) if len(kinds) == 1 else (None, ())


def _clear(names: list[str]) -> list[str]:
    """Those names that are a word alone, or all where none is."""
    return [name for name in names if split_kind(name)] or names
