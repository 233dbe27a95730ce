"""One writer a run: who is second is told so; what a killed one left is swept."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from experiments.command.console import Console
from experiments.command.options import RunError
from experiments.runs import grid
from experiments.runs.folder import Run
from experiments.runs.writer import HOLDER, LOCK, one_writer
from tests.grids import cells_of, fake
from tests.grids import quick as quick

HOLD = """
import sys, time
from pathlib import Path
from experiments.runs.writer import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """A process that writes into the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_writes_and_a_kill_lets_go(tmp_path, held):
    run_cell, calls = fake()
    for _ in range(2):
        with pytest.raises(RunError) as error:
            grid.run(cells_of(), Run(tmp_path, {}), run_cell, console=Console())
        line = str(error.value)
        assert f"{tmp_path} is in use by process {held.pid} on " in line
        assert time.strftime("since %Y-%m-%d") in line and "\n" not in line
    assert calls == []
    held.kill()
    held.wait()
    with one_writer(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == [LOCK]


def test_a_run_of_a_grid_is_held_by_itself(tmp_path):
    run_cell, calls = fake()
    cells = cells_of(freeze=("none",))

    def second(cell, run):
        with pytest.raises(RunError, match=f"{run.path} is in use"):
            with one_writer(run.path):
                pass
        with pytest.raises(RunError, match="is in use"):
            grid.run(cells, Run(tmp_path, {}), run_cell, console=Console())
        return run_cell(cell, run)

    grid.run(cells, Run(tmp_path, {}), second, console=Console())
    assert calls == ["small", "large"]


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    left = [
        ".model.a1b2c3d4.safetensors",
        ".report.abcdefgh.html",
        ".curves.a_b_c_d_.png",
        ".metrics.00000000.csv",
        ".results.abcd1234.json",
        ".config.abcd1234.yaml",
        "..running.abcd1234.json",
        HOLDER,
    ]
    others = [
        "model.safetensors",
        ".model.safetensors",
        ".model.backup.safetensors",
        ".notes.abcd1234.html",
        ".report.ABCD1234.html",
        "report.abcd1234.html",
    ]
    for name in (*left, *others):
        (tmp_path / name).touch()
    (tmp_path / ".report.aaaaaaaa.html").mkdir()
    saving = tmp_path / "checkpoints" / ".saving" / "3"
    saving.mkdir(parents=True)
    (saving.parents[1] / "2").mkdir()
    with one_writer(tmp_path):
        pass
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {*others, LOCK, "checkpoints", ".report.aaaaaaaa.html"}
    assert os.listdir(tmp_path / "checkpoints") == ["2"]


def test_atomic_files_have_the_names_that_are_swept(tmp_path, monkeypatch):
    from experiments.runs.writer import FILES, sweep
    from jaxvision import files

    def killed(*_):
        raise KeyboardInterrupt

    for name in FILES:
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            patch.setattr(files.Path, "unlink", lambda *_, **__: None)
            with files.atomic_path(tmp_path / name):
                killed()
    assert len(list(tmp_path.iterdir())) == len(FILES)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    shutil.rmtree(tmp_path)
