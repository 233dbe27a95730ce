"""A trained network in use: photographs of any size enlarged, tile by tile."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.bundle import load_bundle
from experiments.command.options import UsageError
from jaxvision.data import Progress
from jaxvision.data.pairs import SCALE, enlarge
from jaxvision.functional import functionalize, modules
from jaxvision.models.srcnn import VARIANTS
from jaxvision.preprocess import to_float
from jaxvision.tiles import map_tiles
from jaxvision.typing import Array

BICUBIC_REACH = 3
"""How many pixels of the enlarged image the interpolation reaches beyond its own."""
MOST_DB = 100.0
"""What the PSNR of equal images, which is infinite, counts in a mean."""


class Enlarger(NamedTuple):
    """`fn(images)`, `(n, h, w, 3)` uint8 or in [0, 1] to twice the size in [0, 1].

    `halo` is how many pixels away a pixel of the input still matters.
    """

    fn: Callable[[Any], Array]
    halo: int


def load_model(path: Path) -> nnx.Module:
    """The super-resolution model of a run's folder, or of its `model.safetensors`.

    Raises:
      UsageError: there is none.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not path.exists():
        raise UsageError(f"{path}: no such run")
    if not file.is_file():
        raise UsageError(
            f"{path}: no model.safetensors, so it is no run whose first epoch has ended"
        )
    try:
        bundle = load_bundle(file)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if bundle.name not in VARIANTS:
        raise UsageError(f"{file} holds a {bundle.name}, which enlarges no images")
    return bundle.model


def make_enlarger(model: nnx.Module) -> Enlarger:
    """The compiled function of a chain of convolutions over a bicubic enlargement."""
    radius = sum(
        (max(module.kernel_size) - 1) // 2
        for _, module in modules(model)
        if isinstance(module, nnx.Conv)
    )
    apply, params, stats = functionalize(model)

    @jax.jit
    def fn(params, stats, images):
        return jnp.clip(apply(params, stats, enlarge(to_float(images)))[0], 0, 1)

    return Enlarger(
        lambda images: fn(params, stats, images),
        math.ceil((radius + BICUBIC_REACH) / SCALE),
    )


def enlarge_pixels(
    enlarger: Enlarger,
    pixels: np.ndarray,
    *,
    tile: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """uint8 `(h, w, 3)` to uint8 of twice the size, with the memory of one tile."""
    return map_tiles(
        lambda part: to_levels(enlarger.fn(part)),
        pixels,
        tile=tile,
        halo=enlarger.halo,
        scale=SCALE,
        progress=progress,
    )


def to_levels(images: Array | np.ndarray) -> np.ndarray:
    """Images in [0, 1] as uint8."""
    return np.round(np.asarray(images) * np.float32(255)).astype(np.uint8)
