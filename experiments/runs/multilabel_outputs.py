"""What a run on photos with several labels leaves: predictions, curves, the report."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.table import Table

from converters.bundle import Bundle
from experiments.command.console import Console
from experiments.pages import plots
from experiments.pages.findings import centre
from experiments.pages.multilabel_page import describe
from experiments.pages.page import About, write_report
from experiments.pages.predictions import write_label_predictions
from experiments.runs.classifier_outputs import seen_share
from jaxvision import duplicates
from jaxvision.data import Dataset
from jaxvision.multilabel import MultilabelEvaluation, mean_average_precision

UNSOUGHT = (
    "the photos were streamed: validation images that are in the training set too were "
    "not looked for"
)


def write_multilabel_outputs(
    folder: Path,
    about: About,
    dataset: Dataset,
    evaluation: MultilabelEvaluation,
    bundle: Bundle,
    *,
    kept: str,
    console: Console,
) -> dict[str, float]:
    """Writes all of a run folder that follows from its last predictions.

    Args:
      folder: the run's.
      about: what there is to say of any run.
      dataset: what was trained on and judged by.
      evaluation: of the validation images, by the kept epoch's model.
      bundle: that model, with its labels' thresholds.
      kept: which epoch that is: "best epoch" or "last epoch".
      console: is told the results.

    Returns:
      `val_mean_average_precision` and `val_macro_f1` of the kept epoch's model.
    """
    write_label_predictions(
        folder / "predictions.csv",
        evaluation.paths,
        evaluation.probabilities,
        evaluation.classes,
        thresholds=bundle.certainty.label_thresholds,
        labels=evaluation.labels,
    )
    plots.curves(about.history, folder / "curves.png")
    if dataset.is_streamed:  # all photos would have to be decoded once more
        notes = [UNSOUGHT]
    else:
        leaked = _leaked(dataset, bundle)
        notes = [_leak_note(leaked, dataset, evaluation)] if leaked else []
    about = about._replace(notes=[*about.notes, *notes])
    found = describe(dataset.val.images, evaluation)
    page = write_report(folder, about, labels=found)
    console.table(_table(evaluation))
    for note in about.notes:
        console.say(f"WARNING: {note}", style="bold yellow")
    console.say(
        f"{kept}: mean average precision {evaluation.mean_average_precision:.2%}, "
        f"macro F1 {evaluation.macro_f1:.3f} (by thresholds chosen on other photos "
        f"{found['cross_f1']:.3f}), {len(evaluation)} validation images; see {page}"
    )
    return {
        "val_mean_average_precision": evaluation.mean_average_precision,
        "val_macro_f1": evaluation.macro_f1,
    }


def _leaked(dataset: Dataset, bundle: Bundle) -> dict[int, int]:
    """The validation photos that are training photos too, and which of these."""
    train, val = dataset.train.images, dataset.val.images
    share = seen_share(dataset.train, bundle.preprocessing)
    pairs = duplicates.between(
        duplicates.signatures(centre(train, share)), duplicates.signatures(val)
    )
    return {pair.second: pair.first for pair in reversed(pairs)}


def _leak_note(
    leaked: Mapping[int, int], dataset: Dataset, evaluation: MultilabelEvaluation
) -> str:
    second, first = min(leaked.items())
    rest = np.delete(np.arange(len(evaluation)), list(leaked))
    note = (
        f"{len(leaked)} validation image{'s are' if len(leaked) > 1 else ' is'} in the "
        f"training set too, such as {evaluation.paths[second]} "
        f"({dataset.train.paths[first]}), so the result is flattered"
    )
    labels, table = evaluation.labels[rest], evaluation.probabilities[rest]
    if labels.any():
        found = mean_average_precision(labels, table)
        note += f"; of the other {len(rest)} it is {found:.1%}"
    return note


def _table(evaluation: MultilabelEvaluation) -> Table:
    rates, precisions = evaluation.rates, evaluation.average_precisions
    table = Table(box=None, header_style="bold")
    table.add_column("label")
    for name in ("AP", "precision", "recall", "F1", "threshold", "images"):
        table.add_column(name, justify="right")
    for index in np.argsort(rates.f1, kind="stable").tolist():
        table.add_row(
            evaluation.classes[index],
            f"{precisions[index]:.3f}",
            f"{rates.precision[index]:.3f}",
            f"{rates.recall[index]:.3f}",
            f"{rates.f1[index]:.3f}",
            f"{evaluation.thresholds[index]:.3f}",
            str(rates.support[index]),
        )
    return table
