"""Builds the report of a finished classification run anew, from its folder.

python -m experiments.analyze RUN
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro import MISSING
from tyro.conf import Positional, arg

from converters.bundle import Bundle
from experiments.command.console import Console
from experiments.command.options import UsageError, run_cli
from experiments.inference.classifier import open_model
from experiments.pages.page import About
from experiments.pages.predictions import SeveralLabelsError, read_predictions
from experiments.runs.classifier_outputs import numbers, write_page
from experiments.runs.folder import Run, data_notes, open_run, read_metrics
from experiments.runs.writer import one_writer
from experiments.training.backbones import RANDOM
from experiments.training.data import open_data
from jaxvision.data import Dataset, Split
from jaxvision.evaluation import Evaluation

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
    console = Console()
    run, history, evaluation = read_run(config.run)
    bundle = open_model(run.path)
    dataset = _open(run, bundle, console=console)
    train, val = match(run.path, evaluation, dataset)
    notes = []
    if run.config.get("weights") == "random" and run.config["data"] == "demo":
        notes.append(f"The weights are random. {RANDOM}")
    notes += data_notes(dataset)
    title = f"{bundle.name} on {dataset.name}"
    summary = _summary(run.config, bundle, train)
    about = About(title, summary, run.config, history, notes)
    with one_writer(run.path):
        page, lines = write_page(run.path, about, train, val, evaluation, bundle)
    for line in lines:
        console.say(line)
    console.say(f"see {page}")
    return numbers(evaluation)


def read_run(folder: Path) -> tuple[Run, list[dict[str, float]], Evaluation]:
    """A run, the rows of its `metrics.csv`, and its predictions.

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
    run = open_run(folder)
    try:
        rows = read_metrics(folder / "metrics.csv")
        evaluation = read_predictions(folder / "predictions.csv")
    except SeveralLabelsError as error:
        raise UsageError(str(error)) from error
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{folder} is damaged: {' '.join(str(error).split())}"
        ) from error
    if "data" not in run.config:
        raise UsageError(f"{folder / 'config.yaml'} does not say which data it was")
    if not len(evaluation):
        raise UsageError(f"{folder / 'predictions.csv'} holds no predictions")
    return run, rows, evaluation


def match(
    folder: Path, evaluation: Evaluation, dataset: Dataset
) -> tuple[Split, Split]:
    """What the model was trained on, and what it was judged by.

    What has a line in `predictions.csv` was judged, all the rest trained on.

    Raises:
      UsageError: an image of `predictions.csv` is no longer there.
    """
    places = {
        path: (split, index)
        for split in (dataset.train, dataset.val)
        for index, path in enumerate(split.paths)
    }
    gone = [path for path in evaluation.paths if path not in places]
    if gone:
        raise UsageError(
            f"{len(gone)} of the {len(evaluation)} images in "
            f"{folder / 'predictions.csv'} are no longer in the data, such as "
            f"{gone[0]}: put them back, or train anew"
        )
    judged = [places[path] for path in evaluation.paths]
    if all(split is dataset.val for split, _ in judged):
        val = dataset.val.only(np.array([index for _, index in judged], int))
        return dataset.train, replace(
            val, labels=evaluation.labels, paths=evaluation.paths
        )
    sizes = [split.sizes[i] for split, i in judged if split.sizes is not None]
    val = Split(
        images=np.stack([split.images[index] for split, index in judged]),
        labels=evaluation.labels,
        paths=evaluation.paths,
        sizes=np.stack(sizes) if len(sizes) == len(judged) else None,
    )
    used = {index for split, index in judged if split is dataset.train}
    rest = np.array([i for i in range(len(dataset.train)) if i not in used], int)
    return dataset.train.only(rest), val


def _open(run: Run, bundle: Bundle, *, console: Console) -> Dataset:
    return open_data(
        str(run.config["data"]),
        bundle.preprocessing,
        train_size=max(bundle.preprocessing.resize, bundle.preprocessing.crop),
        console=console,
        fold=_fold(run.config),
        where=str(run.path / "config.yaml"),
        is_streamed=run.config.get("input") == "stream",
    )


def _fold(values: Mapping[str, Any]) -> tuple[int, int] | None:
    """The part of all photos that the run was judged by, where it was one."""
    fold, folds = values.get("fold"), values.get("folds")
    if isinstance(fold, int) and isinstance(folds, int):
        return fold, folds
    return None


def _summary(values: Mapping[str, Any], bundle: Bundle, train: Split) -> dict[str, str]:
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
