"""Writes a run's model for other programs, and proves first that it is the same.

python -m experiments.export RUN --to onnx|stablehlo|safetensors|torch --output DIR
python -m experiments.export RUN --to hub:OWNER/NAME --output DIR
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tyro import MISSING
from tyro.conf import Positional, arg

from converters.bundle import Bundle
from experiments.command.console import Console
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference import hub
from experiments.inference.classifier import make_predict, open_model
from experiments.inference.exporting import write_model
from experiments.inference.portable import (
    FORMATS,
    check_installed,
)
from experiments.runs.check_photos import Photos, given_photos, run_photos
from experiments.runs.folder import CONFIG, open_run
from experiments.runs.model_card import Proof, model_card
from jaxvision.data import image_files
from jaxvision.data.squares import read_crops
from jaxvision.files import atomic_folder, write_text
from jaxvision.multilabel import mean_average_precision

MODULE = "experiments.export"
BOUND = 1e-4
"""Most that a probability may differ by."""


@dataclass(frozen=True)
class Config:
    """Writes a run's model for other programs, and proves first that it is the same."""

    run: Annotated[Positional[Path], arg(metavar="RUN")] = MISSING
    """A run's folder, or its model.safetensors, which needs --check."""
    to: str = "onnx"
    """The form: onnx, which takes whole photos; stablehlo, safetensors or torch, which
    take crops, made by a file beside; or hub:OWNER/NAME, a repository of the Hugging
    Face Hub, which timm reads where it has the network; nothing is uploaded."""
    output: Path | None = None
    """The folder to write, not there yet; by default RUN/export-FORMAT."""
    check: Path | None = None
    """Photos to prove it on, FOLDER/CLASS/*.jpg or any; by default the run's own
    validation photos. 256 are taken, evenly, where there are more."""
    quantize: Literal["int8"] | None = None
    """Makes the ONNX model smaller and less exact; the card says by how much."""


def main(config: Config) -> dict[str, float]:
    """Exports; returns the `difference`, the `other_labels` and the file's `bytes`.

    Raises:
      UsageError: there is no such model, or no photos, or a package is missing.
      RunError: the export is not the run's model; nothing is written.
    """
    console = Console()
    form, hub_name = _form(config.to)
    if config.quantize and form != "onnx":
        raise UsageError(
            f"--quantize {config.quantize}: only --to onnx has such a form"
        )
    bundle = open_model(config.run)
    check_installed(form)
    target = _target(config)
    with tempfile.TemporaryDirectory() as scratch:
        photos = (
            run_photos(config.run, bundle, Path(scratch))
            if config.check is None
            else given_photos(config.check, bundle)
        )
        console.say(f"checking on {len(photos.paths)} photos: {photos.source}")
        own, photos = _own(bundle, photos)
        with atomic_folder(target) as folder:
            about = write_model(folder, form, bundle)
            notes = _quantize(config, folder, bundle, photos, console)
            theirs, seconds = _in_a_process(folder, photos, bundle.classes)
            _check(config, own, theirs)
            proof = Proof(
                photos=len(own),
                source=photos.source,
                bound=None if config.quantize else BOUND,
                difference=float(np.abs(own - theirs).max()),
                seconds=seconds,
                **_agreement(bundle, photos.labels, own, theirs),
            )
            size = (folder / FORMATS[form].file).stat().st_size
            card = model_card(
                about,
                proof,
                run=_options(config.run),
                judged=photos.judged,
                size=size,
                notes=[*notes, *(hub.notes(about, hub_name) if hub_name else ())],
            )
            if hub_name:
                hub.write_config(folder, about)
                card = hub.front_matter(about) + card
            write_text(folder / "README.md", card)
    console.say(
        f"probabilities differ by {proof.difference:.1e} at most, "
        f"{proof.other_labels} of {proof.photos} labels"
        + (
            f"; {proof.measure} {proof.score:.2%}, of the run's model "
            f"{proof.own_score:.2%}"
            if proof.score is not None
            else ""
        )
    )
    console.say(f"{target}: {FORMATS[form].file}, {size / 1e6:.1f} MB; README.md")
    if hub_name:
        upload = hub.upload_command(hub_name, target)
        console.say(f"nothing was uploaded; to do so: {upload}")
    return {
        "difference": proof.difference,
        "other_labels": proof.other_labels,
        "bytes": size,
    }


def _form(to: str) -> tuple[str, str]:
    """The form of `--to`, and the name of the repository where it is the Hub's.

    Raises:
      UsageError: there is no such form.
    """
    if to.startswith(hub.PREFIX):
        return "safetensors", hub.repository(to)
    if to not in FORMATS:
        raise UsageError(
            f"--to {to}: it is {', '.join(FORMATS)} or {hub.PREFIX}OWNER/NAME"
        )
    return to, ""


def _target(config: Config) -> Path:
    """The folder to write.

    Raises:
      UsageError: it is there.
    """
    kind = config.to.partition(":")[0]
    kind = f"{kind}-{config.quantize}" if config.quantize else kind
    home = config.run if config.run.is_dir() else config.run.parent
    target = home / f"export-{kind}" if config.output is None else config.output
    if target.exists():
        raise UsageError(f"--output {target}: it is there already; give another folder")
    return target


def _own(bundle: Bundle, photos: Photos) -> tuple[np.ndarray, Photos]:
    """What the run's model says of the photos that can be read, in float32."""
    size = bundle.preprocessing
    crops, bad = read_crops(
        [image_files.file_photo(path) for path in photos.paths],
        resize=size.resize,
        crop=size.crop,
        fit=size.fit,
    )
    photos = photos.without(bad)
    if not photos.paths:
        raise UsageError(f"none of the photos can be read ({photos.source})")
    with jax.default_matmul_precision("highest"):
        return make_predict(bundle, half=False)(crops), photos


def _quantize(
    config: Config, folder: Path, bundle: Bundle, photos: Photos, console: Console
) -> list[str]:
    """Makes the model in `folder` int8 where that is asked for; what to say of it."""
    if not config.quantize:
        return []
    from experiments.inference.onnx_int8 import quantize

    file = folder / FORMATS["onnx"].file
    before = file.stat().st_size
    quantize(file, photos.calibration)
    after = file.stat().st_size
    console.say(f"int8: {before / 1e6:.1f} MB became {after / 1e6:.1f} MB")
    return [
        f"Weights and activations are int8 (onnxruntime, static, per channel): "
        f"{before / 1e6:.1f} MB became {after / 1e6:.1f} MB. The ranges come from "
        f"{len(photos.calibration)} photos: {photos.calibrated_on}."
    ]


def _in_a_process(
    folder: Path, photos: Photos, classes: Sequence[str]
) -> tuple[np.ndarray, float]:
    """What the export says, by `predict` in a process of its own; and its seconds.

    Raises:
      RunError: it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "out.csv"
        names = [str(path.absolute()) for path in photos.paths]
        command = ["-m", "experiments.predict", str(folder.absolute()), *names]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, *command, "--csv", str(table)],
            capture_output=True,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        seconds = time.monotonic() - began
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or ["no word"]
            raise RunError(f"the export does not run, nothing is written: {said[0]}")
        with open(
            table, encoding="utf-8", errors="surrogateescape", newline=""
        ) as file:
            rows = list(csv.reader(file))[1:]
    return np.array([row[-len(classes) :] for row in rows], np.float64), seconds


def _check(config: Config, own: np.ndarray, theirs: np.ndarray) -> None:
    """Raises RunError where the export is not the same model."""
    difference = float(np.abs(own - theirs).max())
    if not np.isfinite(theirs).all() or (not config.quantize and difference > BOUND):
        raise RunError(
            f"the export's probabilities differ by {difference:.1e} from the run's, "
            f"more than {BOUND:g}: nothing is written"
        )


def _agreement(
    bundle: Bundle, labels: np.ndarray | None, own: np.ndarray, theirs: np.ndarray
) -> dict[str, Any]:
    """Whether both say the same of the photos, and how right they are, for `Proof`.

    By the class that is likeliest; of several labels, by those that reach their
    thresholds and by the mean average precision.
    """
    limits = bundle.certainty.label_thresholds
    if limits:
        said = [table >= np.asarray(limits) for table in (own, theirs)]
        measure, score = "mean average precision", mean_average_precision
    else:
        said = [table.argmax(1, keepdims=True) for table in (own, theirs)]
        measure, score = "accuracy", _accuracy
    found = {"other_labels": int((said[0] != said[1]).any(1).sum()), "measure": measure}
    if labels is None or (limits and not labels.any()):
        return found
    return found | {"own_score": score(labels, own), "score": score(labels, theirs)}


def _accuracy(labels: np.ndarray, table: np.ndarray) -> float:
    return float((table.argmax(1) == labels).mean())


def _options(run: Path) -> dict:
    """What the run's `config.yaml` says; nothing where there is none."""
    if not (run / CONFIG).is_file():
        return {}
    return dict(open_run(run).config)


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
