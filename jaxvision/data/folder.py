"""A folder of photographs: one folder a class, as torchvision's ImageFolder, or any."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jaxvision.data.image_files import (
    EXTENSIONS,
    file_photo,
    find_images,
    find_subfolders,
    find_tree,
)
from jaxvision.data.photo import Photo, Source

VAL_FOLDERS = ("val", "valid", "validation", "test")


def open_folder(spec: str, *, labelled: bool) -> Source:
    """The photographs under a folder.

    With classes: its sorted subfolders are these, or those of `train`, where the
    validation images are those of the first of `val`, `valid`, `validation` and `test`
    that exists. Without: any images below it, in the same two splits where it has both.

    Hidden files and folders are passed over; folders below a class are walked.

    Raises:
      ValueError: there are no classes, or only one; or a class is empty, or in one of
        the splits alone.
    """
    folder = Path(os.path.expanduser(spec))
    return _with_classes(folder) if labelled else _any_images(folder)


def _any_images(folder: Path) -> Source:
    source = partial(Source, name=folder.resolve().name, place=str(folder))
    val_folder = next((v for v in VAL_FOLDERS if (folder / v).is_dir()), None)
    if not val_folder or not (folder / "train").is_dir():
        return source(train=_photos(folder))
    val = _photos(folder / val_folder)
    if not val:
        raise ValueError(
            f"no images in {folder / val_folder}: add some ({' '.join(EXTENSIONS)}) "
            f"or remove the folder"
        )
    return source(
        train=_photos(folder / "train"), val=val, undivided=partial(_photos, folder)
    )


def _photos(folder: Path) -> list[Photo]:
    return [file_photo(path, root=folder) for path in find_tree(folder)]


def _with_classes(folder: Path) -> Source:
    source = partial(Source, name=folder.resolve().name, place=str(folder))
    val_folder = _val_folder(folder)
    if val_folder is None:
        classes, train = _find_classes(folder)
        return source(classes=classes, train=train, class_roots=(folder, folder))
    roots = folder / "train", folder / val_folder
    classes, train = _find_classes(roots[0])
    val_classes, val = _find_classes(roots[1])
    _check_same_classes(*roots, classes, val_classes)
    return source(classes=classes, train=train, val=val, class_roots=roots)


def _val_folder(folder: Path) -> str | None:
    """The validation folder's name, or None where `folder` holds the classes."""
    names = find_subfolders(folder)
    val_folder = next((name for name in VAL_FOLDERS if name in names), None)
    if "train" not in names:
        if names and set(names) <= set(VAL_FOLDERS):
            raise ValueError(
                f"{folder} has {val_folder}/ but no train/: add "
                f"{folder / 'train' / 'CLASS'}/*.jpg"
            )
        return None
    # A `train` that holds images and no folders is a class, of locomotives.
    if val_folder is None and find_subfolders(folder / "train"):
        raise ValueError(
            f"{folder} has train/ but no val/: add {folder / 'val' / 'CLASS'}/*.jpg, "
            f"or give {folder / 'train'}, of which a fifth is then kept for validation"
        )
    return val_folder


def _find_classes(root: Path) -> tuple[tuple[str, ...], list[Photo]]:
    """The classes under `root` and their photographs, in ImageFolder's order."""
    classes = tuple(find_subfolders(root))
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no class folders"
        raise ValueError(
            f"{root} has {found}: put the images of each class into a folder of "
            f"its own, {root / 'CLASS'}/*.jpg, at least two classes"
        )
    paths = [find_images(root / name) for name in classes]
    empty = [name for name, found in zip(classes, paths, strict=True) if not found]
    if empty:
        raise ValueError(
            f"no images of {_named(empty)} in {root / empty[0]}: "
            f"add some ({' '.join(EXTENSIONS)}) or remove the folder"
        )
    return classes, [
        file_photo(path, root=root, label=label)
        for label, found in enumerate(paths)
        for path in found
    ]


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
