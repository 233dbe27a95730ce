"""The photographs that an export is proved on."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from converters.bundle import Bundle
from experiments.command.options import RunError, UsageError
from experiments.pages.predictions import read_label_predictions, read_predictions
from experiments.runs.folder import CONFIG, open_run
from jaxvision.data import image_files
from jaxvision.data.photo import Photo
from jaxvision.data.sources import fetch_source, find_source
from jaxvision.download import DownloadError
from jaxvision.evaluation import Evaluation
from jaxvision.multilabel import MultilabelEvaluation

LARGEST = 256
"""Photos that an export is proved on; of more, as many are taken evenly."""
CALIBRATION = 128
"""Photos by which the ranges of int8 are found."""


class Photos(NamedTuple):
    """Photographs to compare two models on.

    Attributes:
      paths: files.
      labels: their classes, or 1 for each label that holds; None where nobody knows
        them all.
      source: which those are, in words.
      calibration: files by which int8 is fitted.
      calibrated_on: which those are, in words.
      judged: how right the run was on all its validation photos, in words.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray | None
    source: str
    calibration: tuple[Path, ...]
    calibrated_on: str
    judged: str = ""

    def without(self, bad: Mapping[int, str]) -> "Photos":
        """Those that could be read."""
        keep = [index for index in range(len(self.paths)) if index not in bad]
        return self._replace(
            paths=tuple(self.paths[index] for index in keep),
            labels=None if self.labels is None else self.labels[keep],
        )


def given_photos(folder: Path, bundle: Bundle) -> Photos:
    """Those below a folder; classes are known if all lie in folders named like them.

    Of photos with several labels nobody knows all by a folder's name.

    Raises:
      UsageError: there are none.
    """
    try:
        found = image_files.find_images(folder).images
    except ValueError as error:
        raise UsageError(f"--check: {error}") from error
    if not found:
        raise UsageError(f"--check {folder}: there are no images in this folder")
    paths = [Path(found[index]) for index in _evenly(len(found), LARGEST)]
    one_each = not bundle.certainty.label_thresholds
    index = {name: label for label, name in enumerate(bundle.classes) if one_each}
    labels = [index.get(path.parent.name) for path in paths]
    source = f"{len(paths)} of the {len(found)} photos in {folder.name}"
    return Photos(
        paths=tuple(paths),
        labels=None if None in labels else np.array(labels, np.int32),
        source=source,
        calibration=tuple(paths[i] for i in _evenly(len(paths), CALIBRATION)),
        calibrated_on="they are among those of the proof",
    )


def run_photos(run: Path, bundle: Bundle, scratch: Path) -> Photos:
    """The validation photos of a run, those of no file written into `scratch`.

    Raises:
      UsageError: they are not to be had.
      RunError: a download failed.
    """
    table = run / "predictions.csv"
    if not table.is_file():
        raise UsageError(
            f"{run}: there is no predictions.csv, which names the validation photos; "
            "give --check FOLDER with photos"
        )
    limits = bundle.certainty.label_thresholds
    try:
        if limits:
            evaluation = read_label_predictions(table, thresholds=limits)
        else:
            evaluation = read_predictions(table)
    except ValueError as error:
        raise UsageError(
            f"{run} is damaged: {error}; or give --check FOLDER"
        ) from error
    if evaluation.classes != bundle.classes or not len(evaluation):
        raise UsageError(f"{table} is not of this model; give --check FOLDER")
    chosen = _evenly(len(evaluation), LARGEST)
    names = [evaluation.paths[index] for index in chosen]
    known = {name: name for name in names if Path(name).is_file()}
    photos = _source_photos(run, needed=len(known) < len(names))
    paths = [_file(name, photos, scratch) for name in names]
    judged = set(evaluation.paths)
    rest = [name for name in photos if name not in judged]
    fitted = [
        _file(rest[index], photos, scratch) for index in _evenly(len(rest), CALIBRATION)
    ]
    return Photos(
        paths=tuple(paths),
        labels=evaluation.labels[chosen],
        source=(
            f"all {len(names)} validation photos of the run"
            if len(names) == len(evaluation)
            else f"{len(names)} of the run's {len(evaluation)} validation photos"
        ),
        calibration=tuple(fitted or paths[:CALIBRATION]),
        calibrated_on="of the training data" if fitted else "those of the proof",
        judged=_judged(evaluation),
    )


def _judged(evaluation: Evaluation | MultilabelEvaluation) -> str:
    count = f"of {len(evaluation)} photos"
    if isinstance(evaluation, Evaluation):
        return f"accuracy {evaluation.accuracy:.2%} {count}"
    if not evaluation.labels.any():
        return ""
    share = evaluation.mean_average_precision
    return f"mean average precision {share:.2%} {count}"


def _source_photos(run: Path, *, needed: bool) -> dict[str, Photo]:
    """All photographs of the run's data by name; none where they are gone.

    Raises:
      UsageError: they are gone, and needed.
      RunError: a download failed.
    """
    data = str(open_run(run).config.get("data", "")) if (run / CONFIG).is_file() else ""
    try:
        if needed:
            fetch_source(data)
        source = find_source(data, labelled=True)
    except DownloadError as error:
        raise RunError(f"{run / CONFIG}: {error}; or give --check FOLDER") from error
    except ValueError as error:
        if not needed:
            return {}
        raise UsageError(f"{run / CONFIG}: {error}; or give --check FOLDER") from error
    return {photo.name: photo for photo in source.whole()}


def _file(name: str, photos: Mapping[str, Photo], scratch: Path) -> Path:
    """The file of a photo; of one that has none, a copy without loss."""
    path = Path(name)
    if path.is_file():
        return path
    if name not in photos:
        raise UsageError(
            f"the validation photo {name} is no longer in the data; give --check FOLDER"
        )
    path = scratch / f"{len(list(scratch.iterdir())):05d}.png"
    photos[name].open().save(path)
    return path


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
