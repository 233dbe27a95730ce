"""Photographs to RGB, many at a time, straight into one uint8 array."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxvision import preprocess
from jaxvision.data.dataset import Progress

Source = TypeVar("Source")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(ValueError):
    """A file that is no readable photograph; the message is the reason alone."""


@dataclass(frozen=True)
class Sizes:
    """Sizes in pixels: the training square; evaluation's short side and its crop."""

    train_size: int
    eval_resize: int
    eval_crop: int


def open_photo(path: str | Path) -> Image.Image:
    """One file as an upright RGB image.

    The pixels are those of torchvision's `ImageFolder`, `convert("RGB")`: alpha is
    dropped, not composited, and palette, grey and CMYK become RGB. It differs in two
    cases, where ImageFolder's pixels are wrong: the EXIF orientation is applied, and
    16-bit grey is scaled to 8 bits, where `convert` clips it to white.

    Raises:
      UnreadableImageError: the file is missing, empty, truncated, no image, larger than
        Pillow's limit against decompression bombs, or of float or 32-bit pixels, whose
        range nobody knows.
    """
    try:
        # Given the path, Pillow takes a tenth longer over a small photo.
        with open(path, "rb") as file, Image.open(file) as image:
            image.load()
            upright = _to_rgb(image)
            turn = _UPRIGHT.get(_orientation(image))
    except UnidentifiedImageError:
        reason = "no image" if os.path.getsize(path) else "an empty file"
        raise UnreadableImageError(reason) from None
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged files: OSError,
        # SyntaxError, struct.error, zlib.error, DecompressionBombError ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(" ".join(reason.split())) from error
    return upright if turn is None else upright.transpose(turn)


def decode_pair(
    train: Sequence[Source],
    val: Sequence[Source],
    open_one: Callable[[Source], Image.Image],
    *,
    sizes: Sizes,
    progress: Progress | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[dict[int, str], dict[int, str]]]:
    """Both splits, decoded in threads: training squares and evaluation crops.

    Pillow's `draft` mode, which decodes a JPEG at a fraction of its size, is not used:
    it changes the pixels that evaluation sees.

    Args:
      train: whatever `open_one` opens.
      val: the same.
      open_one: gives an RGB image, or raises UnreadableImageError.
      sizes: of the training squares and the evaluation crops.
      progress: called after each photograph.

    Returns:
      The images of `train` and `val`, uint8 `(n, h, w, 3)`, without the unreadable;
      and for each split the unreadable ones' indices with the reasons.
    """

    def square(source: Source) -> np.ndarray:
        image = _resizable(open_one(source), sizes.train_size)
        return preprocess.square_image(image, size=sizes.train_size)

    def crop(source: Source) -> np.ndarray:
        image = _resizable(open_one(source), sizes.eval_resize)
        return preprocess.eval_image(
            image, resize=sizes.eval_resize, crop=sizes.eval_crop
        )

    total, done = len(train) + len(val), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    train_images, train_bad = _fill(train, square, size=sizes.train_size, tick=tick)
    val_images, val_bad = _fill(val, crop, size=sizes.eval_crop, tick=tick)
    return (train_images, val_images), (train_bad, val_bad)


def _fill(
    sources: Sequence[Source],
    load: Callable[[Source], np.ndarray],
    *,
    size: int,
    tick: Callable[[], None],
) -> tuple[np.ndarray, dict[int, str]]:
    images = np.empty((len(sources), size, size, 3), np.uint8)

    def work(index: int) -> str | None:
        try:
            images[index] = load(sources[index])
        except UnreadableImageError as error:
            return str(error)
        return None

    Image.init()  # here, so that no two threads load Pillow's plugins at once
    bad = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(_workers()) as pool:
        # Pillow warns of odd metadata and large images; what fails is in `bad`.
        warnings.simplefilter("ignore")
        # Left early, by Ctrl-C, this loop drops map's iterator, which cancels the rest.
        for index, reason in enumerate(pool.map(work, range(len(sources)))):
            if reason is not None:
                bad[index] = reason
            tick()
    if bad:  # closed up in place: a copy would double the memory
        kept = [index for index in range(len(sources)) if index not in bad]
        for to, index in enumerate(kept):
            images[to] = images[index]
        images = images[: len(kept)]
    return images, bad


def _workers() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than cpu_count() in a batch job
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I, I;16, I;16B: 16-bit grey, or 32-bit integers
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError(
                "32-bit pixels beyond 0..65535; save it as 8-bit"
            )
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels; save it as 8-bit")
    # A palette's transparency changes no RGB value, but convert() warns of it.
    image.info.pop("transparency", None)
    # convert() would copy what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, of a loaded image: TIFF files Pillow turns on loading."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata; the pixels are fine
        return 1


def _resizable(image: Image.Image, short: int) -> Image.Image:
    """`image`, unless its resized copy would be a decompression bomb of its own."""
    low, high = sorted(image.size)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and high / low * short * short > 2 * limit:
        width, height = image.size
        raise UnreadableImageError(f"a strip of {width} x {height} pixels")
    return image
