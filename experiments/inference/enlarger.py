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
from jaxvision import models
from jaxvision.data import Progress
from jaxvision.data.pairs import enlarge
from jaxvision.functional import functionalize, modules
from jaxvision.models.network import Enlarger as Network
from jaxvision.preprocess import to_float
from jaxvision.tiles import map_tiles
from jaxvision.typing import Array

BICUBIC_REACH = 2
"""How many pixels of the image the interpolation reaches beyond the nearest."""
MOST_DB = 100.0
"""What the PSNR of equal images, which is infinite, counts in a mean."""


class Enlarger(NamedTuple):
    """`fn(images)`: `(n, h, w, 3)`, uint8 or in [0, 1], to larger ones in [0, 1].

    `scale` is how many times larger; `halo` is how many pixels away a pixel of the
    input still matters.
    """

    fn: Callable[[Any], Array]
    halo: int
    scale: int


def names() -> tuple[str, ...]:
    """The networks that enlarge photographs: rows of the models."""
    return tuple(row.name for row in models.VARIANTS.values() if row.task == "superres")


def find_network(name: str, *, scale: int) -> str:
    """The row of the models that `--model` and `--scale` name.

    Raises:
      UsageError: there is none.
    """
    plain = name
    if name in models.ALIASES:
        plain = models.ALIASES[name].partition("_x")[0]
    for row in (f"{plain}_x{scale}", plain):
        if row in names() and _scale(row) == scale:
            return row
    if name in names():
        raise UsageError(f"--model {name} is for --scale {_scale(name)}, not {scale}")
    kinds = dict.fromkeys(row.partition("_x")[0] for row in names())
    raise UsageError(f"--model: no network {name!r}; there are {', '.join(kinds)}")


def _scale(name: str) -> int:
    network = models.abstract(name)
    assert isinstance(network, Network)
    return network.scale


def load_model(path: Path) -> Network:
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
    if not isinstance(bundle.model, Network):
        raise UsageError(f"{file} holds a {bundle.name}, which enlarges no images")
    return bundle.model


def make_enlarger(model: Network) -> Enlarger:
    """The compiled function of a network that is a chain of convolutions."""
    radius = sum(
        (max(module.kernel_size) - 1) // 2
        for _, module in modules(model)
        if isinstance(module, nnx.Conv)
    )
    apply, params, stats = functionalize(model)
    scale, takes_enlarged = model.scale, model.takes_enlarged

    @jax.jit
    def fn(params, stats, images):
        x = to_float(images)
        x = enlarge(x, scale=scale) if takes_enlarged else x
        return jnp.clip(apply(params, stats, x)[0], 0, 1)

    halo = max(radius, BICUBIC_REACH)  # what is interpolated is added at the end
    if takes_enlarged:
        halo = math.ceil(radius / scale) + BICUBIC_REACH
    return Enlarger(lambda images: fn(params, stats, images), halo, scale)


def enlarge_pixels(
    enlarger: Enlarger,
    pixels: np.ndarray,
    *,
    tile: int,
    top: int = 255,
    progress: Progress | None = None,
) -> np.ndarray:
    """`(h, w, 3)` to `scale` times the size, in the memory of a tile.

    `top` is the value of white: 255 of uint8; of uint16, what of it is used.
    """

    def enlarged(part: np.ndarray) -> np.ndarray:
        images = part if part.dtype == np.uint8 else part / np.float32(top)
        return to_levels(enlarger.fn(images), top=top)

    return map_tiles(
        enlarged,
        pixels,
        tile=tile,
        halo=enlarger.halo,
        scale=enlarger.scale,
        progress=progress,
    )


def to_levels(images: Array | np.ndarray, *, top: int = 255) -> np.ndarray:
    """Images in [0, 1] as uint8, or uint16 where white is a larger value."""
    levels = np.round(np.asarray(images) * np.float32(top))
    return levels.astype(np.uint8 if top == 255 else np.uint16)
