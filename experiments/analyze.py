"""Builds the report of a finished classification run anew, from its folder.

python -m experiments.analyze RUN
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from tyro import MISSING
from tyro.conf import Positional, arg

from converters.bundle import Bundle
from experiments.backbones import RANDOM
from experiments.config import UsageError, run_cli
from experiments.predict import explainer, open_model
from experiments.run import Reporter, read_metrics, skipped_notes
from jaxvision import metrics
from jaxvision.data import Dataset, Split, open_dataset
from jaxvision.report.analysis_page import Line, first_look
from jaxvision.report.findings import gather
from jaxvision.report.history import History
from jaxvision.report.page import write_report
from jaxvision.report.predictions import Predictions, read_predictions

MODULE = "experiments.analyze"


@dataclass(frozen=True)
class Config:
    """Builds the report of a finished classification run anew, from its folder."""

    run: Annotated[Positional[Path], arg(metavar="RUN")] = MISSING
    """The folder of one run; of several seeds or variants, that of one of them."""


def main(config: Config) -> dict[str, float]:
    """Writes `RUN/report.html` and returns `val_accuracy` and `val_macro_f1`.

    Raises:
      UsageError: the folder is no finished classification run, or its images are gone.
    """
    report = Reporter()
    folder = config.run
    values, history, predictions = read_run(folder)
    bundle = open_model(folder)
    dataset = _open(folder, values, bundle, report)
    train, val = match(folder, predictions, dataset)
    notes = []
    if values.get("weights") == "random" and values["data"] == "demo":
        notes.append(f"The weights are random. {RANDOM}")
    notes += skipped_notes(dataset.skipped, "unreadable files")
    page, lines = full_report(
        folder,
        title=f"{bundle.name} on {dataset.name}",
        summary=_summary(values, bundle, train),
        history=history,
        train=train,
        val=val,
        classes=predictions.classes,
        probabilities=predictions.probabilities,
        bundle=bundle,
        notes=notes,
    )
    for line in lines:
        report.say(line["text"])
    report.say(f"see {page}")
    matrix = metrics.confusion_matrix(
        val.labels, predictions.predictions, len(predictions.classes)
    )
    return {
        "val_accuracy": metrics.accuracy(matrix),
        "val_macro_f1": metrics.macro_f1(matrix),
    }


def full_report(
    folder: Path,
    *,
    title: str,
    summary: Mapping[str, str],
    history: History,
    train: Split,
    val: Split,
    classes: Sequence[str],
    probabilities: np.ndarray,
    bundle: Bundle,
    notes: Sequence[str],
) -> tuple[Path, list[Line]]:
    """Writes `folder/report.html` with everything that the analysis finds.

    Args:
      folder: the run's, with its `config.yaml`.
      title, summary, history, notes: as `write_report` takes them.
      train: squares of the photos' whole short side, of any size.
      val: evaluation crops.
      classes: the class names.
      probabilities: `(n, classes)` of the images in `val`.
      bundle: the model that gave them, to explain its mistakes.

    Returns:
      The page's path, and the sentences at its top.
    """
    table = np.asarray(probabilities)
    matrix = metrics.confusion_matrix(val.labels, table.argmax(axis=1), len(classes))
    wrong = bool(matrix.sum() - np.trace(matrix))
    findings = gather(
        train,
        val,
        table,
        classes,
        history,
        share=bundle.preprocessing.crop / bundle.preprocessing.resize,
        explain=explainer(bundle) if wrong else None,
    )
    page = write_report(
        folder,
        title=title,
        summary=summary,
        config=yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
        history=history,
        classes=classes,
        matrix=matrix,
        pairs=metrics.confused_pairs(matrix, classes, top=8),
        findings=findings,
        notes=notes,
    )
    return page, first_look(findings, history, classes)


def read_run(
    folder: Path,
) -> tuple[dict[str, Any], list[dict[str, float]], Predictions]:
    """The options, the rows of `metrics.csv` and the predictions of a run.

    Raises:
      UsageError: a file is missing or damaged.
    """
    for name in ("config.yaml", "metrics.csv", "predictions.csv"):
        if not (folder / name).is_file():
            inner = sorted(folder.glob("*/predictions.csv"))
            hint = (
                f"it holds several runs, give one, such as {inner[0].parent}"
                if inner
                else "it is no classification run, or none that has ended"
            )
            raise UsageError(f"{folder}: there is no {name}; {hint}")
    try:
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        rows = read_metrics(folder / "metrics.csv")
        predictions = read_predictions(folder / "predictions.csv")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{folder} is damaged: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict) or "data" not in values:
        raise UsageError(f"{folder / 'config.yaml'} does not say which data it was")
    if not predictions.paths:
        raise UsageError(f"{folder / 'predictions.csv'} holds no predictions")
    return values, rows, predictions


def match(
    folder: Path, predictions: Predictions, dataset: Dataset
) -> tuple[Split, Split]:
    """The images that the model was trained on, and those that it was judged by.

    What has a line in `predictions.csv` was judged, all the rest trained on.

    Raises:
      UsageError: an image of `predictions.csv` is no longer there.
    """
    places = {
        path: (split, index)
        for split in (dataset.train, dataset.val)
        for index, path in enumerate(split.paths)
    }
    gone = [path for path in predictions.paths if path not in places]
    if gone:
        raise UsageError(
            f"{len(gone)} of the {len(predictions.paths)} images in "
            f"{folder / 'predictions.csv'} are no longer in the data, such as "
            f"{gone[0]}: put them back, or train anew"
        )
    judged = [places[path] for path in predictions.paths]
    val = Split(
        images=np.stack([split.images[index] for split, index in judged]),
        labels=predictions.labels,
        paths=predictions.paths,
    )
    used = {index for split, index in judged if split is dataset.train}
    if not used:
        return dataset.train, val
    rest = np.array([i for i in range(len(dataset.train)) if i not in used], int)
    train = Split(
        images=dataset.train.images[rest],
        labels=dataset.train.labels[rest],
        paths=tuple(dataset.train.paths[i] for i in rest),
    )
    return train, val


def _open(
    folder: Path, values: dict[str, Any], bundle: Bundle, report: Reporter
) -> Dataset:
    try:
        with report.counting("reading images") as progress:
            return open_dataset(
                str(values["data"]),
                train_size=bundle.preprocessing.resize,
                eval_resize=bundle.preprocessing.resize,
                eval_crop=bundle.preprocessing.crop,
                progress=progress,
            )
    except ValueError as error:
        raise UsageError(f"{folder / 'config.yaml'}: {error}") from error


def _summary(values: dict[str, Any], bundle: Bundle, train: Split) -> dict[str, str]:
    facts = {
        "Weights": values.get("weights"),
        "Training images": len(train),
        "Epochs": values.get("epochs"),
        "Image size": f"{bundle.preprocessing.crop} px",
        "Seed": values.get("seed"),
    }
    return {name: str(fact) for name, fact in facts.items() if fact is not None}


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
