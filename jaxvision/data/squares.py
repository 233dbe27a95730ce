"""Photographs as squares of one size: what classifiers are trained on and see."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image

from jaxvision import preprocess
from jaxvision.data.decode import UnreadableImageError
from jaxvision.data.photo import Photo
from jaxvision.data.reader import Guesses, Tick, read

Sizes = dict[int, tuple[int, int]]
"""Height and width of photographs, upright, by index."""


def read_squares(
    photos: Sequence[Photo],
    *,
    size: int,
    crop: int | None = None,
    fit: str = "crop",
    tick: Tick | None = None,
    guesses: Guesses | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Training squares of `size` pixels (`preprocess.square_image`).

    Pillow's `draft` mode, which decodes a JPEG at a fraction of its size, is not used:
    it changes the pixels.

    Args:
      photos: decoded in threads.
      size: of the squares.
      crop: what evaluation will see of them, where they are not cropped.
      fit: how a photograph becomes a square.
      tick: called after each photograph, in the main thread.
      guesses: takes those of the photographs.

    Returns:
      The images, uint8 `(n, size, size, 3)`, without the unreadable; and the unreadable
      ones' indices with the reasons.
    """
    square = partial(to_square, size=size, crop=crop, fit=fit)
    return _fill(photos, square, side=size, tick=tick, guesses=guesses)


def to_square(
    image: Image.Image, *, size: int, crop: int | None = None, fit: str = "crop"
) -> np.ndarray:
    """One training square; see `read_squares`. May raise UnreadableImageError."""
    if fit == "crop":
        image = resizable(image, size)
    return preprocess.square_image(image, size=size, crop=crop, fit=fit)


def read_crops(
    photos: Sequence[Photo],
    *,
    resize: int,
    crop: int,
    fit: str = "crop",
    tick: Tick | None = None,
    guesses: Guesses | None = None,
    sizes: Sizes | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Evaluation crops (`preprocess.eval_image`); in all else as `read_squares`.

    Args:
      photos: decoded in threads.
      resize: the short side in pixels.
      crop: side of the square in its middle.
      fit: how a photograph becomes a square.
      tick: called after each photograph, in the main thread.
      guesses: takes those of the photographs.
      sizes: takes those of the readable photographs.
    """
    middle = partial(to_crop, resize=resize, crop=crop, fit=fit)
    return _fill(photos, middle, side=crop, tick=tick, guesses=guesses, sizes=sizes)


def to_crop(
    image: Image.Image, *, resize: int, crop: int, fit: str = "crop"
) -> np.ndarray:
    """One evaluation crop; see `read_crops`. May raise UnreadableImageError."""
    if fit == "crop":
        image = resizable(image, resize)
    return preprocess.eval_image(image, resize=resize, crop=crop, fit=fit)


def _fill(
    photos: Sequence[Photo],
    convert: Callable[[Image.Image], np.ndarray],
    *,
    side: int,
    tick: Tick | None,
    guesses: Guesses | None,
    sizes: Sizes | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    images = np.empty((len(photos), side, side, 3), np.uint8)

    def use(index: int, image: Image.Image) -> None:
        images[index] = convert(image)
        if sizes is not None:
            sizes[index] = image.height, image.width

    good, bad = read(photos, use, tick=tick, guesses=guesses)
    if bad:  # closed up in place: a copy would double the memory
        for to, index in enumerate(good):
            images[to] = images[index]
        images = images[: len(good)]
    return images, bad


def resizable(image: Image.Image, short: int) -> Image.Image:
    """`image`, unless its resized copy would be a decompression bomb of its own."""
    low, high = sorted(image.size)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and high / low * short * short > 2 * limit:
        width, height = image.size
        raise UnreadableImageError(f"a strip of {width} x {height} pixels")
    return image
