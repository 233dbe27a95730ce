"""Photographs set aside by chance: the same ones wherever they lie."""

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from jaxvision.data.photo import Photo, Some, Source, labels_of

VAL_SHARE = 0.2
_Group = tuple[int | None, ...]


def set_aside(
    source: Source, *, seed: int, without: Collection[str] = ()
) -> tuple[Sequence[Photo], Sequence[Photo]]:
    """The photographs of `source.train` divided: training and, a fifth, validation.

    Class by class where there are classes, label by label where there are several a
    photograph; at least one photograph of each on each side. They
    are ranked by a hash of the seed and their keys: neither their order nor the version
    of a random generator matters, and a new one moves no more than one other across.

    Args:
      source: no photographs without classes are divided into none and none.
      seed: chooses.
      without: keys of photographs to leave out.

    Raises:
      ValueError: there is one photograph only, or less than two of a class.
    """
    photos: Sequence[Photo] = source.train
    if without:
        kept = [i for i, photo in enumerate(photos) if photo.key not in without]
        photos = Some(photos, np.array(kept, np.int64))
    labels, groups = _grouped(photos, source)
    for label, group in groups.items():
        if label is not None and len(group) < 2:
            name = source.classes[label]
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
    # Of several labels the rarest first: the others come along with it.
    left = {label: len(group) for label, group in groups.items()}
    chosen: set[int] = set()
    for label in sorted(groups, key=lambda label: len(groups[label])):
        group = groups[label]
        count = min(max(1, round(VAL_SHARE * len(group))), len(group) - 1)
        missing = count - len(chosen.intersection(group))
        for index in _ranked(photos, group, seed=seed):
            if missing <= 0:
                break
            if index not in chosen and all(left[own] > 1 for own in labels[index]):
                chosen.add(index)
                missing -= 1
                left |= {own: left[own] - 1 for own in labels[index]}
        if label is not None and left[label] == len(group):
            raise ValueError(
                f"no division of {source.place} leaves photos of "
                f"{source.classes[label]!r} on both sides: add some, or say in a "
                "column split which are to validate"
            )
    return _divided(photos, chosen)


def fold_aside(
    source: Source, number: int, *, folds: int, seed: int
) -> tuple[Sequence[Photo], Sequence[Photo]]:
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
    labels, groups = _grouped(photos, source)
    dealt: list[int] = []
    for label, group in groups.items():
        if label is not None and len(group) < folds:
            raise ValueError(
                f"class {source.classes[label]!r} has {len(group)} images in "
                f"{source.place}, which make no {folds} parts: add some, or ask for "
                "fewer parts"
            )
        # A photograph with several labels is dealt with the rarest.
        mine = [i for i in group if label == _rarest(labels[i], groups)]
        dealt += _ranked(photos, mine, seed=seed)
    chosen = set(dealt[number - 1 :: folds])
    return _divided(photos, chosen)


def _divided(photos: Sequence[Photo], chosen: Collection[int]) -> tuple[Some, Some]:
    is_chosen = np.zeros(len(photos), bool)
    is_chosen[list(chosen)] = True
    sides = np.flatnonzero(~is_chosen), np.flatnonzero(is_chosen)
    return Some(photos, sides[0]), Some(photos, sides[1])


def choose(photos: Sequence[Photo], count: int, *, seed: int) -> list[Photo]:
    """`count` of the photographs, or all, in their order; which, is ranked likewise."""
    chosen = sorted(_ranked(photos, range(len(photos)), seed=seed)[:count])
    return [photos[index] for index in chosen]


def _grouped(
    photos: Sequence[Photo], source: Source
) -> tuple[list[_Group], dict[int | None, list[int]]]:
    """The groups of each photograph, and the photographs of each: its labels, or None.

    Every class is a group, and those without a label, if there are any, are one.
    """
    labels: list[_Group] = [labels_of(photo) or (None,) for photo in photos]
    groups: dict[int | None, list[int]]
    groups = {label: [] for label in range(len(source.classes))}
    for index, own in enumerate(labels):
        for label in own:
            groups.setdefault(label, []).append(index)
    return labels, groups


def _rarest(own: _Group, groups: Mapping[int | None, Sequence[int]]) -> int | None:
    return min(own, key=lambda label: len(groups[label]))


def _ranked(photos: Sequence[Photo], group: Sequence[int], *, seed: int) -> list[int]:
    def rank(index: int) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{photos[index].key}")).digest()

    return sorted(group, key=rank)
