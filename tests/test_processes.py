"""One program, any number of processes: the same numbers, one writer, one end."""

import json
import signal
import time

import numpy as np
import pytest

from jaxvision import checkpoint, processes
from jaxvision.stream import is_possible
from tests.colours import write_colours
from tests.processes import ended, said, started
from tests.runs import check_close_run, check_same_run, metrics_of

LAYOUTS = [(1, 2), (1, 8), (2, 1), (2, 4)]
"""Processes, and devices of each."""


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """160 to train, 30 to judge, no multiple of 16."""
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    return write_colours(path, train=160, val=30)


def losses(layout, npz, folder, *programs):
    """Program -> the losses of 20 steps in float64, and that of validation."""
    out = folder / "losses.json"
    words = ("tests.process_worker", npz, out, *programs)
    assert ended(started(*layout, *words, folder=folder)) == [0] * layout[0]
    return json.loads(out.read_text())


def check_same_losses(layout, npz, folder, *programs):
    alone = losses((1, 1), npz, folder / "alone", *programs)
    many = losses(layout, npz, folder / "many", *programs)
    if "stream" in programs:
        assert many["stream"] == many["cifar10"]  # to the bit, on each layout
    for program in programs:
        assert len(alone[program]) == 21 and min(np.diff(alone[program][:20])) < 0
        np.testing.assert_allclose(many[program], alone[program], rtol=1e-12)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(npz, tmp_path):
    check_same_losses((2, 1), npz, tmp_path, "cifar10")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_are_the_same_on_any_devices(layout, npz, tmp_path):
    check_same_losses(layout, npz, tmp_path, "cifar10", "transfer")


@pytest.mark.slow
@pytest.mark.skipif(not is_possible(), reason="grain is not installed: '.[stream]'")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_streamed_photos_have_the_losses_of_resident_ones(layout, npz, tmp_path):
    check_same_losses(layout, npz, tmp_path, "cifar10", "stream")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_in_parts_have_the_losses_of_whole_ones(layout, npz, tmp_path):
    alone = losses((1, 1), npz, tmp_path / "alone", "cifar10", "transfer")
    many = losses(layout, npz, tmp_path / "many", "shard", "shard_resnet")
    np.testing.assert_allclose(many["shard"], alone["cifar10"], rtol=1e-12)
    np.testing.assert_allclose(many["shard_resnet"], alone["transfer"], rtol=1e-12)


def program(npz, folder, *more, epochs=6):
    """The words of a small training."""
    options = {
        "--data": npz,
        "--model": "fcn_baseline",
        "--epochs": epochs,
        "--batch-size": 16,
        "--optim.lr": 0.001,
        "--heartbeat": 15,
        "--output": folder,
    }
    words = [word for pair in options.items() for word in pair]
    return ["experiments.cifar10", "--distributed", *words, *more]


def resumed(run):
    return ["experiments.cifar10", "--distributed", "--resume", run]


@pytest.fixture(scope="module")
def unbroken(npz, tmp_path_factory):
    """A run of two processes of a device each, to its end; and what they said."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert ended(started(2, 1, *program(npz, folder), folder=folder)) == [0, 0]
    return folder


def wait_for(condition, processes):
    until = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < until
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def begun(npz, folder):
    """Two processes that train, and have saved their first epoch."""
    both = started(2, 1, *program(npz, folder), folder=folder)
    run = folder / "cifar10" / "1"
    wait_for(lambda: checkpoint.steps(run / "checkpoints"), both)
    return both, run


@pytest.mark.slow
def test_first_process_alone_writes_and_speaks(unbroken):
    assert [path.name for path in (unbroken / "cifar10").iterdir()] == ["1"]
    assert said(unbroken, 1) == said(unbroken, 1, "out") == []
    assert "last epoch" in said(unbroken, 0, "out")[-1]
    text = (unbroken / "cifar10" / "1" / "config.yaml").read_text()
    assert "processes: 2" in text and "\nheartbeat:" not in text


@pytest.mark.slow
def test_killed_process_ends_the_other_and_the_run_goes_on_to_the_same_bits(
    npz, unbroken, tmp_path
):
    both, run = begun(npz, tmp_path)
    both[1].kill()
    killed = time.monotonic()
    assert ended(both) == [1, -signal.SIGKILL]
    assert time.monotonic() - killed < 15 + 30  # the heartbeat, and a busy machine
    (line,) = said(tmp_path, 0)
    assert "process 1 of 2: error: nothing was heard of it since" in line
    assert len(metrics_of(run)) < 6
    again = started(2, 1, *resumed(run), folder=tmp_path)
    assert ended(again) == [0, 0]
    check_same_run(run, unbroken / "cifar10" / "1")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(1, 1), (1, 8)])
def test_run_stopped_by_one_process_goes_on_on_other_devices(
    layout, npz, unbroken, tmp_path
):
    both, run = begun(npz, tmp_path)
    both[1].send_signal(signal.SIGTERM)
    assert ended(both) == [128 + signal.SIGTERM] * 2
    (line,) = said(tmp_path, 0)
    assert "all is saved" in line and said(tmp_path, 1) == []
    assert ended(started(*layout, *resumed(run), folder=tmp_path)) == [0] * layout[0]
    assert len(metrics_of(run)) == 6
    check_close_run(run, unbroken / "cifar10" / "1")


@pytest.mark.slow
def test_process_with_other_data_or_options_is_named(npz, tmp_path):
    with np.load(npz) as arrays:
        data = dict(arrays)
    for index in (0, 1):
        (tmp_path / str(index)).mkdir()
        data["x_train"] = data["x_train"] ^ index
        np.savez(tmp_path / str(index) / "here.npz", **data)
    words = program("here.npz", tmp_path)
    assert ended(started(2, 1, *words, folder=tmp_path)) == [2, 2]
    (line,) = said(tmp_path, 0)
    assert "process 1 on " in line and "other training photos than process 0" in line
    each = (["--seed", 0], ["--seed", 1])
    assert ended(started(2, 1, *words, folder=tmp_path, each=each)) == [2, 2]
    assert "--seed is 1, and 0 on process 0" in said(tmp_path, 0)[0]
    (tmp_path / "1" / "here.npz").unlink()
    assert sorted(ended(started(2, 1, *words, folder=tmp_path))) == [1, 2]
    assert "process 1 of 2" in said(tmp_path, 0)[0]
    assert not (tmp_path / "cifar10").exists()


def test_alone_everything_is_agreed_on():
    assert processes.is_first() and processes.count() == 1
    assert processes.gather("a") == ["a"]
    assert processes.from_first(lambda: {"loss": 0.1, "none": None}) == {
        "loss": 0.1,
        "none": None,
    }
    assert processes.differences({"data": "x"}) == ""
    processes.finish()
    processes.fail("nothing happens", say=pytest.fail, code=1)


def test_what_differs_is_named(monkeypatch):
    texts = [
        json.dumps(["a", {"--seed": "0", "data": "1" * 64}]),
        json.dumps(["b", {"--seed": "0", "data": "1" * 64}]),
        json.dumps(["c", {"--seed": "1", "data": "2" * 64}]),
    ]
    monkeypatch.setattr(processes, "gather", lambda _: texts)
    assert processes.differences({}) == (
        "process 2 on c: --seed is 1, and 0 on process 0; other data than process 0"
    )
