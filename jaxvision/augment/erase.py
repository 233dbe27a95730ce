"""Parts of the images taken out."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxvision.augment.draws import uniform
from jaxvision.typing import Array, Bool, Images, Int, PRNGKey

Centers = Int[Array, "n 2"]
Corners = Int[Array, "n 2"]
Masks = Bool[Array, "n h w 1"]


def box_mask(images: Images, top_left: Corners, bottom_right: Corners) -> Masks:
    """True inside each image's box, the end not included; it may reach outside."""
    inside = []
    for axis in range(2):
        place = jnp.arange(images.shape[1 + axis])[None]
        first, end = top_left[:, axis, None], bottom_right[:, axis, None]
        inside.append((first <= place) & (place < end))
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def cutout(
    images: Images, centers: Centers, *, size: int, fill: float | tuple[float, ...]
) -> Images:
    """Images with a square of `size` pixels filled, cut off at the border.

    Args:
      images: the batch.
      centers: row and column of each square's centre; of an even square, of the pixel
        below and to the right of it.
      size: pixels a side.
      fill: what the square holds, one number or one for each channel.

    Raises:
      ValueError: the size is below one, or the numbers to fill with are not as many as
        the channels.

    Reference: DeVries and Taylor, 2017, arXiv:1708.04552.
    """
    if size < 1:
        raise ValueError(f"the square to cut out needs a pixel or more, got {size}")
    channels = images.shape[3]
    if isinstance(fill, tuple) and len(fill) != channels:
        raise ValueError(
            f"fill must be one number or {channels}, one for each channel, got {fill}"
        )
    first = centers - size // 2
    color = jnp.broadcast_to(jnp.asarray(fill, images.dtype), (1, 1, 1, channels))
    return jnp.where(box_mask(images, first, first + size), color, images)


@partial(jax.jit, static_argnames=("size", "fill"))
def random_cutout(
    key: PRNGKey, images: Images, *, size: int, fill: float | tuple[float, ...] = 0.5
) -> Images:
    """`cutout` about a pixel of its own in each image, all equally likely.

    The paper fills with zeros after normalisation. These images are still in `[0, 1]`,
    where the middle is the neutral value of a data set that is not named; give the mean
    of each channel for the paper's zero.
    """
    n, height, width, _ = images.shape
    centers = uniform(key, n, (0, height), (0, width)).astype(jnp.int32).T
    return cutout(images, centers, size=size, fill=fill)
