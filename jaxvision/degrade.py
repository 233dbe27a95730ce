"""What happens to photographs before somebody wants them larger, drawn for each image.

Blur, a smaller size and back, noise and JPEG, in random order and twice: at the size of
the original, and once it has been reduced. After Wang et al., "Real-ESRGAN", 2021,
arXiv:2107.10833; the ranges are our own.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxvision.augment.draws import uniform
from jaxvision.jpeg import jpeg
from jaxvision.resize import (
    CUBIC,
    TRIANGLE,
    Kernel,
    Taps,
    bicubic,
    resample,
    to_uint8_levels,
)
from jaxvision.typing import Array, Float, Images, Int, PRNGKey

Numbers = Float[Array, "count"]
Places = Int[Array, "count"]


class Pass(NamedTuple):
    """The ranges from which each image's parameters are drawn.

    Attributes:
      blur: standard deviation of the Gaussian in pixels, along each axis.
      shrink: how many times smaller it was meanwhile.
      noise: standard deviation of what every pixel has alike, of 255 levels.
      shot: standard deviation at white of what grows with the root of the light.
      quality: of the JPEG file.
    """

    blur: tuple[float, float]
    shrink: tuple[float, float]
    noise: tuple[float, float]
    shot: tuple[float, float]
    quality: tuple[float, float]


class Degradation(NamedTuple):
    """What is done at the size of the original, and then to the reduced image."""

    before: Pass
    after: Pass


DEGRADATIONS = {
    "web": Degradation(
        Pass((0.0, 1.4), (1.0, 1.6), (0.0, 8.0), (0.0, 8.0), (50.0, 95.0)),
        Pass((0.0, 0.5), (1.0, 1.25), (0.0, 3.0), (0.0, 3.0), (45.0, 95.0)),
    ),
    "camera": Degradation(
        Pass((0.0, 1.2), (1.0, 1.0), (0.0, 8.0), (0.0, 16.0), (96.0, 100.0)),
        Pass((0.0, 0.4), (1.0, 1.0), (0.0, 2.0), (0.0, 6.0), (85.0, 98.0)),
    ),
}
"""web: files that were made smaller and saved more than once; camera: the noise and the
softness of a photograph as it was taken."""
BOX = Kernel(lambda xp, x: xp.where((x >= -0.5) & (x < 0.5), 1, 0), 1)
KERNELS = (BOX, TRIANGLE, CUBIC)
"""Those by which images are made smaller, and larger again."""


def degrade(
    key: PRNGKey, images: Images, *, kind: str, scale: int
) -> Float[Array, "n h//{scale} w//{scale} 3"]:
    """The images as somebody might have them, `scale` times smaller.

    The parameters are drawn for each image, the order of the steps for the batch.

    Args:
      key: one key for the batch.
      images: `(n, h, w, 3)` in `[0, 1]`, whose height and width `scale` divides.
      kind: a row of `DEGRADATIONS`.
      scale: how many times smaller.

    Returns:
      Floats `k / 255`, as a file of 8 bits would hold them.
    """
    before, after = DEGRADATIONS[kind]
    _, height, width, _ = images.shape
    first, order, second, last, saved = jax.random.split(key, 5)
    x = _in_random_order(order, first, images, [*_steps(before), _step_jpeg(before)])
    if scale > 1:
        x = jnp.clip(bicubic(x, size=(height // scale, width // scale)), 0, 1)
    x = _in_random_order(last, second, x, _steps(after))
    # The file is saved at the end.
    return _step_jpeg(after)(saved, x)


Step = Callable[[PRNGKey, Images], Images]


def _in_random_order(
    order: PRNGKey, key: PRNGKey, images: Images, steps: list[Step]
) -> Images:
    places = jax.random.permutation(order, len(steps))

    def one(place, x):
        return jax.lax.switch(places[place], steps, jax.random.fold_in(key, place), x)

    # A loop, so that each step is compiled once.
    return jax.lax.fori_loop(0, len(steps), one, images)


def _steps(ranges: Pass) -> list[Step]:
    """All but the JPEG file, which a pass may have at its end."""
    steps: list[Step] = [partial(_step_blur, ranges), partial(_step_noise, ranges)]
    if ranges.shrink[1] > 1:
        steps.append(partial(_step_shrink, ranges))
    return steps


def _step_blur(ranges: Pass, key: PRNGKey, images: Images) -> Images:
    rows, columns = uniform(key, len(images), ranges.blur, ranges.blur)
    return blur(images, rows, columns, most=ranges.blur[1])


def _step_shrink(ranges: Pass, key: PRNGKey, images: Images) -> Images:
    draw, down, up = jax.random.split(key, 3)
    (factor,) = uniform(draw, len(images), ranges.shrink)
    kinds = (jax.random.randint(k, (len(images),), 0, len(KERNELS)) for k in (down, up))
    return shrink(images, factor, *kinds, most=ranges.shrink[1])


def _step_noise(ranges: Pass, key: PRNGKey, images: Images) -> Images:
    draw, pixels, gray = jax.random.split(key, 3)
    level, shot = uniform(draw, len(images), ranges.noise, ranges.shot)
    normal = jax.random.normal(pixels, images.shape, jnp.float32)
    # Of half of the images all three colours alike.
    alike = jax.random.bernoulli(gray, jnp.float32(0.5), (len(images), 1, 1, 1))
    normal = jnp.where(alike, normal[..., :1], normal)
    return add_noise(images, normal, level / 255, shot / 255)


def _step_jpeg(ranges: Pass) -> Step:
    def step(key: PRNGKey, images: Images) -> Images:
        (quality,) = uniform(key, len(images), ranges.quality)
        return jpeg(to_uint8_levels(images), jnp.round(quality))

    return step


def blur(images: Images, rows: Numbers, columns: Numbers, *, most: float) -> Images:
    """Images through a Gaussian of each one's own standard deviation along each axis.

    Args:
      images: `(n, h, w, c)`; beyond the border its pixels go on.
      rows: standard deviation down the image in pixels; 0 leaves it as it is.
      columns: likewise across it.
      most: none is larger.
    """
    reach = math.ceil(3 * most)
    offsets = jnp.arange(-reach, reach + 1)

    def taps(size: int, sigma: Numbers) -> Taps:
        weight = jnp.exp(
            -((offsets[None] / jnp.maximum(sigma, 1e-3)[:, None]) ** 2) / 2
        )
        weight = weight / weight.sum(1, keepdims=True)
        shape = (len(sigma), size, len(offsets))
        index = jnp.arange(size)[:, None] + offsets[None]
        return Taps(
            jnp.broadcast_to(index[None], shape).astype(jnp.int32),
            jnp.broadcast_to(weight[:, None], shape),
        )

    _, height, width, _ = images.shape
    return resample(images, taps(height, rows), taps(width, columns))


def shrink(
    images: Images,
    factor: Numbers,
    down: Places,
    up: Places,
    *,
    most: float,
) -> Images:
    """Images made smaller by a factor each, and as large as they were again.

    Args:
      images: `(n, h, w, c)` in `[0, 1]`.
      factor: how many times smaller, 1 or more.
      down: a place in `KERNELS`, by which they become smaller.
      up: likewise larger.
      most: no factor is larger.
    """
    _, height, width, _ = images.shape
    for scale, kind, widest in ((factor, down, most), (1 / factor, up, 1.0)):
        taps = (_any_taps(side, scale, kind, widest) for side in (height, width))
        images = jnp.clip(resample(images, *taps), 0, 1)
    return images


def _any_taps(size: int, scale: Numbers, kind: Array, widest: float) -> Taps:
    """As `resize.interpolation_taps`, for a row that becomes as long as it likes.

    The result lies at the start of `size` pixels; the border goes on beyond it.
    """
    scale = scale[:, None, None]
    stretch = jnp.maximum(scale, 1)
    center = (jnp.arange(size, dtype=jnp.float32)[None, :, None] + 0.5) * scale
    reach = max(kernel.reach for kernel in KERNELS)
    first = jnp.floor(center - reach * stretch + 0.5)
    pixel = first + jnp.arange(math.ceil(2 * reach * widest))[None, None]
    distance = (pixel + 0.5 - center) / stretch
    weights = [kernel.weight(jnp, distance) for kernel in KERNELS]
    chosen = [kind[:, None, None] == place for place in range(len(KERNELS))]
    weight = jnp.select(
        [jnp.broadcast_to(one, distance.shape) for one in chosen], weights
    )
    weight = weight / weight.sum(2, keepdims=True)
    return Taps(jnp.clip(pixel, 0, size - 1).astype(jnp.int32), weight)


def add_noise(images: Images, normal: Images, level: Numbers, shot: Numbers) -> Images:
    """Images with noise whose variance is `level^2 + shot^2 * light`, clipped.

    Args:
      images: `(n, h, w, c)` in `[0, 1]`.
      normal: draws of the standard normal distribution, of their shape.
      level: of each, the standard deviation at black.
      shot: of each, what the light adds at white.
    """
    level, shot = (x[:, None, None, None] for x in (level, shot))
    deviation = jnp.sqrt(level**2 + shot**2 * images)
    return jnp.clip(images + deviation * normal, 0, 1)
