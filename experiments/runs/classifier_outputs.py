"""What a classification run leaves behind: predictions, pictures, the report."""

from pathlib import Path

import numpy as np
from rich.table import Table

from converters.bundle import Bundle
from converters.to_torch import torch_call
from experiments.command.console import Console
from experiments.inference.classifier import explainer
from experiments.pages import plots
from experiments.pages.analysis_page import first_look
from experiments.pages.findings import gather
from experiments.pages.page import About, write_report
from experiments.pages.predictions import write_predictions
from jaxvision import metrics
from jaxvision.calibration import tempered
from jaxvision.data import Dataset, Split
from jaxvision.evaluation import Evaluation
from jaxvision.preprocess import Preprocessing, visible_share


def write_outputs(
    folder: Path,
    about: About,
    dataset: Dataset,
    evaluation: Evaluation,
    bundle: Bundle,
    *,
    kept: str,
    console: Console,
) -> dict[str, float]:
    """Writes all of a run folder that follows from its last predictions.

    `predictions.csv` has the net's own probabilities, which are PyTorch's; everything
    else shows those after the temperature, as `predict` does.

    Args:
      folder: the run's.
      about: what there is to say of any run.
      dataset: what was trained on and judged by.
      evaluation: of the validation images, by the kept epoch's model.
      bundle: that model.
      kept: which epoch that is: "best epoch" or "last epoch".
      console: is told the results.

    Returns:
      `val_accuracy` and `val_macro_f1` of the kept epoch's model.
    """
    write_predictions(
        folder / "predictions.csv",
        evaluation.paths,
        evaluation.probabilities,
        evaluation.classes,
        labels=evaluation.labels,
    )
    plots.curves(about.history, folder / "curves.png")
    plots.confusion(evaluation.matrix, evaluation.classes, folder / "confusion.png")
    shown = tempered(evaluation, bundle.certainty.temperature)
    plots.mistakes(dataset.val.images, shown, folder / "mistakes.png")
    page, lines = write_page(
        folder, about, dataset.train, dataset.val, evaluation, bundle
    )
    console.table(_per_class_table(evaluation))
    for line in [*map(str, evaluation.pairs[:3]), *lines]:
        console.say(line)
    for note in about.notes:
        console.say(f"WARNING: {note}", style="bold yellow")
    call = torch_call(bundle.name, num_classes=len(bundle.classes))
    console.say(
        f"{kept}: accuracy {evaluation.accuracy:.2%}, macro F1 "
        f"{evaluation.macro_f1:.3f}, {len(evaluation)} validation images; see {page}"
        + (call and f"; in PyTorch it is {call}")
    )
    return numbers(evaluation)


def write_page(
    folder: Path,
    about: About,
    train: Split,
    val: Split,
    evaluation: Evaluation,
    bundle: Bundle,
) -> tuple[Path, list[str]]:
    """Writes `folder/report.html` with everything that the analysis finds.

    Args:
      folder: the run's.
      about: what there is to say of any run.
      train: squares of the photos, of any size.
      val: what was evaluated.
      evaluation: of it, before the temperature.
      bundle: the model that was evaluated, to explain its mistakes.

    Returns:
      The page's path, and the sentences at its top.
    """
    is_wrong = bool((evaluation.predictions != evaluation.labels).any())
    seen = bundle.preprocessing
    findings = gather(
        train,
        val.images,
        evaluation,
        about.history,
        share=seen_share(train, seen),
        explain=explainer(bundle) if is_wrong else None,
        certainty=bundle.certainty,
        cut=_cut(val, seen),
    )
    page = write_report(folder, about, evaluation=evaluation, findings=findings)
    lines = first_look(findings, about.history, evaluation.classes)
    return page, [line["text"] for line in lines]


def seen_share(train: Split, seen: Preprocessing) -> float:
    """The share of a training square's side that evaluation sees of the same photo."""
    # Of a photo that is not cropped, the training square has a margin.
    return seen.crop / (seen.resize if seen.fit == "crop" else train.images.shape[1])


def _cut(val: Split, seen: Preprocessing) -> np.ndarray | None:
    """The share of each photo that is cut away; None where nothing is, or unknown."""
    if val.sizes is None or seen.fit != "crop":
        return None
    shown = [
        visible_share(int(height), int(width), resize=seen.resize, crop=seen.crop)
        for height, width in val.sizes
    ]
    return 1 - np.array(shown) if min(shown) < 1 else None


def numbers(evaluation: Evaluation) -> dict[str, float]:
    """What a run returns of an evaluation."""
    return {
        "val_accuracy": evaluation.accuracy,
        "val_macro_f1": evaluation.macro_f1,
    }


def _per_class_table(evaluation: Evaluation) -> Table:
    rates = metrics.per_class(evaluation.matrix)
    table = Table(box=None, header_style="bold")
    table.add_column("class")
    for name in ("precision", "recall", "F1", "images"):
        table.add_column(name, justify="right")
    for index in np.argsort(rates.f1, kind="stable"):
        table.add_row(
            evaluation.classes[int(index)],
            f"{rates.precision[index]:.3f}",
            f"{rates.recall[index]:.3f}",
            f"{rates.f1[index]:.3f}",
            str(rates.support[index]),
        )
    return table
