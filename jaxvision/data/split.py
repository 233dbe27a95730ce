"""Photographs set aside by chance: the same ones wherever they lie."""

import hashlib
import os
from collections.abc import Collection, Sequence

import numpy as np

from jaxvision.data.photo import Photo, Some, Source, labels_of

VAL_SHARE = 0.2


def set_aside(
    source: Source, *, seed: int, without: Collection[str] = ()
) -> tuple[Sequence[Photo], Sequence[Photo]]:
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
    photos: Sequence[Photo] = source.train
    if without:
        kept = [i for i, photo in enumerate(photos) if photo.key not in without]
        photos = Some(photos, np.array(kept, np.int64))
    groups = _by_class(photos, source)
    for name, group in zip(source.classes, groups, strict=False):
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
    chosen = np.zeros(len(photos), bool)
    for group in groups:
        count = min(max(1, round(VAL_SHARE * len(group))), len(group) - 1)
        chosen[_ranked(photos, group, seed=seed)[: max(0, count)]] = True
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
    dealt: list[int] = []
    groups = _by_class(photos, source)
    for name, group in zip(source.classes, groups, strict=True):
        if len(group) < folds:
            raise ValueError(
                f"class {name!r} has {len(group)} images in {source.place}, which make "
                f"no {folds} parts: add some, or ask for fewer parts"
            )
        dealt += _ranked(photos, group, seed=seed).tolist()
    chosen = np.zeros(len(photos), bool)
    chosen[dealt[number - 1 :: folds]] = True
    return _divided(photos, chosen)


def _by_class(photos: Sequence[Photo], source: Source) -> list[np.ndarray]:
    """The places of the photographs of each class; without classes, all of them."""
    if not source.classes:
        return [np.arange(len(photos))]
    labels = labels_of(photos)
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(1, len(source.classes)))
    return np.split(order, bounds)


def _divided(photos: Sequence[Photo], chosen: np.ndarray) -> tuple[Some, Some]:
    return Some(photos, np.flatnonzero(~chosen)), Some(photos, np.flatnonzero(chosen))


def choose(photos: Sequence[Photo], count: int, *, seed: int) -> list[Photo]:
    """`count` of the photographs, or all, in their order; which, is ranked likewise."""
    ranked = _ranked(photos, np.arange(len(photos)), seed=seed)
    return [photos[index] for index in np.sort(ranked[:count]).tolist()]


def _ranked(photos: Sequence[Photo], group: np.ndarray, *, seed: int) -> np.ndarray:
    digests = bytearray()
    for index in group.tolist():
        key = os.fsencode(f"{seed}/{photos[index].key}")
        digests += hashlib.sha256(key).digest()
    words = np.frombuffer(digests, ">u8").reshape(-1, 4)
    return group[np.lexsort(words.T[::-1])]
