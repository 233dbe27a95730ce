"""Photographs set aside by chance: the same ones wherever they lie."""

import hashlib
import os
from collections.abc import Collection, Sequence

from jaxvision.data.photo import Photo, Source

VAL_SHARE = 0.2


def set_aside(
    source: Source, *, seed: int, without: Collection[str] = ()
) -> tuple[list[Photo], list[Photo]]:
    """The photographs of `source.train` divided: training and, a fifth, validation.

    Class by class where there are classes; at least one photograph on each side. They
    are ranked by a hash of the seed and their keys: neither their order nor the version
    of a random generator matters, and a new one moves no more than one other across.

    Args:
      source: no photographs without classes are divided into none and none.
      seed: chooses.
      without: keys of photographs to leave out.

    Raises:
      ValueError: there is one photograph only, or less than two of a class.
    """
    photos = [photo for photo in source.train if photo.key not in without]
    groups: dict[int | None, list[int]]
    groups = {label: [] for label in range(len(source.classes))} or {None: []}
    for index, photo in enumerate(photos):
        groups[photo.label()].append(index)
    for name, group in zip(source.classes, groups.values(), strict=False):
        if len(group) < 2:
            place = source.class_roots[0] / name if source.class_roots else source.place
            raise ValueError(
                f"class {name!r} has {'one' if group else 'no'} readable image in "
                f"{place}: two are needed, one to train on and one to validate"
            )
    if len(photos) == 1:
        raise ValueError(
            f"there is one photo only in {source.place}: two are needed, one to train "
            "on and one to judge by"
        )
    chosen = set()
    for group in groups.values():
        count = min(max(1, round(VAL_SHARE * len(group))), len(group) - 1)
        chosen.update(_ranked(photos, group, seed=seed)[: max(0, count)])
    return (
        [photo for index, photo in enumerate(photos) if index not in chosen],
        [photo for index, photo in enumerate(photos) if index in chosen],
    )


def fold_aside(
    source: Source, number: int, *, folds: int, seed: int
) -> tuple[list[Photo], list[Photo]]:
    """All photographs but one of `folds` parts, and that part, which is to be judged.

    All that there are are divided, those that were to validate too. Each part has as
    many photographs of a class as the others, or one less, and of all classes likewise;
    which, is ranked as by `set_aside`.

    Args:
      source: with classes.
      number: of the part, from 1 to `folds`.
      folds: how many parts there are.
      seed: chooses.

    Raises:
      ValueError: there is no such part, or a class has fewer photographs than parts.
    """
    if not 1 <= number <= folds:
        raise ValueError(f"there is no part {number} of {folds}")
    photos = [*source.train, *source.val]
    dealt: list[int] = []
    for label, name in enumerate(source.classes):
        group = [i for i, photo in enumerate(photos) if photo.label() == label]
        if len(group) < folds:
            raise ValueError(
                f"class {name!r} has {len(group)} images in {source.place}, which make "
                f"no {folds} parts: add some, or ask for fewer parts"
            )
        dealt += _ranked(photos, group, seed=seed)
    chosen = set(dealt[number - 1 :: folds])
    return (
        [photo for index, photo in enumerate(photos) if index not in chosen],
        [photo for index, photo in enumerate(photos) if index in chosen],
    )


def choose(photos: Sequence[Photo], count: int, *, seed: int) -> list[Photo]:
    """`count` of the photographs, or all, in their order; which, is ranked likewise."""
    chosen = sorted(_ranked(photos, range(len(photos)), seed=seed)[:count])
    return [photos[index] for index in chosen]


def _ranked(photos: Sequence[Photo], group: Sequence[int], *, seed: int) -> list[int]:
    def rank(index: int) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{photos[index].key}")).digest()

    return sorted(group, key=rank)
