"""What is printed decides nothing: a closed pipe, a full disk, a narrow encoding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command.console import Console
from jaxvision import checkpoint
from tests.faults.plans import ACCURACIES
from tests.runs import rows_of

ROOT = Path(__file__).parents[2]
FIT = """
import sys
from pathlib import Path
from experiments.command.console import Console, complain
from tests.faults.plans import fit
Console().say("begun")
history = fit(Path(sys.argv[1]))
complain("ended")
Path(sys.argv[1], "ended").write_text(str(len(history)))
"""


def run_with(folder, **streams):
    command = [sys.executable, "-c", FIT, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, **streams)


def check_trained(process, folder):
    assert process.wait(timeout=300) == 0
    assert (folder / "ended").read_text() == str(len(ACCURACIES))
    rows = rows_of(folder / "metrics.csv")
    assert [float(row["val_accuracy"]) for row in rows] == list(ACCURACIES)
    assert checkpoint.steps(folder / "checkpoints")[-1] == 3 * len(ACCURACIES)


@pytest.mark.parametrize(
    "joined",
    [
        pytest.param(False, id="stdout", marks=pytest.mark.slow),
        pytest.param(True, id="both"),
    ],
)
def test_closed_pipe_stops_no_training(tmp_path, joined):
    err = subprocess.STDOUT if joined else subprocess.PIPE
    process = run_with(tmp_path, stdout=subprocess.PIPE, stderr=err)
    assert process.stdout.readline() == b"begun\n"
    process.stdout.close()
    if not joined:
        assert process.stderr.read() == b"ended\n"
        process.stderr.close()
    check_trained(process, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_of_the_log_stops_no_training(tmp_path):
    with open("/dev/full", "wb") as full:
        check_trained(run_with(tmp_path, stdout=full, stderr=full), tmp_path)


def test_no_output_at_all_stops_no_training(tmp_path):
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$0" -c "$1" {tmp_path} >&- 2>&-', sys.executable, FIT],
        cwd=ROOT,
    )
    check_trained(process, tmp_path)


def test_a_name_that_the_screen_cannot_show_is_shown_as_far_as_it_can(tmp_path):
    code = (
        "from experiments.command.console import Console\n"
        "Console().say('caf\\udce9 \\u732b')\nConsole().say('next')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"caf\\udce9 \\u732b\nnext\n"


def test_lines_are_said_where_standard_output_is_now(capsys):
    Console().say("here")
    assert capsys.readouterr().out == "here\n"


def test_an_epoch_is_saved_before_it_is_told(tmp_path, monkeypatch):
    from experiments.training import saved
    from tests.faults.plans import fit

    order = []
    save, say = saved.save, Console.say
    monkeypatch.setattr(
        saved, "save", lambda *x: order.append("save") or save(*x), raising=True
    )

    def told(console, line, **style):
        if line.startswith("epoch"):
            order.append("say")
        say(console, line, **style)

    monkeypatch.setattr(Console, "say", told)
    fit(tmp_path)
    assert order == ["save", "say"] * len(ACCURACIES)
