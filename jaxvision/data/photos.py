"""Photographs at their own size: pieces to train on, whole ones to judge by."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from jaxvision.data import tfds
from jaxvision.data.dataset import Progress
from jaxvision.data.decode import UnreadableImageError, open_photo
from jaxvision.data.demo import demo_photos, demo_regions
from jaxvision.data.folder import EXTENSIONS, VAL_FOLDERS, VAL_SHARE
from jaxvision.data.tfds_prepare import find_builder, prepare

PIECE = (384, 512)
"""Rows and columns of the largest piece that is kept to cut crops from."""
PIECES = 6
"""Most pieces of one photograph: what bounds the memory for a camera's photographs."""
LARGEST = 1024
"""Most rows and columns that are judged by, from a photograph's centre."""
SMALLEST = 32
"""Fewest rows and columns of a photograph to judge by."""

Result = TypeVar("Result")


class Photo(NamedTuple):
    """A photograph to judge by.

    Attributes:
      name: where it is from.
      image: uint8 `(h, w, 3)`, of even height and width.
      is_gray: whether the file is a grey one, whose three channels are equal.
    """

    name: str
    image: np.ndarray
    is_gray: bool = False


@dataclass(frozen=True, eq=False)
class Photos:
    """A super-resolution data set, decoded.

    Attributes:
      name: the folder's name, `demo`, or the tfds name.
      images: the training pieces, uint8 `(n, h, w, 3)`, each lying on its long side in
        the upper left corner of its array; the rest is black.
      sizes: rows and columns of each piece, int32 `(n, 2)`.
      count: how many photographs the pieces are from.
      val: the photographs to judge by.
      skipped: one `path: reason` for each photograph that was left out.
    """

    name: str
    images: np.ndarray
    sizes: np.ndarray
    count: int
    val: tuple[Photo, ...]
    skipped: tuple[str, ...] = ()


class _Source(NamedTuple):
    """A photograph that is not decoded yet.

    `key` is its name within the data, wherever these lie; chance goes by it.
    """

    name: str
    key: str
    open: Callable[[], Image.Image]
    is_gray: Callable[[], bool] = lambda: False


_Splits = tuple[list[_Source], list[_Source]]


def open_photos(
    spec: str,
    *,
    crop_size: int,
    val_count: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Photos:
    """The photographs that `spec` names, at the size they have.

    Args:
      spec: `demo`; `tfds:NAME`; or a folder, with any folders below it. Its `train` and
        the first of `val`, `valid`, `validation` and `test` are the two splits where
        both are there; else a fifth of all photographs is set aside.
      crop_size: side of the training crops in pixels; photographs that do not hold one
        are left out.
      val_count: most photographs to judge by.
      seed: chooses the validation photographs where there is a choice.
      progress: called with (done, total) after each photograph.

    Raises:
      ValueError: there is nothing to train on or to judge by; the message says what is
        wrong, where, and what to do.
    """
    name, (train, val) = _find_splits(spec, seed=seed)
    val = _first(val, val_count, seed=seed)
    total, done = len(train) + len(val), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    pieces, bad = _load(train, lambda image, _: _pieces(image, crop_size), tick)
    whole, val_bad = _load(val, lambda image, s: _photo(_judged(image), s), tick)
    for found, sources, reasons, cure in (
        (pieces, train, bad, f"give photos of {crop_size} pixels or a smaller crop"),
        (whole, val, val_bad, "give others"),
    ):
        if not found:
            example = next(iter(reasons.items()), None)
            first = f" ({example[0]}: {example[1]})" if example else ""
            what = "to train on" if sources is train else "to judge by"
            raise ValueError(
                f"none of the {len(sources)} photos {what} in {spec} can be used"
                f"{first}: {cure}"
            )
    count = len(pieces)
    images, sizes = _stack([piece for several in pieces.values() for piece in several])
    return Photos(
        name=name,
        images=images,
        sizes=sizes,
        count=count,
        val=tuple(whole.values()),
        skipped=tuple(f"{path}: {why}" for path, why in (bad | val_bad).items()),
    )


def open_benchmark(spec: str) -> list[Photo]:
    """Whole photographs to judge by: those of `demo`, or all below a folder.

    Raises:
      ValueError: there is no such folder, no image in it, or one that cannot be used.
    """
    if spec == "demo":
        return [Photo(name, _even(image)) for name, image in demo_photos().items()]
    folder = Path(os.path.expanduser(spec))
    if not spec or not folder.is_dir():
        raise ValueError(f"{spec!r} is neither a folder of images nor 'demo'")
    sources = _files(folder)
    if not sources:
        raise ValueError(f"no images in {spec} ({' '.join(EXTENSIONS)})")
    whole, bad = _load(sources, lambda x, s: _photo(np.asarray(x), s), lambda: None)
    for path, reason in bad.items():
        raise ValueError(f"{path}: {reason}")
    return list(whole.values())


def centre(pixels: np.ndarray, side: int) -> np.ndarray:
    """The square of `side` pixels in the middle of `(h, w, c)`."""
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _find_splits(spec: str, *, seed: int) -> tuple[str, _Splits]:
    folder = Path(os.path.expanduser(spec))
    if spec == "demo":
        return "demo", _demo()
    if spec.startswith("tfds:"):
        return spec.removeprefix("tfds:"), _tfds(spec, seed=seed)
    if not spec or not folder.is_dir():
        raise ValueError(
            f"data {spec!r}: no such folder; it may be 'demo', a folder of images, or "
            "'tfds:NAME'"
        )
    name = folder.resolve().name
    val_folder = next((v for v in VAL_FOLDERS if (folder / v).is_dir()), None)
    if val_folder and (folder / "train").is_dir():
        return name, (_files(folder / "train"), _files(folder / val_folder))
    return name, _set_aside(_files(folder), seed=seed)


def _files(folder: Path) -> list[_Source]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return [
        _Source(
            str(path),
            os.path.relpath(path, folder),
            partial(open_photo, path),
            partial(_is_gray, path),
        )
        for path in paths
    ]


def _is_gray(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def _demo() -> _Splits:
    """The nine photographs, each divided into two regions that do not meet."""
    splits: _Splits = ([], [])
    for name, pixels in demo_photos().items():
        image = Image.fromarray(pixels)
        for side, box in zip(splits, demo_regions(name, image.size), strict=True):
            side.append(_Source(name, name, partial(image.crop, box)))
    return splits


def _tfds(spec: str, *, seed: int) -> _Splits:
    what = f"data {spec!r}"
    builder = find_builder(spec.removeprefix("tfds:"), what=what)
    tfds.check_features(builder, what=what)
    prepare(builder, what=what)
    classes = len(builder.info.features["label"].names)
    train, val = (
        [
            _Source(sample.path, sample.path, partial(tfds.open_image, sample))
            for sample in samples
        ]
        for samples in tfds.open_splits(builder, builder.name, classes, what=what)
    )
    return (train, val) if val else _set_aside(train, seed=seed)


def _set_aside(sources: list[_Source], *, seed: int) -> _Splits:
    """The sources without a fifth, and that fifth to judge by."""
    count = max(1, round(VAL_SHARE * len(sources)))
    chosen = {source.key for source in _first(sources, count, seed=seed)}
    return (
        [source for source in sources if source.key not in chosen],
        [source for source in sources if source.key in chosen],
    )


def _first(sources: Sequence[_Source], count: int, *, seed: int) -> list[_Source]:
    """`count` of the sources, or all, by a hash of the seed and their keys."""
    if len(sources) <= count:
        return list(sources)

    def rank(source: _Source) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{source.key}")).digest()

    chosen = sorted(sources, key=rank)[:count]
    return [source for source in sources if source in chosen]


def _load(
    sources: Sequence[_Source],
    convert: Callable[[Image.Image, _Source], Result],
    tick: Callable[[], None],
) -> tuple[dict[str, Result], dict[str, str]]:
    """What `convert` makes of each photograph, by name; and why it could not."""

    def work(source: _Source) -> Result | UnreadableImageError:
        try:
            return convert(source.open(), source)
        except UnreadableImageError as error:
            return error

    good, bad = {}, {}
    Image.init()  # here, so that no two threads load Pillow's plugins at once
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Pillow warns of odd metadata and large images; what fails is in `bad`.
        warnings.simplefilter("ignore")
        for source, result in zip(sources, pool.map(work, sources), strict=True):
            if isinstance(result, UnreadableImageError):
                bad[source.name] = str(result)
            else:
                good[source.name] = result
            tick()
    return good, bad


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


def _judged(image: Image.Image) -> np.ndarray:
    left, top = (max(0, side - LARGEST) // 2 for side in image.size)
    return np.asarray(image)[top : top + LARGEST, left : left + LARGEST]


def _photo(pixels: np.ndarray, source: _Source) -> Photo:
    return Photo(source.name, _even(pixels), source.is_gray())


def _even(pixels: np.ndarray) -> np.ndarray:
    """Without the last row and column where their number is odd, as is the custom."""
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise UnreadableImageError(f"{width} x {height} pixels, too few to judge by")
    return np.ascontiguousarray(pixels[: height - height % 2, : width - width % 2])
