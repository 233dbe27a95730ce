"""Brightness, contrast, saturation and hue, in torchvision's arithmetic."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxvision.augment.draws import uniform
from jaxvision.typing import Array, Float, Images, Int, PRNGKey

GRAY = (0.2989, 0.587, 0.114)
"""What torchvision weighs red, green and blue with."""
_, CONTRAST, SATURATION, HUE = range(4)
"""Numbers in the orders of `color_jitter`, as in torchvision; brightness is 0."""

Scalars = Float[Array, "n"]
Orders = Int[Array, "n 4"]

# Colours are adjusted in the three planes of a batch, (n, h, w) each: a last axis of
# three leaves vector units idle, and every channel would compute the gray value anew.


def adjust_brightness(images: Images, factor: Scalars) -> Images:
    """Images times `factor`, clipped to `[0, 1]`."""
    return jnp.clip(images * factor[:, None, None, None], 0, 1)


def adjust_contrast(images: Images, factor: Scalars) -> Images:
    """Images blended with the mean of their gray version; 0 is flat, 1 the original."""
    planes = _planes(images)
    mean = _gray(planes).mean((1, 2), keepdims=True)
    return jnp.stack(_blend(planes, factor[:, None, None], mean), axis=-1)


def adjust_saturation(images: Images, factor: Scalars) -> Images:
    """Images blended with their gray version; 0 is gray, 1 the original."""
    planes = _planes(images)
    return jnp.stack(_blend(planes, factor[:, None, None], _gray(planes)), axis=-1)


def adjust_hue(images: Images, shift: Scalars) -> Images:
    """Images with the hue of HSV turned by `shift` of a full turn, -0.5 .. 0.5."""
    return jnp.stack(_turn_hue(_planes(images), shift[:, None, None]), axis=-1)


def color_jitter(
    images: Images,
    brightness: Scalars,
    contrast: Scalars,
    saturation: Scalars,
    hue: Scalars | None,
    order: Orders,
) -> Images:
    """Brightness, contrast, saturation and hue adjusted in each sample's own order.

    Images must be in `[0, 1]`: there a factor of 1 changes nothing, which is how an
    adjustment that is not due is left out. Each row of `order` is a permutation of
    0 .. 3. A hue of None leaves out the hue, and the time that it takes.
    """
    # Every adjustment but the hue is a blend towards a target: black, the mean, the
    # gray image. So any order is three blends with factors picked per sample, and a
    # turn of the hue before, between or after them.
    rank = jnp.argsort(order, axis=1)
    blends = jnp.argsort(rank[:, :HUE], axis=1)
    factors = jnp.stack((brightness, contrast, saturation), axis=1)
    factors = jnp.take_along_axis(factors, blends, axis=1)
    ranks = jnp.take_along_axis(rank, blends, axis=1)

    def blend_between(planes, mean, first, last):
        for kind, factor, at in zip(blends.T, factors.T, ranks.T, strict=True):
            factor = jnp.where((first <= at) & (at < last), factor, 1)
            to_mean = (kind == CONTRAST) * mean
            to_gray = (kind == SATURATION)[:, None, None] * _gray(planes)
            target = to_mean[:, None, None] + to_gray
            planes = _blend(planes, factor[:, None, None], target)
        return planes

    def adjust_until(last, mean):
        planes = _planes(images)
        if hue is None:
            return blend_between(planes, mean, 0, last)
        turn = rank[:, HUE]
        planes = blend_between(planes, mean, 0, jnp.minimum(turn, last))
        shift = jnp.where(turn < last, hue, 0)
        planes = _turn_hue(planes, shift[:, None, None])
        return blend_between(planes, mean, turn, last)

    # The contrast needs the mean of the image as it is by then. To compute that image
    # twice costs less than to keep it: nothing is written but the result.
    due = rank[:, CONTRAST]
    mean = _gray(adjust_until(due, jnp.zeros_like(contrast))).mean((1, 2))
    return jnp.stack(adjust_until(len(order.T), mean), axis=-1)


def _planes(images):
    if images.shape[3] != 3:
        raise ValueError(
            f"colours are adjusted in RGB images, got {images.shape[3]} channels"
        )
    return tuple(images[..., channel] for channel in range(3))


def _gray(planes):
    red, green, blue = planes
    return GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue


def _blend(planes, factor, target):
    rest = (1 - factor) * target
    return tuple(jnp.clip(factor * plane + rest, 0, 1) for plane in planes)


def _turn_hue(planes, shift):
    """RGB to HSV, the turn, and back, in one formula without cases by sector."""
    red, green, blue = planes
    high = jnp.maximum(jnp.maximum(red, green), blue)
    span = high - jnp.minimum(jnp.minimum(red, green), blue)
    slope = 1 / jnp.where(span == 0, 1, span)
    hue = jnp.where(
        high == red,
        (green - blue) * slope,
        jnp.where(high == green, 2 + (blue - red) * slope, 4 + (red - green) * slope),
    )
    hue = hue + 6 * shift

    def channel(offset):
        t = hue + offset
        t = t - 6 * jnp.floor(t / 6)
        return high - span * jnp.clip(jnp.minimum(t, 4 - t), 0, 1)

    return channel(5), channel(3), channel(1)


@partial(jax.jit, static_argnames=("brightness", "contrast", "saturation", "hue"))
def random_color_jitter(
    key: PRNGKey,
    images: Images,
    *,
    brightness: float = 0,
    contrast: float = 0,
    saturation: float = 0,
    hue: float = 0,
) -> Images:
    """Colours adjusted in random order, each image in its own.

    Factors are from `max(0, 1 - x) .. 1 + x`, the hue's shift from `-hue .. hue`.

    Raises:
      ValueError: an option is negative, or the hue above 0.5.
    """
    amounts = (brightness, contrast, saturation, hue)
    if min(amounts) < 0 or hue > 0.5:
        raise ValueError(
            "brightness, contrast and saturation must be at least 0 and hue in "
            f"0 .. 0.5, got {amounts}"
        )
    ranges = [(max(0, 1 - x), 1 + x) for x in amounts[:HUE]]
    draws = uniform(key, images.shape[0], *ranges, (-hue, hue), *[(0, 1)] * 4)
    order = jnp.argsort(draws[4:].T, axis=1)
    shift = draws[HUE] if hue else None
    return color_jitter(images, draws[0], draws[1], draws[2], shift, order)
