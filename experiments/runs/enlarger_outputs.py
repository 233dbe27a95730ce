"""What a super-resolution run leaves behind: its figures, pictures and the report."""

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path

from experiments.command.console import Console
from experiments.inference.enlarger import Enlarger
from experiments.pages import plots
from experiments.pages.enlargements import draw_enlargements
from experiments.pages.page import About, write_report
from experiments.runs.folder import write_rows
from experiments.runs.judging import (
    Distance,
    Means,
    Row,
    flat,
    judge,
    make_table,
    mean_figures,
    means_of,
    protocol,
)
from jaxvision.data import pairs
from jaxvision.data.pieces import Whole
from jaxvision.text import shell_word

MODEL = "model"
"""What the run's network is called beside the other methods."""


def write_outputs(
    folder: Path,
    about: About,
    *,
    enlarger: Enlarger,
    groups: Mapping[str, Sequence[Whole]],
    distance: Distance | None,
    degradation: str = pairs.BICUBIC,
    console: Console,
) -> dict[str, float]:
    """Writes all of a run folder that follows from its best model.

    Args:
      folder: the run's.
      about: what there is to say of any run.
      enlarger: the best model.
      groups: the photographs to judge by, whole: name of the set -> photographs.
      distance: a perceptual distance to report beside PSNR and SSIM.
      degradation: what becomes of the photographs beside their reduction.
      console: is told the results.

    Returns:
      The means of each set: `<set>_psnr`, `<set>_ssim` and, where there is a distance,
      `<set>_distance`, of the model; with `_bicubic` behind, of bicubic.
    """
    scale = enlarger.scale
    said = protocol(scale, degradation)
    rows, examples = judge(
        {MODEL: enlarger},
        groups,
        distance=distance,
        degradation=degradation,
        console=console,
    )
    means = means_of(rows)
    _write_tables(folder, rows, means, groups)
    plots.curves(about.history, folder / "curves.png")
    draw_enlargements(examples, folder / "comparison.png", protocol=said, scale=scale)
    page = write_report(
        folder,
        about._replace(summary={**about.summary, **_summary(means, groups, said)}),
        pictures={
            f"Low resolution, {', '.join(_methods(means))}, the true photo": (
                "comparison.png"
            )
        },
        commands={
            f"Make a photo {scale} times larger": (
                "python -m experiments.upscale PHOTO.jpg --model "
                f"{shell_word(folder)} --output DIR"
            )
        },
    )
    console.table(make_table(groups, means))
    for note in about.notes:
        console.say(f"WARNING: {note}", style="bold yellow")
    console.say(f"{said}; see {page}")
    return flat(means, model=MODEL)


def _methods(means: Means) -> list[str]:
    return list(dict.fromkeys(method for _, method in means))


def _write_tables(
    folder: Path, rows: Sequence[Row], means: Means, groups: Mapping[str, Sized]
) -> None:
    """`results.csv`, a row a set and method, and `photos.csv`, one a photograph too."""
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
                **mean_figures([row]),
            }
            for row in rows
        ],
    )


def _summary(
    means: Means, groups: Mapping[str, Sized], protocol: str
) -> dict[str, str]:
    """What the page says of each set, and by which protocol."""
    figures = {
        f"PSNR and SSIM on {group}": "; ".join(
            f"{method} {_said(means[group, method])}" for method in _methods(means)
        )
        for group in groups
    }
    return figures | {"Protocol": protocol}


def _said(values: dict[str, float]) -> str:
    return f"{values['psnr']:.2f} dB, {values['ssim']:.4f}"
