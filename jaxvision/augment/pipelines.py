"""Augmentation recipes by name: what `--augment` chooses from."""

from collections.abc import Callable
from functools import partial

import jax

from jaxvision.augment.color import random_color_jitter
from jaxvision.augment.crops import random_crop, random_pad_crop, random_resized_crop
from jaxvision.augment.erase import random_cutout
from jaxvision.augment.geometry import random_horizontal_flip, random_rotation
from jaxvision.preprocess import center_crop
from jaxvision.typing import Images, PRNGKey, Squares


def no_augmentation(key: PRNGKey, images: Images, *, size: int) -> Squares:
    """The centre crop; the key is not used."""
    return center_crop(images, size=size)


def flips(key: PRNGKey, images: Images, *, size: int) -> Squares:
    """Random crop to `size`, horizontal flip."""
    crop_key, flip_key = jax.random.split(key)
    images = random_crop(crop_key, images, size=size)
    return random_horizontal_flip(flip_key, images)


def full(key: PRNGKey, images: Images, *, size: int) -> Squares:
    """Random crop to `size`, horizontal flip, rotation up to 15 degrees, jitter 0.2."""
    flips_key, turn_key, color_key = jax.random.split(key, 3)
    images = flips(flips_key, images, size=size)
    images = random_rotation(turn_key, images, degrees=15)
    return random_color_jitter(
        color_key, images, brightness=0.2, contrast=0.2, saturation=0.2
    )


def resized_crop_flip(key: PRNGKey, images: Images, *, size: int) -> Squares:
    """A random part of 35 to 100 % of the area, horizontal flip, jitter 0.2.

    ImageNet's usual recipe, with larger parts: photos are few where this is used.
    """
    crop_key, flip_key, color_key = jax.random.split(key, 3)
    images = random_resized_crop(crop_key, images, size=size, scale=(0.35, 1.0))
    images = random_horizontal_flip(flip_key, images)
    return random_color_jitter(
        color_key, images, brightness=0.2, contrast=0.2, saturation=0.2
    )


def crop_flip(key: PRNGKey, images: Images, *, size: int) -> Squares:
    """Moved by up to an eighth of the side, mirrored in at the border; horizontal flip.

    That is 4 pixels for CIFAR's 32, the usual recipe. Images larger than `size` need no
    border: they are cut and flipped as by `flips`.
    """
    if images.shape[1:3] != (size, size):
        return flips(key, images, size=size)
    crop_key, flip_key = jax.random.split(key)
    images = random_pad_crop(crop_key, images, padding=size // 8)
    return random_horizontal_flip(flip_key, images)


def crop_flip_cutout(key: PRNGKey, images: Images, *, size: int) -> Squares:
    """`crop_flip`, then a gray square of a quarter of the side: 8 of 32 pixels."""
    crop_key, cut_key = jax.random.split(key)
    images = crop_flip(crop_key, images, size=size)
    return random_cutout(cut_key, images, size=size // 4)


def shift(key: PRNGKey, images: Images, *, size: int) -> Squares:
    """Moved by up to a sixteenth of the side: 2 of 32 pixels, mirrored at the border.

    Images larger than `size` need no border: they are cut anywhere.
    """
    if images.shape[1:3] != (size, size):
        return random_crop(key, images, size=size)
    return random_pad_crop(key, images, padding=size // 16)


PIPELINES = {
    "none": no_augmentation,
    "flips": flips,
    "full": full,
    "resized_crop": resized_crop_flip,
    "crop_flip": crop_flip,
    "cutout": crop_flip_cutout,
    "alternate": shift,
}
ALTERNATING = ("alternate",)
"""Of these, the rows whose flips `alternating_flip` makes, by image and epoch."""


def make_pipeline(name: str, *, size: int) -> Callable[[PRNGKey, Images], Squares]:
    """The compiled `fn(key, images)` of a row of `PIPELINES`, to `size` pixels a side.

    Raises:
      ValueError: there is no such row.
    """
    if name not in PIPELINES:
        raise ValueError(f"unknown pipeline {name!r}; use one of {list(PIPELINES)}")
    return jax.jit(partial(PIPELINES[name], size=size))
