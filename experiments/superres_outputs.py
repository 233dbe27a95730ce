"""What a super-resolution run leaves behind: its figures, pictures and the report."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import yaml
from PIL import Image
from rich.table import Table

from experiments.run import Reporter, write_rows
from experiments.superres_training import MOST_DB
from experiments.upscale import Enlarger, enlarge_pixels
from jaxvision import image_metrics
from jaxvision.data.pairs import SCALE
from jaxvision.data.photos import Photo, centre
from jaxvision.preprocess import to_float
from jaxvision.report import plots
from jaxvision.report.comparison import Example, Version, comparison
from jaxvision.report.page import write_report

PROTOCOL = f"luma (Y of BT.601), {SCALE} pixels of border cut off, 8 bits"
EXAMPLES = 6
"""Most photographs in the picture."""
TILE = 96
"""Side of the tiles of low resolution: one compilation for all photos that hold one."""
METHODS = ("bicubic", "model")

Distance = Callable[[np.ndarray, np.ndarray], float]
"""`distance(image, truth)` of two uint8 squares: lower is more alike."""


class Row(NamedTuple):
    """What one method made of one photograph: its figures."""

    group: str
    photo: str
    method: str
    psnr: float
    ssim: float
    distance: float | None


def write_outputs(
    folder: Path,
    *,
    title: str,
    summary: Mapping[str, str],
    history: list[dict[str, float]],
    enlarger: Enlarger,
    groups: Mapping[str, Sequence[Photo]],
    distance: Distance | None,
    notes: Sequence[str],
    report: Reporter,
) -> dict[str, float]:
    """Writes all of a run folder that follows from its best model.

    Args:
      groups: the photographs to judge by, whole: name of the set -> photographs.
      distance: a perceptual distance to report beside PSNR and SSIM.
      notes: warnings that a reader must not miss.

    Returns:
      The means of each set: `<set>_psnr`, `<set>_ssim` and, where there is a distance,
      `<set>_distance`, of the model; with `_bicubic` behind, of bicubic.
    """
    rows, examples = judge(enlarger, groups, distance=distance, report=report)
    means = {
        (group, method): _means(
            [row for row in rows if (row.group, row.method) == (group, method)]
        )
        for group in groups
        for method in METHODS
    }
    write_rows(
        folder / "results.csv",
        [
            {"set": group, "photos": len(groups[group]), "method": method, **values}
            for (group, method), values in means.items()
        ],
    )
    write_rows(
        folder / "photos.csv",
        [
            {
                "set": row.group,
                "photo": row.photo,
                "method": row.method,
                **_means([row]),
            }
            for row in rows
        ],
    )
    plots.curves(history, folder / "curves.png")
    comparison(examples, folder / "comparison.png", protocol=PROTOCOL)
    page = write_report(
        folder,
        title=title,
        summary=dict(summary)
        | {
            f"PSNR and SSIM on {group}": "; ".join(
                f"{method} {_said(means[group, method])}" for method in METHODS
            )
            for group in groups
        }
        | {"Protocol": PROTOCOL},
        config=yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
        history=history,
        notes=notes,
        pictures={
            "Low resolution, bicubic, the model, the true photo": "comparison.png"
        },
        commands={
            "Double the size of a photo": (
                f"python -m experiments.superres upscale {shlex.quote(str(folder))} "
                "PHOTO.jpg --output DIR"
            )
        },
    )
    report.table(_table(groups, means))
    for note in notes:
        report.say(f"WARNING: {note}", style="bold yellow")
    report.say(f"{PROTOCOL}; see {page}")
    return {
        f"{group}_{name}{'' if method == 'model' else '_bicubic'}": value
        for (group, method), values in means.items()
        for name, value in values.items()
    }


def judge(
    enlarger: Enlarger,
    groups: Mapping[str, Sequence[Photo]],
    *,
    distance: Distance | None,
    report: Reporter,
) -> tuple[list[Row], list[Example]]:
    """The figures of every photograph, and some to show.

    The low resolution is PIL's, and so is the bicubic to compare with.
    """
    shown = _choose(groups)
    side = min(
        256, *(min(p.image.shape[:2]) for photos in groups.values() for p in photos)
    )
    rows, examples = [], []
    total, done = sum(map(len, groups.values())), 0
    with report.progress("judging") as show:
        for group, photos in groups.items():
            for index, photo in enumerate(photos):
                low, images = enlarge_both(enlarger, photo.image)
                versions = [
                    Version(method, image, *measure(photo, image))
                    for method, image in images.items()
                ]
                name = Path(photo.name).name
                for version in versions:
                    far = distance and distance(
                        centre(version.image, side), centre(photo.image, side)
                    )
                    figures = (version.psnr, version.ssim, far)
                    rows.append(Row(group, name, version.title, *figures))
                if (group, index) in shown:
                    examples.append(Example(name, low, versions, photo.image))
                done += 1
                show("judging", done, total, group)
    return rows, examples


def enlarge_both(
    enlarger: Enlarger, truth: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The low resolution of a photograph, and what each method makes of it."""
    height, width = truth.shape[:2]
    low = _resized(truth, (width // SCALE, height // SCALE))
    made = (_resized(low, (width, height)), enlarge_pixels(enlarger, low, tile=TILE))
    return low, dict(zip(METHODS, made, strict=True))


def measure(photo: Photo, image: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM of one enlarged photograph, as super-resolution papers take them.

    Of a grey file that is its one channel, of any other the luma.
    """

    def channels(pixels):
        if photo.is_gray:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
        return to_float(jnp.asarray(pixels[None]))

    pair = channels(image), channels(photo.image)
    options = {"border": SCALE, "luma": True, "quantize": True}
    psnr = float(image_metrics.psnr(*pair, **options)[0])
    return min(psnr, MOST_DB), float(image_metrics.ssim(*pair, **options)[0])


def _choose(groups: Mapping[str, Sequence[Photo]]) -> set[tuple[str, int]]:
    """Which photographs are shown: as many of each set, spread over it."""
    each = max(1, EXAMPLES // len(groups))
    return {
        (group, int(index))
        for group, photos in groups.items()
        for index in np.linspace(0, len(photos) - 1, min(each, len(photos)))
    }


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _means(rows: Sequence[Row]) -> dict[str, float]:
    values = {
        "psnr": [row.psnr for row in rows],
        "ssim": [row.ssim for row in rows],
        "distance": [row.distance for row in rows if row.distance is not None],
    }
    return {name: float(np.mean(column)) for name, column in values.items() if column}


def _said(values: dict[str, float]) -> str:
    return f"{values['psnr']:.2f} dB, {values['ssim']:.4f}"


def _table(groups: Mapping[str, Sequence[Photo]], means: Mapping) -> Table:
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
