"""Grids whose runs are made up: what the tests of grids and comparisons share."""

from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from experiments.command.console import Console
from experiments.pages import comparison_plots
from experiments.pages.predictions import write_predictions
from experiments.runs import comparison, grid
from experiments.runs.folder import Run, write_rows
from tests.runs import rows_of

LABELS = np.arange(40) % 4
CLASSES = ("cat", "<script>alert(1)</script>", "dog", "a & b")


@dataclass(frozen=True)
class Config:
    net: tuple[str, ...] = ("small", "large")
    freeze: tuple[str, ...] = ("none", "layer1,layer2")
    seed: int = 0
    repeats: int = 1
    resume: Path | None = None
    config: Path | None = None


def cells_of(**options):
    return grid.expand(Config(**options), axes=("net", "freeze"))


def fake(wrong=lambda config: 3, labels=lambda config: LABELS):
    """A `run_cell` whose first `wrong(config)` images are mistaken; what it ran."""
    calls = []

    def run_cell(cell, run):
        config, folder = cell.config, run.path
        calls.append(folder.name)
        truth = labels(config)
        mistakes = wrong(config)
        if not isinstance(mistakes, np.ndarray):
            mistakes = np.arange(len(truth)) < mistakes
        found = np.where(mistakes, (truth + 1) % 4, truth)
        write_predictions(
            folder / "predictions.csv",
            [f"val/{i}.jpg" for i in range(len(truth))],
            np.eye(4)[found],
            CLASSES,
            labels=truth,
        )
        accuracy = float((found == truth).mean())
        rows = [
            {
                "epoch": epoch,
                "train_loss": 1 / epoch,
                "val_loss": 2 / epoch,
                "val_accuracy": accuracy * epoch / 2,
                "seconds": 30.0,
            }
            for epoch in (1, 2)
        ]
        write_rows(folder / "metrics.csv", rows)
        (folder / "report.html").write_text("a report")
        return {
            "val_accuracy": accuracy,
            "val_macro_f1": accuracy,
            "parameters": 1000 if config.net == ("small",) else 5_000_000,
            "images": len(truth),
            "gflop": 0.25 if config.net == ("small",) else 4.0,
        }

    return run_cell, calls


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Without pictures, which take a second, but for tests of them."""
    if "drawn" in request.fixturenames:
        return
    monkeypatch.setattr(
        comparison, "draw_comparison", lambda rows, path: path.write_text(".")
    )
    monkeypatch.setattr(
        comparison_plots, "svg", lambda figure, salt: f"<svg>{salt}</svg>"
    )


@pytest.fixture
def drawn():
    """Asked for by the tests that look at pictures."""


def compared(folder, cells, **options):
    """The page and the lines of `comparison.csv` of a grid that ran."""
    run_cell, _ = fake(**options)
    folder.mkdir(exist_ok=True)
    grid.run(cells, Run(folder, {}), run_cell, console=Console())
    lines = {row["variant"]: row for row in rows_of(folder / "comparison.csv")}
    return (folder / "comparison.html").read_text(), lines


class Page(HTMLParser):
    """The tags and the words of a page, and where its links lead."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.words = [], [""], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data):
        if self.tags[-1] != "style":
            self.words.append(data)
