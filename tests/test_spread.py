"""A model in parts on all devices: its checkpoints, and runs that go on elsewhere."""

import signal

import pytest

from jaxvision import checkpoint
from tests.checkpoint_worker import flip
from tests.colours import write_colours
from tests.processes import ended, said, started
from tests.runs import check_close_run, metrics_of
from tests.test_processes import wait_for

pytestmark = pytest.mark.slow


def work(layout, folder, act, step, name):
    words = ("tests.checkpoint_worker", folder / "steps", act, step)
    at = folder / name
    codes = ended(started(*layout, *words, folder=at))
    assert codes == [0] * layout[0], said(at, 0) + said(at, layout[0] - 1)


def test_parts_are_saved_by_all_and_restored_on_any_devices(tmp_path):
    work((2, 4), tmp_path, "save", 2, "save")
    steps = tmp_path / "steps"
    assert sorted(path.name for path in steps.iterdir()) == ["1", "2"]
    written = sorted((steps / "2" / "state" / "ocdbt.process_1" / "d").iterdir())
    assert written  # the second process has written its own
    for layout in [(2, 4), (1, 8), (1, 1)]:
        work(layout, tmp_path, "restore", 2, f"restore{layout}")
    flip(written[-1])
    work((1, 8), tmp_path, "restore", 1, "damaged")


def test_part_of_another_process_is_read_again_before_the_step_appears(tmp_path):
    words = ("tests.checkpoint_worker", tmp_path / "steps", "spoil", 3)
    at = tmp_path / "spoil"
    codes = ended(started(2, 4, *words, folder=at), timeout=100)
    assert codes[0] == 3, said(at, 0) + said(at, 1)
    (line,) = [line for line in said(at, 0) if "cannot be saved" in line]
    assert "is not what was written" in line
    assert checkpoint.steps(tmp_path / "steps") == []


def test_parts_of_one_process_are_restored_by_two(tmp_path):
    work((1, 8), tmp_path, "save", 2, "save")
    work((2, 4), tmp_path, "restore", 2, "restore")


def test_run_in_parts_goes_on_on_other_devices_and_back(tmp_path):
    data = write_colours(tmp_path / "colours.npz", train=160, val=30)
    program = ["experiments.cifar10", "--distributed"]
    words = [*program, "--data", data, "--model", "fcn_baseline", "--epochs", 6]
    words += ["--batch-size", 16, "--optim.lr", 0.001, "--heartbeat", 30]
    whole = tmp_path / "whole"
    assert ended(started(1, 1, *words, "--output", whole, folder=whole)) == [0]
    parts = tmp_path / "parts"
    words += ["--shard", "params", "--output", parts]
    run, ending = parts / "cifar10" / "1", 0
    for layout in [(2, 4), (1, 8), (2, 2), (1, 1)]:
        begun = len(checkpoint.steps(run / "checkpoints")) and metrics_of(run)
        again = [*program, "--resume", run, "--heartbeat", 30]
        both = started(*layout, *(again if begun else words), folder=parts)
        count, ending = len(begun or []), ending + 1
        if layout != (1, 1):
            wait_for(
                lambda n=count: (
                    (run / "metrics.csv").is_file() and len(metrics_of(run)) > n
                ),
                both,
            )
            both[-1].send_signal(signal.SIGTERM)
            assert ended(both) == [128 + signal.SIGTERM] * layout[0]
        else:
            assert ended(both) == [0]
    assert len(metrics_of(run)) == 6
    check_close_run(run, whole / "cifar10" / "1")
