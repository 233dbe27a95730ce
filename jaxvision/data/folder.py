"""A folder of photographs, one folder a class, as torchvision's ImageFolder."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxvision.data.dataset import Dataset, Progress, Split
from jaxvision.data.decode import Sizes, decode_pair, open_photo

# torchvision's IMG_EXTENSIONS.
EXTENSIONS = tuple(".jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp".split())
VAL_FOLDERS = ("val", "valid", "validation", "test")
VAL_SHARE = 0.2

Sample = tuple[str, int]
"""Path and label."""


def open_folder(
    folder: Path, *, sizes: Sizes, seed: int = 0, progress: Progress | None = None
) -> Dataset:
    """The photographs under `folder`, with its sorted subfolders as classes.

    With `train/CLASS/*` the validation images are those of the first of `val`, `valid`,
    `validation` and `test` that exists. With `CLASS/*` a fifth of each class, at least
    one image, is set aside for validation: which ones depends on `seed` and on the
    names below `folder`, not on its place nor on the order of the files.

    Hidden files and folders are passed over; folders below a class are walked. A file
    that cannot be read is left out and named in `Dataset.skipped`.

    Raises:
      ValueError: there are no classes, or only one; or a class is empty, unreadable, or
        in one of the splits alone.
    """

    def read(train: list[Sample], val: list[Sample]):
        paths = [path for path, _ in train], [path for path, _ in val]
        images, bad = decode_pair(*paths, open_photo, sizes=sizes, progress=progress)
        splits = _split(images[0], train, bad[0]), _split(images[1], val, bad[1])
        damaged = {
            side[index]: reason
            for side, reasons in zip(paths, bad, strict=True)
            for index, reason in reasons.items()
        }
        return splits, damaged

    val_folder = _val_folder(folder)
    if val_folder is not None:
        roots = folder / "train", folder / val_folder
        classes, train = _find_samples(roots[0])
        val_classes, val = _find_samples(roots[1])
        _check_same_classes(folder, classes, val_classes, val_folder=val_folder)
        splits, damaged = read(train, val)
    else:
        roots = folder, folder
        classes, samples = _find_samples(folder)
        splits, damaged = read(*split_samples(samples, classes, root=folder, seed=seed))
        if any(_missing(split.labels, classes) for split in splits):
            # A small class lost one side to damaged files: divide the sound ones anew.
            sound = [sample for sample in samples if sample[0] not in damaged]
            _check_readable(sound, classes, damaged, root=folder)
            pair = split_samples(sound, classes, root=folder, seed=seed)
            splits, later = read(*pair)
            damaged |= later
    for split, root in zip(splits, roots, strict=True):
        kept = list(zip(split.paths, split.labels.tolist(), strict=True))
        _check_readable(kept, classes, damaged, root=root)
    return Dataset(
        name=folder.resolve().name,
        classes=classes,
        train=splits[0],
        val=splits[1],
        skipped=tuple(f"{_printable(path)}: {why}" for path, why in damaged.items()),
    )


def split_samples(
    samples: Sequence[Sample], classes: tuple[str, ...], *, root: Path, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """`samples` divided into training and validation, class by class.

    The files are ranked by a hash of the seed and the name below `root`: neither their
    order nor the version of a random generator matters, and a new file moves no more
    than one other across.

    Raises:
      ValueError: a class has one image only.
    """
    chosen = set()
    for label, name in enumerate(classes):
        paths = [path for path, own in samples if own == label]
        if len(paths) < 2:
            raise ValueError(
                f"class {name!r} has one readable image in {root / name}: "
                "two are needed, one to train on and one to validate"
            )
        paths.sort(key=lambda path: _rank(path, root=root, seed=seed))
        chosen.update(
            paths[: min(max(1, round(VAL_SHARE * len(paths))), len(paths) - 1)]
        )
    train = [sample for sample in samples if sample[0] not in chosen]
    val = [sample for sample in samples if sample[0] in chosen]
    return train, val


def _rank(path: str, *, root: Path, seed: int) -> bytes:
    name = Path(path).relative_to(root).as_posix()
    return hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest()


def _val_folder(folder: Path) -> str | None:
    """The validation folder's name, or None where `folder` holds the classes."""
    names = _subfolders(folder)
    val_folder = next((name for name in VAL_FOLDERS if name in names), None)
    if "train" not in names:
        if names and set(names) <= set(VAL_FOLDERS):
            raise ValueError(
                f"{folder} has {val_folder}/ but no train/: add "
                f"{folder / 'train' / 'CLASS'}/*.jpg"
            )
        return None
    # A `train` that holds images and no folders is a class, of locomotives.
    if val_folder is None and _subfolders(folder / "train"):
        raise ValueError(
            f"{folder} has train/ but no val/: add {folder / 'val' / 'CLASS'}/*.jpg, "
            f"or give {folder / 'train'}, of which a fifth is then kept for validation"
        )
    return val_folder


def _subfolders(folder: Path) -> list[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        _cannot_list(error)
    return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _cannot_list(error: OSError) -> NoReturn:
    raise ValueError(f"cannot list the folder {error.filename}: {error.strerror}")


def _find_samples(root: Path) -> tuple[tuple[str, ...], list[Sample]]:
    """The classes under `root` and their images, in ImageFolder's order."""
    classes = tuple(_subfolders(root))
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no class folders"
        raise ValueError(
            f"{root} has {found}: put the images of each class into a folder of "
            f"its own, {root / 'CLASS'}/*.jpg, at least two classes"
        )
    samples = [
        (path, label)
        for label, name in enumerate(classes)
        for path in _images(root / name)
    ]
    empty = _missing([label for _, label in samples], classes)
    if empty:
        raise ValueError(
            f"no images of {_named(empty)} in {root / empty[0]}: "
            f"add some ({' '.join(EXTENSIONS)}) or remove the folder"
        )
    return classes, samples


def _images(folder: Path) -> list[str]:
    found, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=_cannot_list, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # links may go in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            (root, name)
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    return [os.path.join(root, name) for root, name in sorted(found)]


def _check_same_classes(
    folder: Path,
    classes: tuple[str, ...],
    val_classes: tuple[str, ...],
    *,
    val_folder: str,
) -> None:
    for have, here, lack, there in (
        (classes, "train", val_classes, val_folder),
        (val_classes, val_folder, classes, "train"),
    ):
        only = sorted(set(have) - set(lack))
        if only:
            raise ValueError(
                f"{_named(only)} in {folder / here} but not in {folder / there}: "
                f"add {folder / there / only[0]} or remove {folder / here / only[0]}"
            )


def _check_readable(
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    damaged: dict[str, str],
    *,
    root: Path,
) -> None:
    for name in _missing([label for _, label in samples], classes):
        below = os.path.join(root / name, "")
        first = next((path for path in damaged if path.startswith(below)), None)
        why = f" ({first}: {damaged[first]})" if first else ""
        raise ValueError(
            f"none of the images of class {name!r} in {root / name} can be read{why}: "
            "replace them or remove the folder"
        )


def _missing(labels: Sequence[int] | np.ndarray, classes: tuple[str, ...]) -> list[str]:
    present = np.bincount(np.asarray(labels, np.int64), minlength=len(classes))
    return [name for name, count in zip(classes, present, strict=True) if not count]


def _named(classes: list[str]) -> str:
    if len(classes) == 1:
        return f"class {classes[0]!r}"
    return f"classes {', '.join(map(repr, classes))}"


def _split(images: np.ndarray, samples: list[Sample], bad: dict[int, str]) -> Split:
    kept = [sample for index, sample in enumerate(samples) if index not in bad]
    return Split(
        images=images,
        labels=np.array([label for _, label in kept], np.int32),
        paths=tuple(_printable(path) for path, _ in kept),
    )


def _printable(path: str) -> str:
    """`path`, with bytes that are no UTF-8 replaced: it is written to reports."""
    return os.fsencode(path).decode("utf-8", "replace")
