"""Grids: their cells, how they resume, and what a damaged run costs."""

import json
import re

import pytest

from experiments.command.console import Console
from experiments.runs import grid
from experiments.runs.comparison import RESULTS, read_results
from experiments.runs.folder import Run
from tests.grids import Config, Page, cells_of, compared, fake
from tests.grids import quick as quick


def test_names_of_variants_and_folders():
    cells = cells_of()
    assert [cell.variant for cell in cells] == [
        "small-none",
        "small-layer1,layer2",
        "large-none",
        "large-layer1,layer2",
    ]
    assert cells[1].name == "small-layer1_layer2"
    assert cells[1].values == {"net": "small", "freeze": "layer1,layer2"}
    assert cells[1].chosen == {"net": "small", "freeze": "layer1,layer2"}
    assert cells[1].config == Config(net=("small",), freeze=("layer1,layer2",))
    (one, two) = cells_of(net=("small",), repeats=2, freeze=("none", "none"))
    assert (one.variant, one.name, one.values) == ("small-none", "small-none-seed0", {})
    assert two.config.seed == 1


@pytest.mark.parametrize(
    "values",
    [
        ("a/b", "a b", "a,b", "A,B"),
        ("..", "../..", "/", ""),
        ("x" * 300, "x" * 300 + "y", ".hidden", "-rf"),
        ("<script>", "naïve", "a\nb", "a\x00b"),
    ],
)
def test_folders_are_safe_and_differ_whatever_the_values(values):
    cells = cells_of(net=values)
    names = [cell.name for cell in cells]
    assert len({name.lower() for name in names}) == len(cells) == 8
    assert len({cell.variant for cell in cells}) == 8
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9+=][A-Za-z0-9._+=-]*", name) and len(name) < 120
    assert names == [cell.name for cell in cells_of(net=values)]


def test_interrupted_grid_goes_on_and_compares_only_what_is_complete(tmp_path):
    cells = cells_of()
    run_cell, calls = fake()

    def stopped(cell, run):
        return None if len(calls) == 2 else run_cell(cell, run)

    assert grid.run(cells, Run(tmp_path, {}), stopped, console=Console()) is None
    assert calls == ["small-none", "small-layer1_layer2"]
    assert not list(tmp_path.glob("comparison.*"))
    first = grid.run(cells, Run(tmp_path, {}), run_cell, console=Console())
    assert calls == [cell.name for cell in cells]
    assert first == json.loads((tmp_path / "small-none" / RESULTS).read_text())
    written = {path.name for path in tmp_path.glob("comparison.*")}
    assert written == {"comparison.html", "comparison.csv", "comparison.png"}


def test_single_run_has_the_folder_to_itself(tmp_path):
    cells = cells_of(net=("small",), freeze=("none",))
    run_cell, _ = fake()
    assert (
        grid.run(cells, Run(tmp_path, {}), lambda *_: None, console=Console()) is None
    )
    assert not (tmp_path / RESULTS).exists()
    numbers = grid.run(cells, Run(tmp_path, {}), run_cell, console=Console())
    assert read_results(tmp_path / RESULTS) == numbers
    assert not list(tmp_path.glob("comparison.*"))


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"images": 4}', '{"val_accuracy": "0.9"}', "\x00"]
)
def test_damaged_results_are_said_in_one_line_and_made_anew(tmp_path, capsys, text):
    cells = cells_of(freeze=("none",))
    run_cell, calls = fake()
    grid.run(cells, Run(tmp_path, {}), run_cell, console=Console())
    path = tmp_path / "large" / RESULTS
    before = path.read_text()
    path.write_text(text)
    grid.run(cells, Run(tmp_path, {}), run_cell, console=Console())
    assert calls == ["small", "large", "large"]
    assert path.read_text() == before
    said = [x for x in capsys.readouterr().out.splitlines() if "WARNING" in x]
    assert said == [f"WARNING: {path} is damaged: its run is completed anew"]


def damage_missing(path):
    path.unlink()


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-5])


def damage_binary(path):
    path.write_bytes(bytes(range(256)))


def damage_shorter(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    "damage", [damage_missing, damage_truncated, damage_binary, damage_shorter]
)
def test_lost_predictions_cost_the_test_alone(tmp_path, capsys, damage):
    cells = cells_of(freeze=("none",))
    compared(tmp_path, cells, wrong=lambda config: 3 + (config.net == ("small",)))
    damage(tmp_path / "small" / "predictions.csv")
    capsys.readouterr()
    page, lines = compared(tmp_path, cells)
    said = [x for x in capsys.readouterr().out.splitlines() if "WARNING" in x]
    assert len(said) == 1 and "No test with small: " in said[0]
    text = Page(page).text
    assert "cannot be said: the predictions of small are missing or damaged." in text
    assert said[0].removeprefix("WARNING: ") in text
    assert float(lines["small"]["low"]) < 0.9 < float(lines["small"]["high"])


@pytest.mark.parametrize("damage", [damage_missing, damage_binary])
def test_lost_curves_cost_the_curves_alone(tmp_path, capsys, damage):
    cells = cells_of(freeze=("none",))
    compared(tmp_path, cells)
    for name in ("small", "large"):
        damage(tmp_path / name / "metrics.csv")
        page, lines = compared(tmp_path, cells)
    assert "No curves and times of large: " in capsys.readouterr().out
    assert lines["small"]["minutes"] == ""
    assert 'id="curves"' not in page and "comparison.png" not in page
