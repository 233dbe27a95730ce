"""Flips, rotations and affine maps, bilinear or nearest, for each image its own."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxvision.augment.draws import check_range, symmetric, uniform
from jaxvision.preprocess import sample
from jaxvision.typing import Array, Bool, Float, Images, Int, PRNGKey

Flags = Bool[Array, "n"]
Indices = Int[Array, "n"]
Scalars = Float[Array, "n"]
Pairs = Float[Array, "n 2"]


def horizontal_flip(images: Images, flip: Flags) -> Images:
    """Images mirrored left to right where `flip` is true."""
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def vertical_flip(images: Images, flip: Flags) -> Images:
    """Images mirrored top to bottom where `flip` is true."""
    return jnp.where(flip[:, None, None, None], images[:, ::-1], images)


def alternating_flip(images: Images, index: Indices, epoch: Indices) -> Images:
    """Each image mirrored in every other epoch, half of them in the first.

    So two epochs in a row show both sides of each image, which flips by chance do not.

    Args:
      images: the batch.
      index: each image's own number, which alone says whether it begins mirrored.
      epoch: how often each has been shown.

    Reference: Jordan, 2024, arXiv:2404.00498, section 3.6.
    """
    key = jax.random.key(0)
    coin = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(index)
    return horizontal_flip(images, coin ^ (epoch % 2 == 1))


def rotate(images: Images, angle: Scalars, *, interpolation: str = "nearest") -> Images:
    """Images turned counter-clockwise about their centre; black outside."""
    zero = jnp.zeros_like(angle)
    pair = jnp.stack((zero, zero), axis=1)
    # torchvision's affine turns clockwise, its rotate the other way.
    return affine(images, -angle, pair, zero + 1, pair, interpolation=interpolation)


def affine(
    images: Images,
    angle: Scalars,
    translate: Pairs,
    scale: Scalars,
    shear: Pairs,
    *,
    interpolation: str = "nearest",
) -> Images:
    """Images sheared, scaled and turned about their centre, then moved; black outside.

    Outside is zero before interpolation, as in torchvision's functional form without a
    fill; its classes, with `fill=0` and `bilinear`, darken the border a second time.

    `angle` is clockwise, `translate` in pixels to the right and down, `shear` along x
    and along y; `interpolation` is `nearest` or `bilinear`.

    Raises:
      ValueError: the interpolation is unknown.
    """
    # Coordinates in 16 bits would miss by pixels.
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    parameters = (x.astype(dtype) for x in (angle, translate, scale, shear))
    return jax.vmap(partial(_warp, interpolation))(images, *parameters)


def _warp(interpolation, image, angle, translate, scale, shear):
    """One image through the inverse of torchvision's affine matrix."""
    height, width, _ = image.shape
    turn, skew = jnp.radians(angle), jnp.radians(shear)
    # rotation @ shear: [[a, b], [c, d]], of determinant one.
    a = jnp.cos(turn - skew[1]) / jnp.cos(skew[1])
    c = jnp.sin(turn - skew[1]) / jnp.cos(skew[1])
    b = -(a * jnp.tan(skew[0]) + jnp.sin(turn))
    d = jnp.cos(turn) - c * jnp.tan(skew[0])
    # Pixel centres, counted from the centre of the image.
    middle = jnp.array([width - 1, height - 1], angle.dtype) / 2
    x = (jnp.arange(width, dtype=angle.dtype) - middle[0] - translate[0])[None, :]
    y = (jnp.arange(height, dtype=angle.dtype) - middle[1] - translate[1])[:, None]
    source_x = (d * x - b * y) / scale + middle[0]
    source_y = (a * y - c * x) / scale + middle[1]
    return sample(image, source_x, source_y, interpolation=interpolation)


@partial(jax.jit, static_argnames="p")
def random_horizontal_flip(key: PRNGKey, images: Images, *, p: float = 0.5) -> Images:
    """Each image mirrored left to right with probability `p`."""
    return horizontal_flip(
        images, jax.random.bernoulli(key, jnp.float32(p), images.shape[:1])
    )


@partial(jax.jit, static_argnames="p")
def random_vertical_flip(key: PRNGKey, images: Images, *, p: float = 0.5) -> Images:
    """Each image mirrored top to bottom with probability `p`."""
    return vertical_flip(
        images, jax.random.bernoulli(key, jnp.float32(p), images.shape[:1])
    )


@partial(jax.jit, static_argnames=("degrees", "interpolation"))
def random_rotation(
    key: PRNGKey,
    images: Images,
    *,
    degrees: float | tuple[float, float],
    interpolation: str = "nearest",
) -> Images:
    """Each image turned by an angle from `-degrees .. degrees`, or from the pair."""
    (angle,) = uniform(key, images.shape[0], symmetric(degrees))
    return rotate(images, angle, interpolation=interpolation)


@partial(
    jax.jit, static_argnames=("degrees", "translate", "scale", "shear", "interpolation")
)
def random_affine(
    key: PRNGKey,
    images: Images,
    *,
    degrees: float | tuple[float, float],
    translate: tuple[float, float] = (0, 0),
    scale: tuple[float, float] = (1, 1),
    shear: float | tuple[float, ...] = 0,
    interpolation: str = "nearest",
) -> Images:
    """Each image turned, sheared, scaled and moved at random.

    `degrees` and `shear` (along x; four numbers: also along y) are a range or, as one
    number, the ends of a symmetric one. `translate` has the largest moves as fractions
    of width and height; moves are whole pixels. `scale` is a range.

    Raises:
      ValueError: an option is out of its range.
    """
    if not all(0 <= x <= 1 for x in translate):
        raise ValueError(f"translate must be in 0 .. 1, got {translate}")
    check_range("scale", scale)
    n, height, width, _ = images.shape
    dx, dy = translate[0] * width, translate[1] * height
    skews = (*symmetric(shear), 0, 0)
    ranges = (symmetric(degrees), (-dx, dx), (-dy, dy), scale, skews[:2], skews[2:4])
    draws = uniform(key, n, *ranges)
    translate_by, shear_by = jnp.round(draws[1:3]).T, draws[4:].T
    return affine(
        images, draws[0], translate_by, draws[3], shear_by, interpolation=interpolation
    )
