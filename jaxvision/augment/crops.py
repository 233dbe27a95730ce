"""Squares and rectangles cut from each image at its own place."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxvision.augment.draws import check_range, uniform
from jaxvision.preprocess import crop, resized_crop
from jaxvision.typing import Array, Images, Int, PRNGKey, Shaped, Squares

Pixels = Shaped[Array, "n h w c"]
"""Images of any dtype: they are moved, not computed with."""
Corners = Int[Array, "n 2"]


def pad_crop(images: Pixels, corners: Corners, *, padding: int) -> Pixels:
    """Images moved by up to `padding` pixels, mirrored in at the border.

    Padded by reflection (the border row itself is not repeated), then cut back to their
    size: torchvision's `RandomCrop(size, padding=padding, padding_mode="reflect")`.

    Args:
      images: the batch.
      corners: row and column of each cut in the padded image, `0 .. 2 * padding`; both
        equal to `padding` give the image back.
      padding: pixels added on every side, fewer than a side has.

    Raises:
      ValueError: the padding is negative, or too wide for a reflection.
    """
    shape = images.shape[1:3]
    if not 0 <= padding < min(shape):
        raise ValueError(
            f"cannot reflect {padding} pixels of images of {shape[0]} x {shape[1]}: "
            f"padding must be in 0 .. {min(shape) - 1}"
        )
    # Pixels picked through their indices, not slices of padded copies: with the flip
    # that follows it is one pass over the batch, and less than half the time on a CPU.
    sides = zip(shape, jnp.clip(corners, 0, 2 * padding).T, strict=True)
    rows, columns = (_reflected(side, first - padding) for side, first in sides)
    return jax.vmap(lambda image, i, j: image[i[:, None], j[None]])(
        images, rows, columns
    )


def _reflected(side, first):
    """The `side` pixels of a row from `first` on, mirrored at the ends of the row."""
    place = jnp.abs(jnp.arange(side)[None] + first[:, None])
    return jnp.where(place < side, place, 2 * (side - 1) - place)


@partial(jax.jit, static_argnames="padding")
def random_pad_crop(key: PRNGKey, images: Pixels, *, padding: int) -> Pixels:
    """`pad_crop` at a place of its own for each image, all equally likely."""
    places = (0, 2 * padding + 1)
    corners = uniform(key, len(images), places, places).astype(jnp.int32).T
    return pad_crop(images, corners, padding=padding)


@partial(jax.jit, static_argnames=("size", "padding"))
def random_crop(
    key: PRNGKey, images: Images, *, size: int, padding: int = 0
) -> Squares:
    """A square of `size` pixels a side, anywhere in each padded image."""
    n, *sides, _ = images.shape
    places = [side + 2 * padding - size + 1 for side in sides]
    top, left = uniform(key, n, *((0, count) for count in places)).astype(jnp.int32)
    return crop(images, top, left, size=size, padding=padding)


@partial(jax.jit, static_argnames=("size", "scale", "ratio"))
def random_resized_crop(
    key: PRNGKey,
    images: Images,
    *,
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Squares:
    """A rectangle of random area and shape of each image, resized to `size` pixels.

    `scale` is the range of its share of the area, `ratio` of its width / height. The
    first of ten draws that fits in the image is taken, or else the largest centred
    rectangle of an allowed shape.

    Raises:
      ValueError: a range is not positive and increasing.
    """
    check_range("scale", scale)
    check_range("ratio", ratio)
    n, height, width, _ = images.shape
    tries = [scale] * 10 + [(math.log(ratio[0]), math.log(ratio[1]))] * 10
    draws = uniform(key, n, *tries, (0, 1), (0, 1))
    area, shape = height * width * draws[:10], jnp.exp(draws[10:20])
    sides = jnp.stack((jnp.sqrt(area / shape), jnp.sqrt(area * shape)), axis=1)
    sides = jnp.round(sides).astype(jnp.int32)
    whole = jnp.array([height, width], jnp.int32)[:, None]
    fits = jnp.all((sides > 0) & (sides <= whole[None]), axis=1)
    drawn = jnp.take_along_axis(sides, fits.argmax(axis=0)[None, None], axis=0)[0]
    any_fits = fits.any(axis=0)[None]
    largest = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    side = jnp.where(any_fits, drawn, jnp.array(largest, jnp.int32)[:, None])
    room = whole - side
    anywhere = (draws[20:] * (room + 1)).astype(jnp.int32)
    corner = jnp.where(any_fits, anywhere, room // 2)
    cut = resized_crop(images, corner[0], corner[1], side[0], side[1], size=size)
    # The weights of a pixel sum to one but for rounding, which shows at white.
    return jnp.clip(cut, 0, 1)
