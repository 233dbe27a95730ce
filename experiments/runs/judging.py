"""How networks that enlarge photographs are judged, as the papers do it."""

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image
from rich.table import Table
from scipy import ndimage
from skimage import restoration

from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.inference.enlarger import (
    MOST_DB,
    Enlarger,
    enlarge_pixels,
    to_levels,
)
from experiments.pages.enlargements import Example, Version
from jaxvision import image_metrics
from jaxvision.data import pairs
from jaxvision.data.pieces import Whole, centre_square, open_benchmark
from jaxvision.preprocess import to_float

EXAMPLES = 6
"""Most photographs in the picture."""
TILES = (96, 48, 24)
"""Sides of the tiles of low resolution, a compilation each: a photograph is computed in
the largest that it holds."""
BICUBIC, DENOISED = "bicubic", "denoised, bicubic"
"""The methods beside the networks: where photographs are degraded, non-local means too,
before bicubic."""

Distance = Callable[[Sequence[np.ndarray], np.ndarray], list[float]]
"""`distance(images, truth)` of uint8 squares, an image each: lower is more alike."""
Means = Mapping[tuple[str, str], dict[str, float]]
"""Set and method -> the means of the figures."""


def protocol(scale: int, degradation: str) -> str:
    """What the figures are of, in words."""
    made = "" if degradation == BICUBIC else f"; degraded as {degradation}"
    return f"luma (Y of BT.601), {scale} pixels of border cut off, 8 bits{made}"


class Row(NamedTuple):
    """What one method made of one photograph: its figures."""

    group: str
    photo: str
    method: str
    psnr: float
    ssim: float
    distance: float | None


def open_benchmarks(
    specs: Sequence[str], *, scale: int, option: str, taken: Sequence[str] = ()
) -> dict[str, list[Whole]]:
    """The photographs of folders to judge by, by the folder's name.

    Args:
      specs: as `open_benchmark` has it.
      scale: what divides the height and width.
      option: where they were named, for the message.
      taken: names that other sets have.

    Raises:
      UsageError: there is no such folder, or an image in it cannot be used.
    """
    found: dict[str, list[Whole]] = {}
    for spec in specs:
        name = Path(os.path.expanduser(spec)).resolve().name
        # Names are keys of the results: the second of a kind has its whole path.
        name = spec if name in (*taken, *found) else name
        try:
            found[name] = open_benchmark(spec, scale=scale)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from error
    return found


def judge(
    enlargers: Mapping[str, Enlarger],
    groups: Mapping[str, Sequence[Whole]],
    *,
    distance: Distance | None,
    degradation: str = pairs.BICUBIC,
    console: Console,
) -> tuple[list[Row], list[Example]]:
    """The figures of every photograph, and some to show.

    The low resolution is PIL's, and so is the bicubic to compare with.

    Args:
      enlargers: the networks by name, all of one scale.
      groups: the photographs, whole: name of the set -> photographs.
      distance: a perceptual distance to report beside PSNR and SSIM.
      degradation: what becomes of the photographs beside their reduction.
      console: is told how far it is.
    """
    (scale,) = {enlarger.scale for enlarger in enlargers.values()}
    shown = _choose(groups)
    rows, examples = [], []
    total, done = sum(map(len, groups.values())), 0
    with console.progress("judging") as show:
        for group, photos in groups.items():
            for index, photo in enumerate(photos):
                low = lower(photo.image, scale, degradation=degradation, index=index)
                made = enlarge(enlargers, low, is_degraded=degradation != BICUBIC)
                images = list(made.values())
                figures = measure(photo, images, border=scale)
                far: Sequence[float | None] = [None] * len(images)
                if distance is not None:
                    squares = [centre_square(image) for image in images]
                    far = distance(squares, centre_square(photo.image))
                name = Path(photo.name).name
                for method, pair, one in zip(made, figures, far, strict=True):
                    rows.append(Row(group, name, method, *pair, one))
                if (group, index) in shown:
                    versions = [
                        Version(method, image, *pair)
                        for (method, image), pair in zip(
                            made.items(), figures, strict=True
                        )
                    ]
                    examples.append(Example(name, low, versions, photo.image))
                done += 1
                show("judging", done, total, group)
    return rows, examples


def lower(
    truth: np.ndarray, scale: int, *, degradation: str = pairs.BICUBIC, index: int = 0
) -> np.ndarray:
    """The low resolution of a photograph, the `index`-th of those that are judged."""
    height, width = truth.shape[:2]
    if degradation == BICUBIC:
        return _resized(truth, (width // scale, height // scale))
    # On to few sides, each of which is a program to compile.
    room = [(0, scale * _power(side // scale) - side) for side in (height, width)]
    padded = np.pad(truth, (*room, (0, 0)), mode="edge")
    key = pairs.judging_key(index)
    low = _degraded(key, padded[None], scale=scale, kind=degradation)[0]
    return to_levels(low[: height // scale, : width // scale])


def _power(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (number - 1).bit_length()


@partial(jax.jit, static_argnames=("scale", "kind"))
def _degraded(key, images, *, scale, kind):
    return pairs.lower(key, to_float(images), scale=scale, degradation=kind)


def enlarge(
    enlargers: Mapping[str, Enlarger], low: np.ndarray, *, is_degraded: bool = False
) -> dict[str, np.ndarray]:
    """What each method makes of a photograph of low resolution, by its name."""
    height, width = low.shape[:2]
    (scale,) = {enlarger.scale for enlarger in enlargers.values()}
    size = (width * scale, height * scale)
    tile = next((tile for tile in TILES if tile <= min(low.shape[:2])), TILES[0])
    made = {BICUBIC: _resized(low, size)}
    if is_degraded:
        made[DENOISED] = _resized(_without_noise(low), size)
    return made | {
        name: enlarge_pixels(enlarger, low, tile=tile)
        for name, enlarger in enlargers.items()
    }


LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""The difference of two Laplacians, blind to edges. Immerkaer, "Fast Noise Variance
Estimation", 1996, doi:10.1006/cviu.1996.0060."""


def _without_noise(pixels: np.ndarray) -> np.ndarray:
    """Non-local means, by the noise's deviation as Immerkaer estimates it."""
    images = pixels.astype(np.float32) / 255
    response = abs(ndimage.convolve(images, LAPLACIANS[..., None]))
    sigma = float(np.sqrt(np.pi / 2) / 6 * response[1:-1, 1:-1].mean())
    clean = restoration.denoise_nl_means(
        images,
        h=0.8 * sigma,
        sigma=sigma,
        patch_size=5,
        patch_distance=6,
        channel_axis=-1,
    )
    return to_levels(np.clip(clean, 0, 1))


def measure(
    photo: Whole, images: Sequence[np.ndarray], *, border: int
) -> list[tuple[float, float]]:
    """PSNR and SSIM of enlargements of a photograph, as super-resolution papers do.

    Of a grey file that is its one channel, of any other the luma.
    """
    height, width = photo.image.shape[:2]
    # Padded to powers of two, or each size of photograph would be compiled for.
    room = [(0, _power(side) - side) for side in (height, width)]

    def padded(pixels):
        if photo.is_gray:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
        return np.pad(pixels, (*room, (0, 0)))

    psnr, ssim = _figures(
        np.stack([padded(image) for image in images]),
        padded(photo.image)[None],
        np.array([(height, width)], np.int32),
        border=border,
    )
    return [(min(float(p), MOST_DB), float(s)) for p, s in zip(psnr, ssim, strict=True)]


@partial(jax.jit, static_argnames="border")
def _figures(images, truth, size, *, border):
    """PSNR and SSIM of each of the padded images."""

    def one(image):
        pair = to_float(image[None]), to_float(truth)
        options = {"sizes": size, "border": border, "luma": True, "quantize": True}
        psnr = image_metrics.psnr(*pair, **options)
        return psnr[0], image_metrics.ssim(*pair, **options)[0]

    return jax.lax.map(one, images)


def _choose(groups: Mapping[str, Sequence[Whole]]) -> set[tuple[str, int]]:
    """Which photographs are shown: as many of each set, spread over it."""
    each = max(1, EXAMPLES // len(groups))
    return {
        (group, int(index))
        for group, photos in groups.items()
        for index in np.linspace(0, len(photos) - 1, min(each, len(photos)))
    }


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def mean_figures(rows: Sequence[Row]) -> dict[str, float]:
    """The means over photographs, of one set and method, by the figure's name."""
    values = {
        "psnr": [row.psnr for row in rows],
        "ssim": [row.ssim for row in rows],
        "distance": [row.distance for row in rows if row.distance is not None],
    }
    return {name: float(np.mean(column)) for name, column in values.items() if column}


def means_of(rows: Sequence[Row]) -> Means:
    """The means of each set, by every method."""
    both = dict.fromkeys((row.group, row.method) for row in rows)
    return {
        pair: mean_figures([row for row in rows if (row.group, row.method) == pair])
        for pair in both
    }


def flat(means: Means, *, model: str) -> dict[str, float]:
    """`<set>_<figure>` of the model, with the method behind of the others."""
    ends = {model: "", DENOISED: "_denoised"}
    return {
        f"{group}_{name}{ends.get(method, f'_{method}')}": value
        for (group, method), values in means.items()
        for name, value in values.items()
    }


def make_table(groups: Mapping[str, Sized], means: Means) -> Table:
    """The means, a row a set and method."""
    table = Table(box=None, header_style="bold")
    first = next(iter(means.values()))
    for name in ("set", "photos", "method", "PSNR", "SSIM"):
        table.add_column(name, justify="left" if name in ("set", "method") else "right")
    if "distance" in first:
        table.add_column("perceptual distance", justify="right")
    for (group, method), values in means.items():
        cells = [f"{values['psnr']:.3f} dB", f"{values['ssim']:.4f}"]
        if "distance" in values:
            cells.append(f"{values['distance']:.4f}")
        table.add_row(group, str(len(groups[group])), method, *cells)
    return table
