"""Processes killed or stopped at any moment: the others end, the run goes on."""

import random
import shutil
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxvision import checkpoint
from jaxvision.stream import is_possible
from tests.colours import write_colours
from tests.processes import ended, said, started
from tests.runs import check_same_run

pytestmark = pytest.mark.slow

HEARTBEAT = 20
MOMENTS = 10
INPUTS = ["resident", "stream"]
"""What a run reads whose process 0, and whose process 1, is killed."""


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The command of a training whose epochs take about as long as their saving."""
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    options = {
        "--data": write_colours(path, train=160, val=30),
        "--model": "fcn_baseline",
        "--epochs": 24,
        "--batch-size": 16,
        "--optim.lr": 0.001,
        "--heartbeat": HEARTBEAT,
    }
    return [word for pair in options.items() for word in pair]


def begin(folder, *words):
    """Two processes that are past their compilation, and the run."""
    both = started(2, 1, "experiments.cifar10", "--distributed", *words, folder=folder)
    until = time.monotonic() + 600
    while not any(line.startswith("compiled in") for line in said(folder, 0, "out")):
        assert time.monotonic() < until and both[0].poll() is None, said(folder, 0)
        time.sleep(0.01)
    return both, folder / "cifar10" / "1"


@pytest.fixture(scope="module")
def unbroken(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    both, run = begin(folder, *words, "--output", folder)
    assert ended(both) == [0, 0]
    return run


def others_end(both, victim, kill):
    """The seconds from a signal to one process until the other one has ended."""
    both[victim].send_signal(kill)
    begun = time.monotonic()
    assert ended([both[1 - victim]], timeout=300) != [0]
    seconds = time.monotonic() - begun
    ended([both[victim]]) if kill == signal.SIGKILL else both[victim].kill()
    return seconds


@pytest.mark.parametrize("victim", [0, 1])
def test_run_killed_at_ten_moments_ends_with_the_bits_of_an_unbroken_one(
    victim, words, unbroken, tmp_path
):
    if INPUTS[victim] == "stream" and not is_possible():
        pytest.skip("grain is not installed: '.[stream]'")
    chance = random.Random(victim)
    run = tmp_path / "cifar10" / "1"
    saving, while_saving = run / "checkpoints" / checkpoint.STAGING, 0
    first = [*words, "--output", tmp_path, "--input", INPUTS[victim]]
    for moment in range(MOMENTS):
        again = ["--resume", run, "--heartbeat", HEARTBEAT]
        before = checkpoint.steps(run / "checkpoints")[-1:]
        both, _ = begin(tmp_path, *(again if moment else first))
        # A half of them while a checkpoint is written, the others after one more.
        while checkpoint.steps(run / "checkpoints")[-1:] == before and not (
            moment % 2 and saving.exists()
        ):
            assert both[0].poll() is None
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1 if moment % 2 else 0.5))
        while_saving += saving.exists()
        seconds = others_end(both, victim, signal.SIGKILL)
        print(f"\nmoment {moment}: step {checkpoint.steps(run / 'checkpoints')[-1:]}")
        assert seconds < HEARTBEAT + 120
        if moment == MOMENTS // 2:
            shutil.copytree(run, tmp_path / "elsewhere" / "cifar10" / "1")
    assert while_saving >= 2
    again = ["experiments.cifar10", "--distributed", "--resume"]
    assert ended(started(2, 1, *again, run, folder=tmp_path)) == [0, 0]
    check_same_run(run, unbroken)
    # And on other devices, from where the sixth moment left it.
    moved = tmp_path / "elsewhere" / "cifar10" / "1"
    assert ended(started(1, 8, *again, moved, folder=tmp_path / "elsewhere")) == [0]
    ours, theirs = (load_file(at / "model.safetensors") for at in (moved, unbroken))
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, atol=1e-5)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_or_hung_peer_ends_the_other(victim, kill, words, tmp_path):
    both, _ = begin(tmp_path, *words, "--output", tmp_path)
    seconds = others_end(both, victim, kill)
    print(f"\n{kill.name} to process {victim}: the other ended after {seconds:.1f} s")
    assert seconds < HEARTBEAT + 120
    if victim == 1:
        (line,) = said(tmp_path, 0)
        assert "process 1 of 2: error: nothing was heard of it since" in line
