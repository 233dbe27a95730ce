"""Names from elsewhere: shown as what they are, on any terminal and in any table."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from experiments.command.console import Console, complain
from experiments.pages.cells import guarded, unguarded
from experiments.pages.predictions import read_predictions, write_predictions
from experiments.runs.folder import write_rows
from jaxvision.text import printable
from tests.runs import rows_of

ROOT = Path(__file__).parents[2]
NAMES = {
    "a\x1b[2J\x1b]0;title\x07b": r"a\x1b[2J\x1b]0;title\x07b",
    "one\ntwo\rthree": r"one\ntwo\rthree",
    "caf\udce9.jpg": r"caf\udce9.jpg",
    "a\x9b31mb\x7f": r"a\x9b31mb\x7f",
    "gpj\u202etxt": r"gpj\u202etxt",
    "[red]bird [adult]": "[red]bird [adult]",
    "Ünïcödé 🦜 日本\u202fPM": "Ünïcödé 🦜 日本\u202fPM",
}


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_name_is_shown_and_does_nothing(name, shown, capsys):
    assert printable(name) == shown
    console = Console()
    console.say(f"{name}: read")
    table = Table(box=None)
    table.add_column(name)
    table.add_row(name)
    console.table(table)
    complain(f"error: {name}")
    out, err = capsys.readouterr()
    assert out.count(shown) == 3 and out.count("\n") == 3
    assert err == f"error: {shown}\n"


def test_notebook_gets_plain_lines_in_colour_and_no_bar(monkeypatch, capsys):
    """It claims to be a terminal, and each refresh of a bar would be a line."""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console = Console()
    with console.progress("training") as show:
        for done in range(9):
            show("training", done, 9, "")
    console.say("x" * 200)
    console.say("careful", style="yellow")
    assert capsys.readouterr().out == "x" * 200 + "\n\x1b[33mcareful\x1b[0m\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_progress_shows_any_name(encoding, monkeypatch):
    data = io.BytesIO()
    output = io.TextIOWrapper(data, encoding=encoding)
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setattr("experiments.command.console._Terminal.is_terminal", True)
    for name in NAMES:
        with Console().progress(name) as show:
            show(name, 1, 2, "")
    output.flush()
    shown = data.getvalue().decode(encoding)
    assert "\x1b]0" not in shown and "[red]bird" in shown and r"\udce9" in shown


PROGRAM = """
import sys
from dataclasses import dataclass
from pathlib import Path
from experiments.command.console import Console
from experiments.command.options import RunError, run_cli
@dataclass(frozen=True)
class Config:
    '''Café – 日本.'''
    run: Path = Path("x")
def main(config):
    Console().say(f"{config.run} é 日本 caf\\udce9")
    raise RunError(f"{config.run} é 日本 caf\\udce9")
run_cli(Config, main, prog="x")
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "latin-1:strict"])
@pytest.mark.parametrize("words", [["--run", "日本"], ["--help"], ["--ünknown"]])
def test_terminal_that_lacks_characters_gets_their_numbers(encoding, words):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
    )
    text = (done.stdout + done.stderr).decode(encoding.partition(":")[0])
    assert "Error" not in text.replace("Parsing error", "")
    assert done.returncode == {"--run": 1, "--help": 0}.get(words[0], 2)
    if words[0] == "--run":
        assert text.count(r"caf\udce9") == 2
        assert text.count("日本" if encoding == "utf-8" else r"\u65e5\u672c") == 4


CELLS = {
    "=cmd|'/c calc'!A0": "'=cmd|'/c calc'!A0",
    "+1+1": "'+1+1",
    "-2+3": "'-2+3",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t=1",
    "\r=1": "'\r=1",
    "\n=1": "'\n=1",
    "'=1": "''=1",
    "''@x": "'''@x",
    "'tis": "'tis",
    "-1": "-1",
    "+2.5e-3": "+2.5e-3",
    "ants": "ants",
    "a=b": "a=b",
    "": "",
}


@pytest.mark.parametrize(("text", "cell"), CELLS.items())
def test_no_cell_runs_in_a_spreadsheet_and_all_come_back(text, cell):
    assert guarded(text) == cell and unguarded(cell) == text


def test_numbers_stay_numbers(tmp_path):
    row = {"=name": "=1+1", "low": -0.25, "count": -3, "none": None}
    write_rows(tmp_path / "t.csv", [row])
    assert rows_of(tmp_path / "t.csv") == [
        {"'=name": "'=1+1", "low": "-0.25", "count": "-3", "none": ""}
    ]


def test_predictions_with_such_names_come_back(tmp_path):
    classes = tuple(name for name in CELLS if name)
    paths = [*CELLS, *NAMES]
    labels = np.arange(len(paths)) % len(classes)
    write_predictions(
        tmp_path / "p.csv",
        paths,
        np.eye(len(classes), dtype=np.float32)[labels],
        classes,
        labels=labels,
    )
    found = read_predictions(tmp_path / "p.csv")
    assert found.paths == tuple(paths) and found.classes == classes
    assert found.labels.tolist() == labels.tolist()
    data = (tmp_path / "p.csv").read_bytes()
    assert b",=cmd" not in data and b"\n=cmd" not in data and b"caf\xe9.jpg" in data


def test_table_of_photos_whose_names_are_no_utf8(tmp_path):
    write_rows(tmp_path / "t.csv", [{"photo": "caf\udce9.jpg", "psnr": 1.0}])
    assert b"caf\xe9.jpg,1\n" in (tmp_path / "t.csv").read_bytes()
