"""Signals: each of them stops and saves; the way on can be pasted into a shell."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.command.signals import interrupted, stop_on_signals

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signal_asks_to_stop_and_names_the_exit_code(name, capsys):
    signum = getattr(signal, name)
    before = signal.getsignal(signum)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), signum)
        assert stop and stop.signum == signum
    assert signal.getsignal(signum) == before
    with pytest.raises(SystemExit) as exit_info:
        interrupted(Path("run"), "experiments.x", stop)
    assert exit_info.value.code == 128 + signum


def test_hang_up_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "name", ["plain", "runs [v2]", "it's $HOME; a*", "a\nb'c", "\udcff"]
)
def test_way_on_is_one_word_of_a_shell(tmp_path, capsys, name):
    with stop_on_signals() as stop, pytest.raises(SystemExit):
        interrupted(tmp_path / name, "experiments.x", stop)
    _, command = capsys.readouterr().err.split("To go on: ")
    assert command.count("\n") == 1
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True
    )
    words = [os.fsdecode(word) for word in said.stdout.split(b"\0")[:-1]]
    assert words[-2:] == ["--resume", str(tmp_path / name)] and len(words) == 5


@pytest.mark.app
@pytest.mark.parametrize("program", ["transfer", "superres"])
def test_ctrl_c_while_it_imports_is_no_traceback(program):
    process = subprocess.Popen(
        [sys.executable, "-v", "-m", f"experiments.{program}", "--help"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:  # until jax is being imported
        said.append(line)
        if "import 'jax" in line:
            break
    process.send_signal(signal.SIGINT)
    said += process.stderr.readlines()
    assert process.wait(timeout=60) in (-signal.SIGINT, 128 + signal.SIGINT)
    assert "Traceback" not in "".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_run_that_is_hung_up_goes_on(tmp_path, name):
    from tests.faults.cifar import command, write_images

    images = write_images(tmp_path / "images.npz")
    process = subprocess.Popen(
        command(images, tmp_path, "--epochs", "5000"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "cifar10" / "1"
    for _ in range(900):
        if (folder / "metrics.csv").exists():
            break
        time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert f"--resume {folder}" in err and "Traceback" not in err
