"""`python -m experiments.compare`: runs of several commands, side by side."""

import shutil

import pytest
import yaml

from experiments import compare
from experiments.command.options import run_cli
from experiments.runs.comparison import RESULTS, write_results
from experiments.runs.folder import Run
from experiments.runs.grid import expand
from tests.grids import Config as Nets
from tests.grids import Page, fake
from tests.grids import quick as quick
from tests.runs import rows_of

OPTIM = {"name": "sgd", "lr": 0.01}


def make_run(folder, *, wrong=3, seed=0, **options):
    """A complete run whose first `wrong` images are mistaken."""
    folder.mkdir(parents=True)
    values = {"recipe": None, "data": "photos", "optim": OPTIM, "ema": 0.0} | options
    values |= {"seed": seed, "output": str(folder), "environment": {"time": seed}}
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    run_cell, _ = fake(wrong=lambda config: wrong)
    (cell,) = expand(Nets(net=("small",), freeze=("none",)), axes=("net", "freeze"))
    numbers = run_cell(cell, Run(folder, {}))
    write_results(folder / RESULTS, numbers)
    return folder


def compared(tmp_path, *runs):
    """The standings, the page and the lines of `comparison.csv`."""
    rows = compare.main(compare.Config(runs=runs, output=tmp_path / "out"))
    folder = tmp_path / "out" / "comparison" / "1"
    lines = {row["variant"]: row for row in rows_of(folder / "comparison.csv")}
    return rows, (folder / "comparison.html").read_text(), lines


@pytest.mark.floor
def test_recipes_of_two_grids_are_told_by_their_name(tmp_path):
    grids = []
    for recipe, lr, wrong in (("original", 0.001, 8), ("best", 0.003, 2)):
        grid = tmp_path / "runs" / recipe
        for seed in (0, 1, 2):
            make_run(
                grid / f"net-seed{seed}",
                wrong=wrong + seed,
                seed=seed,
                recipe=recipe,
                optim=OPTIM | {"lr": lr},
                ema=lr,
            )
        (grid / "config.yaml").write_text("recipe: of the grid itself")
        grids.append(grid)
    (best, original), page, lines = compared(tmp_path, *grids)
    assert best.variant.values == {"recipe": "best"}
    assert (best.accuracy, original.accuracy) == pytest.approx((37 / 40, 31 / 40))
    assert [run.seed for run in best.variant.runs] == [0, 1, 2]
    assert (original.contest.test.first, original.contest.test.second) == (6, 0)
    assert set(lines) == {"best", "original"} and lines["best"]["runs"] == "3"
    words = Page(page)
    reports = [link for link in words.links if link.endswith("report.html")]
    assert len(set(reports)) == 6
    for link in reports:
        assert (tmp_path / "out" / "comparison" / "1" / link).is_file()
    assert f"experiments.predict {grids[1] / 'net-seed0'} PHOTO.jpg" in words.text
    assert "photos" in words.text  # what all runs have in common


def test_as_few_options_as_tell_the_variants_apart(tmp_path):
    fast = OPTIM | {"lr": 0.5}
    rows, _, _ = compared(
        tmp_path,
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", optim=fast, ema=0.9),
        make_run(tmp_path / "c", optim=fast),
    )
    assert {row.variant.name for row in rows} == {"0.01-0.0", "0.5-0.9", "0.5-0.0"}
    assert list(rows[0].variant.values) == ["optim.lr", "ema"]


def test_runs_that_are_not_complete_are_left_out_and_named(tmp_path):
    grid = tmp_path / "grid"
    for seed in (0, 1, 2):
        make_run(grid / f"seed{seed}", seed=seed)
    (grid / "seed1" / RESULTS).unlink()
    (row,), page, _ = compared(tmp_path, grid, grid / "seed0")
    assert [run.seed for run in row.variant.runs] == [0, 2]
    assert f"{grid / 'seed1'} is not complete: left out" in Page(page).text


def damage(name, text):
    def change(first, second):
        (second / name).write_text(text)

    return change


def twin(first, second):
    shutil.copy(first / "config.yaml", second / "config.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda first, second: shutil.rmtree(second), "there is no such folder"),
        (lambda first, second: (second / RESULTS).unlink(), f"no {RESULTS}"),
        (damage(RESULTS, "{}"), f"{RESULTS} is damaged"),
        (damage("config.yaml", "a: ["), "config.yaml is missing or damaged"),
        (twin, "the same options and the same seed"),
    ],
)
def test_a_wrong_run_is_named_and_nothing_is_written(tmp_path, change, message):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", ema=0.9)]
    change(*runs)
    config = compare.Config(runs=tuple(runs), output=tmp_path / "out")
    with pytest.raises(compare.UsageError, match=message) as caught:
        compare.main(config)
    assert str(runs[1]) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"), [((), "which runs?"), (("a",), "a is a single run")]
)
def test_wrong_calls(tmp_path, monkeypatch, capsys, words, message):
    make_run(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", *words])
    with pytest.raises(SystemExit) as exit_info:
        run_cli(compare.Config, compare.main, prog="compare")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
