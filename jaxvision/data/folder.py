"""A folder of photographs: one folder a class, as torchvision's ImageFolder, or any."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvision.data.decode import extensions
from jaxvision.data.file_photos import LOOKS, FilePhotos, Names, names_below
from jaxvision.data.image_files import (
    Found,
    find_images,
    list_folder,
    passed_over,
)
from jaxvision.data.photo import Source
from jaxvision.data.split_names import (
    Layout,
    find_layout,
    listed,
    parse,
    split_kind,
)


class _Splits(NamedTuple):
    """Folders of two splits, in words what was taken as what, and what was not."""

    train: Path
    val: Path
    taken: str
    warnings: list[str]


def open_folder(spec: str, *, labelled: bool) -> Source:
    """The photographs under a folder.

    With classes: its sorted subfolders are these, or those of its `train` where it has
    two splits: `train` and `val`, or `test` where there is no `val`, by any of the
    names of `split_names`. Without: any images below it, in the same two splits where
    it has both; where it has `val` or `test` alone, all others are to train on.

    The splits may lie in the one folder that is there (`images/train`), and each in one
    of its own name (`seg_train/seg_train`). Hidden files and folders are passed over;
    folders below a class are walked.

    Raises:
      ValueError: there are no classes, or only one; a class is empty, or in one of the
        splits alone; or it is not clear which folders are the splits.
    """
    folder = Path(os.path.expanduser(spec))
    source = partial(Source, name=folder.resolve().name, place=str(folder))
    return (_with_classes if labelled else _any_images)(folder, source)


def _any_images(folder: Path, source: Callable[..., Source]) -> Source:
    found = find_images(folder)
    undivided = partial(_photos, found.images, folder)
    splits = _find_splits(folder, labelled=False)
    if splits is not None:
        train, val = (find_images(root) for root in splits[:2])
        _check_inside(train)
        if not val.images:
            raise ValueError(
                f"no images in {splits.val}: add some ({' '.join(extensions())}) or "
                "remove the folder"
            )
        return source(
            train=_photos(train.images, splits.train),
            val=_photos(val.images, splits.val),
            undivided=undivided,
            taken=splits.taken,
            warnings=[
                *splits.warnings,
                *passed_over([*train.others, *val.others]),
            ],
        )
    _check_inside(found)
    source = partial(source, warnings=passed_over(found.others))
    # Photographs to judge by, and all others are to train on.
    aside = [name for name in list_folder(folder).folders if split_kind(name)]
    aside = [name for name in aside if split_kind(name) != "train"]
    aside.sort(key=lambda name: split_kind(name) == "test")
    parts = [_below(found.images, os.path.join(folder, name)) for name in aside]
    judged = set().union(*parts)
    rest = [path for path in found.images if path not in judged]
    if not aside or not rest or not parts[0]:
        return source(train=undivided())
    return source(
        train=_photos(rest, folder),
        val=_photos(parts[0], folder),
        undivided=undivided,
        taken=f"{folder}: validation photos from {aside[0]}/, training photos are all "
        f"others{_left_out(aside[1:])}",
    )


def _below(images: Sequence[str], folder: str) -> list[str]:
    return [path for path in images if path.startswith(os.path.join(folder, ""))]


def _photos(images: Sequence[str], root: Path) -> FilePhotos:
    return FilePhotos(root, names_below(images, root), labels=None)


def _check_inside(found: Found) -> None:
    """Raises ValueError where splits lie deeper than they are looked for."""
    for root, names in found.folders.items():
        layout = find_layout(names, where=root)
        if layout is not None:
            raise ValueError(
                f"{root} has {listed(layout)} inside, and they would not be kept "
                f"apart: give {root} alone, put the splits first "
                f"({layout.train}/{os.path.basename(root)}), or rename them"
            )


def _with_classes(folder: Path, source: Callable[..., Source]) -> Source:
    splits = _find_splits(folder, labelled=True)
    if splits is None:
        classes, train, warnings = _find_classes(folder)
        plain = [name for name in classes if split_kind(name)]
        if plain:
            warnings.append(
                f"{listed(plain)} in {folder} has images and no folders, and is taken "
                "as a class like the others; if it is none, move it away"
            )
        return source(
            classes=classes,
            train=train,
            class_roots=(folder, folder),
            warnings=warnings,
        )
    roots = splits.train, splits.val
    classes, train, warnings = _find_classes(roots[0])
    val_classes, val, more = _find_classes(roots[1])
    _check_same_classes(*roots, classes, val_classes)
    return source(
        classes=classes,
        train=train,
        val=val,
        class_roots=roots,
        taken=splits.taken,
        warnings=[*splits.warnings, *warnings, *more],
    )


def _find_splits(folder: Path, *, labelled: bool) -> _Splits | None:
    """The folders of the splits; None where `folder` holds the classes, or any images.

    Raises:
      ValueError: it is not clear which they are, or one is missing.
    """
    find, base, seen = (_labelled_layout if labelled else _any_layout), folder, set()
    while (real := os.path.realpath(base)) not in seen:  # links may go in circles
        seen.add(real)
        names, files = list_folder(base)
        layout = find(base, names)
        if layout is not None:
            break
        if len(names) != 1 or split_kind(names[0]) or _has_images(files):
            return None
        base = base / names[0]
    else:
        return None
    roots = [_innermost(base / name) for name in layout]
    left = [name for name in names if name not in layout]
    taken = ""
    if left or base != folder or tuple(layout) != ("train", "val"):
        train, val = (root.relative_to(base) for root in roots)
        taken = (
            f"{base}: training photos from {train}/, validation photos from {val}/"
            f"{_left_out(left)}"
        )
    outside = [os.path.join(base, name) for name in files]
    warnings = passed_over(outside, where="outside the folders of the splits ")
    return _Splits(roots[0], roots[1], taken, warnings)


def _left_out(names: Sequence[str]) -> str:
    return f"; left out: {listed(names)}" if names else ""


def _any_layout(folder: Path, names: Sequence[str]) -> Layout | None:
    return find_layout(names, where=folder)


def _labelled_layout(folder: Path, names: Sequence[str]) -> Layout | None:
    """The splits among the folders of `folder`, where the others may be classes.

    A folder that holds images and no folders is a class, `train` one of locomotives,
    unless all that is there speaks against it.

    Raises:
      ValueError: there is one split only.
    """
    called = [name for name in names if parse(name)[0]]
    deep = [name for name in called if list_folder(folder / name).folders]
    plain = [name for name in names if split_kind(name)]
    kinds = {split_kind(name) for name in plain}
    is_split = bool(set(plain) & set(deep)) or plain == list(names)
    if is_split or ("train" in kinds and len(kinds) > 1):
        deep = [name for name in names if name in plain or name in deep]
    layout = find_layout(deep, where=folder)
    if layout is not None or not is_split or not plain:
        return layout
    if "train" not in kinds:
        raise ValueError(
            f"{folder} has {plain[0]}/ but no train/: add "
            f"{folder / 'train' / 'CLASS'}/*.jpg, or rename the folder if it is a class"
        )
    train = next(name for name in plain if split_kind(name) == "train")
    raise ValueError(
        f"{folder} has {train}/ but no val/: add {folder / 'val' / 'CLASS'}/*.jpg, "
        f"or give {folder / train}, of which a fifth is then kept for validation"
    )


def _innermost(root: Path) -> Path:
    """`seg_train/seg_train`, as some archives have it, instead of the outer folder."""
    names, files = list_folder(root)
    return root / root.name if names == [root.name] and not _has_images(files) else root


def _has_images(names: Sequence[str]) -> bool:
    return any(name.lower().endswith(extensions()) for name in names)


def _find_classes(root: Path) -> tuple[tuple[str, ...], FilePhotos, list[str]]:
    """The classes under `root`, their photographs, and what was passed over."""
    names, loose = list_folder(root)
    classes = tuple(names)
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no class folders"
        raise ValueError(
            f"{root} has {found}: put the images of each class into a folder of "
            f"its own, {root / 'CLASS'}/*.jpg, at least two classes"
        )
    found, names = [], []
    with ThreadPoolExecutor(LOOKS) as pool:
        for one in pool.map(find_images, [root / name for name in classes]):
            names.append(names_below(one.images, root))
            found.append(one._replace(images=[]))  # each as it comes
    empty = [name for name, one in zip(classes, names, strict=True) if not one]
    others = [path for one in found for path in one.others]
    if empty:
        place = os.path.join(root, empty[0], "")
        there = passed_over([path for path in others if path.startswith(place)])
        raise ValueError(
            f"no images of {_named(empty)} in {root / empty[0]}: "
            f"add some ({' '.join(extensions())}) or remove the folder"
            + "".join(f"; {line}" for line in there)
        )
    for one in found:
        _check_inside(one)
    counts = [len(one) for one in names]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    folders = Names.of(os.fsencode(path) for one in found for path in one.folders)
    photos = FilePhotos(root, Names.joined(names), labels=labels, folders=folders)
    outside = [os.path.join(root, name) for name in loose]
    where = "outside the class folders "
    return (
        classes,
        photos,
        [*passed_over(others), *passed_over(outside, where=where)],
    )


def _check_same_classes(
    train: Path, val: Path, classes: Sequence[str], val_classes: Sequence[str]
) -> None:
    for have, here, lack, there in (
        (classes, train, val_classes, val),
        (val_classes, val, classes, train),
    ):
        only = sorted(set(have) - set(lack))
        if only:
            raise ValueError(
                f"{_named(only)} in {here} but not in {there}: "
                f"add {there / only[0]} or remove {here / only[0]}"
            )


def _named(classes: list[str]) -> str:
    if len(classes) == 1:
        return f"class {classes[0]!r}"
    return f"classes {', '.join(map(repr, classes))}"
