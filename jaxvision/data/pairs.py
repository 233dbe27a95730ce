"""Pairs of low and high resolution, made on the device from pieces of photographs.

The low resolution is a photograph reduced, bit for bit as PIL's bicubic makes it, or
what `jaxvision.degrade` makes of it. A network sees it so, or enlarged again by the
same bicubic, where nothing is rounded.
"""

import jax
import jax.numpy as jnp

from jaxvision import augment, degrade, resize
from jaxvision.preprocess import to_float
from jaxvision.typing import (
    Array,
    Batch,
    Float,
    Images,
    Int,
    PRNGKey,
    Transform,
    UInt8,
)

BICUBIC = "bicubic"
"""The degradation that is none but the reduction."""

Levels = UInt8[Array, "n h w 3"]
Extents = Int[Array, "n 2"]
Crops = Float[Array, "n {crop_size} {crop_size} 3"]


def reduce(images: Images, *, scale: int) -> Float[Array, "n h//{scale} w//{scale} c"]:
    """Smaller by `scale`, bit for bit what PIL makes of the 8-bit file, as whole 1/255.

    Images in `[0, 1]`, whose height and width `scale` divides; other levels than a
    file's are rounded first.
    """
    _, height, width, _ = images.shape
    levels = jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.uint8)
    return to_float(resize.bicubic(levels, size=(height // scale, width // scale)))


def enlarge(images: Images, *, scale: int) -> Float[Array, "n {scale}*h {scale}*w c"]:
    """Larger by `scale`, by bicubic interpolation, clipped to `[0, 1]`."""
    _, height, width, _ = images.shape
    large = resize.bicubic(images, size=(height * scale, width * scale))
    return jnp.clip(large, 0, 1)


def random_crops(
    key: PRNGKey, images: Levels, sizes: Extents, *, crop_size: int
) -> Crops:
    """A square of each piece, anywhere in it, in one of its eight positions.

    Floats in `[0, 1]`. Turns and mirrorings are by whole pixels, so that nothing is
    interpolated.

    Args:
      key: one key for the batch.
      images: each piece lies in the upper left corner of its array.
      sizes: rows and columns of the pieces, none less than `crop_size`.
      crop_size: side of the squares in pixels.
    """
    place_key, turn_key = jax.random.split(key)
    room = sizes - crop_size
    draws = jax.random.uniform(place_key, room.shape, jnp.float32)
    # Rounding may bring a draw just under 1 up to the corner that is one too far.
    corners = jnp.minimum((draws * (room + 1)).astype(jnp.int32), room)

    def cut(image, corner):
        # All of one type: a plain 0 is an int64 where JAX computes in 64 bits.
        start = (*corner, jnp.zeros_like(corner[0]))
        return jax.lax.dynamic_slice(image, start, (crop_size, crop_size, 3))

    x = to_float(jax.vmap(cut)(images, corners))
    half = jnp.float32(0.5)
    turns = jax.random.bernoulli(turn_key, half, (3, len(images), 1, 1, 1))
    x = jnp.where(turns[0], x.swapaxes(1, 2), x)
    x = jnp.where(turns[1], x[:, ::-1], x)
    return jnp.where(turns[2], x[:, :, ::-1], x)


def random_pairs(
    key: PRNGKey,
    images: Levels,
    sizes: Extents,
    *,
    crop_size: int,
    jitter: float,
    scale: int,
) -> tuple[Float[Array, "n {crop_size}//{scale} {crop_size}//{scale} 3"], Crops]:
    """Random crops in low resolution, and as they were.

    Turned and recoloured before the low resolution is made, so that both are alike.

    Args:
      key: one key for the batch.
      images: as for `random_crops`.
      sizes: likewise.
      crop_size: side of the crops in pixels, a multiple of `scale`.
      jitter: brightness, contrast and saturation change by up to this share.
      scale: how many times smaller the low resolution is.
    """
    targets = _random_targets(key, images, sizes, crop_size=crop_size, jitter=jitter)
    return reduce(targets, scale=scale), targets


def _random_targets(
    key: PRNGKey, images: Levels, sizes: Extents, *, crop_size: int, jitter: float
) -> Array:
    crop_key, color_key = jax.random.split(key)
    targets = random_crops(crop_key, images, sizes, crop_size=crop_size)
    if jitter:
        targets = augment.random_color_jitter(
            color_key, targets, brightness=jitter, contrast=jitter, saturation=jitter
        )
        targets = resize.to_uint8_levels(targets)
    return targets


def lower(
    key: PRNGKey, images: Images, *, scale: int, degradation: str
) -> Float[Array, "n h//{scale} w//{scale} c"]:
    """The low resolution: `reduce`, or what a row of `degrade.DEGRADATIONS` draws."""
    if degradation == BICUBIC:
        return reduce(images, scale=scale)
    return degrade.degrade(key, images, kind=degradation, scale=scale)


def judging_key(index: int | Array) -> PRNGKey:
    """The key by which the `index`-th photograph that is judged is degraded."""
    return jax.random.fold_in(jax.random.key(0), index)


def pair_transform(
    *,
    crop_size: int,
    jitter: float,
    scale: int,
    enlarged: bool,
    degradation: str = BICUBIC,
) -> Transform:
    """Photographs to what a network sees, `image`, and should make of it, `target`.

    With a key these are `random_pairs` of pieces, `image` and `size`; without one the
    uint8 images themselves, whose height and width `scale` divides, and their low
    resolution, of a degradation by `judging_key(batch["index"])`. With `enlarged` the
    network sees this at the size of the target.
    """

    def transform(key: PRNGKey | None, batch: Batch) -> Batch:
        if key is None:
            target = to_float(batch["image"])
            low_key = judging_key(batch.get("index", 0))
        else:
            # Plain pairs are those that all published figures were trained on.
            low_key = jax.random.fold_in(key, 1)
            target = _random_targets(
                key, batch["image"], batch["size"], crop_size=crop_size, jitter=jitter
            )
        image = lower(low_key, target, scale=scale, degradation=degradation)
        if enlarged:
            image = enlarge(image, scale=scale)
        return {"image": image, "target": target}

    return transform
