"""Photographs at their own size: pieces to train on, whole ones to judge by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from jaxvision.data.decode import UnreadableImageError, extensions
from jaxvision.data.photo import Photo, Source
from jaxvision.data.reader import Guesses, Progress, Tick, guessed, make_tick, read
from jaxvision.data.sources import describe_kinds, find_kind, find_source
from jaxvision.data.split import choose, set_aside

PIECE = (384, 512)
"""Rows and columns of the largest piece that is kept to cut crops from."""
PIECES = 6
"""Most pieces of one photograph: what bounds the memory for a camera's photographs."""
LARGEST = 1024
"""Most rows and columns that are judged by, from a photograph's centre."""
SMALLEST = 32
"""Fewest rows and columns of a photograph to judge by."""

SIDES = (256, 128, 64)
"""Sides of the squares that stand for photographs of any size where each size would be
a program to compile."""

Result = TypeVar("Result")


class Whole(NamedTuple):
    """A photograph to judge by.

    Attributes:
      name: where it is from.
      image: uint8 `(h, w, 3)`, whose height and width the scale divides.
      is_gray: whether the file is a grey one, whose three channels are equal.
    """

    name: str
    image: np.ndarray
    is_gray: bool = False


@dataclass(frozen=True, eq=False)
class Pieces:
    """A super-resolution data set, decoded.

    Attributes:
      name: the folder's or file's name, `demo`, or the set's.
      images: the training pieces, uint8 `(n, h, w, 3)`, each lying on its long side in
        the upper left corner of its array; the rest is black.
      sizes: rows and columns of each piece, int32 `(n, 2)`.
      count: how many photographs the pieces are from.
      val: the photographs to judge by.
      skipped: one `path: reason` for each photograph that was left out.
      taken: in words, which folders were taken as the splits, where that needs saying.
      warnings: what was passed over or guessed, a line each.
    """

    name: str
    images: np.ndarray
    sizes: np.ndarray
    count: int
    val: tuple[Whole, ...]
    skipped: tuple[str, ...] = ()
    taken: str = ""
    warnings: tuple[str, ...] = ()


def open_photos(
    *specs: str,
    crop_size: int,
    scale: int = 2,
    val_count: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Pieces:
    """The photographs that `specs` name, at the size they have.

    Args:
      specs: each as `open_dataset` has it, but without classes: of a folder any images
        below it. Its `train` and `val`, or `test` where there is no `val`, are the two
        splits (`split_names`); where a source has one, a fifth of its photographs is
        set aside, and trained on where it is not judged by. Of several sources the
        photographs are put together, each as often as any other.
      crop_size: side of the training crops in pixels; photographs that do not hold one
        are left out.
      scale: what divides the height and width of those to judge by; what is over is cut
        off.
      val_count: most photographs to judge by, of each source as large a share.
      seed: chooses the validation photographs where there is a choice.
      progress: called with (done, total) after each photograph.

    Raises:
      ValueError: there is nothing to train on or to judge by; the message says what is
        wrong, where, and what to do.
    """
    if len(set(specs)) < len(specs):
        raise ValueError(f"{', '.join(specs)}: one of them is named twice")
    sources = [find_source(spec, labelled=False) for spec in specs]
    train, val = _split(sources, val_count, seed=seed)
    where = ", ".join(specs)
    tick = make_tick(progress, total=len(train) + len(val))
    guesses: Guesses = {}
    read_all = partial(_read, tick=tick, guesses=guesses)

    pieces, skipped = read_all(
        train,
        lambda _, image: _pieces(image, crop_size),
        purpose=f"to train on in {where}",
        cure=f"give photos of {crop_size} pixels or a smaller crop",
    )
    judged, val_skipped = read_all(
        val,
        lambda index, image: _whole(val[index], _middle(image), scale),
        purpose=f"to judge by in {where}",
        cure="give others",
    )
    count, flat = len(pieces), list(chain.from_iterable(pieces))
    pieces.clear()  # `_stack` lets go of each piece that it has copied
    images, sizes = _stack(flat)
    return Pieces(
        name=" + ".join(source.name for source in sources),
        images=images,
        sizes=sizes,
        count=count,
        val=tuple(judged),
        skipped=(*skipped, *val_skipped),
        taken="; ".join(source.taken for source in sources if source.taken),
        warnings=(
            *(line for source in sources for line in source.warnings),
            *guessed(guesses),
        ),
    )


def open_benchmark(spec: str, *, scale: int = 2) -> list[Whole]:
    """Whole photographs to judge by: all that `spec` names, of either split.

    Their last rows and columns are cut off where `scale` does not divide their number.

    Raises:
      ValueError: there is no such data, no image in it, or one that cannot be used.
    """
    if find_kind(spec) is None:
        raise ValueError(
            f"{spec!r} is neither a folder of images nor 'demo'; it may be "
            f"{describe_kinds(labelled=False)}"
        )
    photos = find_source(spec, labelled=False).whole()
    if not photos:
        raise ValueError(f"no images in {spec} ({' '.join(extensions())})")
    whole, bad = read(
        photos, lambda i, image: _whole(photos[i], np.asarray(image), scale)
    )
    for index, reason in bad.items():
        raise ValueError(f"{photos[index].name}: {reason}")
    return list(whole.values())


def centre(pixels: np.ndarray, side: int) -> np.ndarray:
    """The square of `side` pixels in the middle of `(h, w, c)`."""
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def centre_square(pixels: np.ndarray, *, scale: int = 1) -> np.ndarray:
    """The largest square of `SIDES` in the middle of `(h, w, c)`, or all that fits.

    A side that `scale` does not divide is as much shorter.
    """
    shortest = min(pixels.shape[:2])
    side = next((side for side in SIDES if side <= shortest), shortest)
    return centre(pixels, side - side % scale)


def _split(
    sources: Sequence[Source], val_count: int, *, seed: int
) -> tuple[list[Photo], list[Photo]]:
    """Photographs to train on, and so many to judge by, of each source its share."""
    splits = [
        (source.train, source.val) if source.val else set_aside(source, seed=seed)
        for source in sources
    ]
    total = sum(len(judged) for _, judged in splits)
    train, val, seen = [], [], 0
    for source, (more, judged) in zip(sources, splits, strict=True):
        seen += len(judged)
        share = round(min(val_count, total) * seen / max(total, 1)) - len(val)
        chosen = choose(judged, share, seed=seed)
        # A source's own test photographs are never trained on; others may be.
        keys = {one.key for one in chosen}
        spared = () if source.val else (one for one in judged if one.key not in keys)
        train += [*more, *spared]
        val += chosen
    return train, val


def _read(
    photos: Sequence[Photo],
    use: Callable[[int, Image.Image], Result],
    *,
    tick: Tick,
    guesses: Guesses,
    purpose: str,
    cure: str,
) -> tuple[list[Result], list[str]]:
    """What `use` makes of the photographs, and a line for each that is left out."""
    good, bad = read(photos, use, tick=tick, guesses=guesses)
    skipped = [f"{photos[index].name}: {why}" for index, why in bad.items()]
    if not photos:
        raise ValueError(f"there are no photos {purpose}: give a folder of images")
    if not good:
        first = f" ({skipped[0]})" if skipped else ""
        raise ValueError(
            f"none of the {len(photos)} photos {purpose} can be used{first}: {cure}"
        )
    return list(good.values()), skipped


def _pieces(image: Image.Image, crop_size: int) -> list[np.ndarray]:
    """The photograph on its long side, in pieces that overlap where it is large."""
    pixels = np.asarray(image)
    if pixels.shape[0] > pixels.shape[1]:
        pixels = pixels.swapaxes(0, 1)
    if len(pixels) < crop_size:
        raise UnreadableImageError(f"{image.width} x {image.height} pixels")
    largest = [max(side, crop_size) for side in PIECE]
    starts = [
        np.linspace(0, max(0, side - most), -(-side // most)).astype(int)
        for side, most in zip(pixels.shape[:2], largest, strict=True)
    ]
    corners = [(top, left) for top in starts[0] for left in starts[1]]
    if len(corners) > PIECES:
        chosen = np.linspace(0, len(corners) - 1, PIECES).astype(int)
        corners = [corners[index] for index in chosen]
    return [
        pixels[top : top + largest[0], left : left + largest[1]].copy()
        for top, left in corners
    ]


def _stack(pieces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All pieces in one array, and their sizes; the list is emptied on the way."""
    sizes = np.array([piece.shape[:2] for piece in pieces], np.int32)
    images = np.zeros((len(pieces), *sizes.max(axis=0), 3), np.uint8)
    for index in reversed(range(len(pieces))):
        height, width = sizes[index]
        images[index, :height, :width] = pieces.pop()
    return images, sizes


def _middle(image: Image.Image) -> np.ndarray:
    left, top = (max(0, side - LARGEST) // 2 for side in image.size)
    return np.asarray(image)[top : top + LARGEST, left : left + LARGEST]


def _whole(photo: Photo, pixels: np.ndarray, scale: int) -> Whole:
    return Whole(photo.name, _divisible(pixels, scale), photo.is_gray())


def _divisible(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Without the last rows and columns that `scale` leaves over, as is the custom."""
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise UnreadableImageError(f"{width} x {height} pixels, too few to judge by")
    height, width = height - height % scale, width - width % scale
    return np.ascontiguousarray(pixels[:height, :width])
