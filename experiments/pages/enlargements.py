"""Photographs enlarged: low resolution, bicubic, a model's and the true one."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.pages.canvas import BAD, INK, QUIET, save, short
from jaxvision.typing import UInt8

Pixels = UInt8[np.ndarray, "h w 3"]

ZOOM = 64
"""Side of the square that is shown enlarged, in pixels of the true photograph."""
TILE, GAP, UNDER, TOP = 2.0, 0.12, 0.42, 0.62
"""Side of a picture, and the room beside, under and above the pictures, in inches."""


class Version(NamedTuple):
    """What one method made of the low resolution.

    `image` has the size of the true photograph; `psnr` (dB) and `ssim` are of all of
    it.
    """

    title: str
    image: np.ndarray
    psnr: float
    ssim: float


class Example(NamedTuple):
    """One photograph: `low` is the low resolution, `truth` the true photograph."""

    name: str
    low: np.ndarray
    versions: Sequence[Version]
    truth: np.ndarray


def draw_enlargements(
    examples: Sequence[Example], path: str | Path, *, protocol: str, scale: int
) -> None:
    """Draws a row for each photograph: all of it, and one square by every method.

    The square is the one in which the first version is furthest from the truth, so that
    it is not chosen by what the last version does.

    Args:
      examples: each with the same number of versions, the first being the plainest.
      path: the picture to write.
      protocol: in a few words, what the PSNR and SSIM are of.
      scale: how many times smaller the low resolution is.

    Raises:
      ValueError: there is no example, or a version's size is not the truth's.
    """
    if not examples:
        raise ValueError("there is no photograph to compare")
    across = 3 + len(examples[0].versions)
    width = across * (TILE + GAP) + GAP
    height = TOP + len(examples) * (TILE + UNDER)
    figure = Figure(figsize=(width, height))
    for line, (words, colour, size) in enumerate(
        (
            (
                f"{scale} times the size: what each method makes of the low resolution",
                INK,
                11,
            ),
            (
                "The squares in which bicubic is furthest off. PSNR and SSIM are of "
                f"the whole photo: {protocol}",
                QUIET,
                8,
            ),
        )
    ):
        y = 1 - (0.12 + 0.2 * line) / height
        figure.text(GAP / width, y, words, color=colour, fontsize=size, va="top")
    for row, example in enumerate(examples):
        bottom = height - TOP - row * (TILE + UNDER) - TILE
        axes = [
            figure.add_axes(
                (
                    (GAP + column * (TILE + GAP)) / width,
                    bottom / height,
                    TILE / width,
                    TILE / height,
                )
            )
            for column in range(across)
        ]
        _draw_example(axes, example, scale)
    save(figure, path, dpi=120)


def zoomed_square(
    truth: Pixels, image: Pixels, *, side: int, scale: int
) -> tuple[int, int]:
    """Top and left of the square of `side` pixels in which the images differ most."""
    error = np.square(truth.astype(np.float64) - image).sum(axis=2)
    sums = np.pad(error, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    squares = (
        sums[side:, side:]
        - sums[:-side, side:]
        - sums[side:, :-side]
        + sums[:-side, :-side]
    )
    # Such corners that the low resolution is cut between its pixels.
    squares = squares[::scale, ::scale]
    top, left = np.unravel_index(squares.argmax(), squares.shape)
    return scale * int(top), scale * int(left)


def _draw_example(axes: Sequence[Axes], example: Example, scale: int) -> None:
    truth = example.truth
    for version in example.versions:
        if version.image.shape != truth.shape:
            raise ValueError(
                f"{example.name}, {version.title}: {version.image.shape} pixels, but "
                f"the true photo has {truth.shape}"
            )
    side = min(ZOOM, *truth.shape[:2])
    side -= side % scale
    top, left = zoomed_square(truth, example.versions[0].image, side=side, scale=scale)

    def cut(image: np.ndarray) -> np.ndarray:
        return image[top : top + side, left : left + side]

    nearest = example.low.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = truth.shape[:2]
    panels = [
        (truth, Path(example.name).name, f"{width} x {height} pixels"),
        (cut(nearest), "low resolution", "nearest pixel"),
        *((cut(v.image), v.title, _scores(v)) for v in example.versions),
        (cut(truth), "true photo", ""),
    ]
    for axis, (image, title, words) in zip(axes, panels, strict=True):
        axis.imshow(image, interpolation="antialiased")
        axis.set_axis_off()
        axis.set_anchor("SW")
        _caption(axis, title, words)
    frame = Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=BAD)
    axes[0].add_patch(frame)


def _scores(version: Version) -> str:
    return f"{version.psnr:.2f} dB, SSIM {version.ssim:.4f}"


def _caption(axis: Axes, title: str, words: str) -> None:
    for line, (text, colour, weight) in enumerate(
        ((short(title), INK, "bold"), (words, QUIET, "normal"))
    ):
        axis.annotate(
            text,
            (0.0, 0.0),
            xycoords="axes fraction",
            xytext=(0, -3 - 11 * line),
            textcoords="offset points",
            va="top",
            color=colour,
            fontsize=8 - line,
            fontweight=weight,
            parse_math=False,
        )
