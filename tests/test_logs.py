"""`--log`: each epoch's numbers, once, in the places where people look."""

import os
import struct
from dataclasses import replace

import numpy as np
import pytest

from experiments import cifar10
from experiments.cifar10 import Config
from experiments.command.options import UsageError, parse
from experiments.runs import logs
from experiments.training import saved
from tests.colours import write_colours
from tests.runs import check_same_run, resumed, rows_of, stop_after


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    return Config(
        model=("fcn_baseline",),
        data=str(write_colours(folder / "colours.npz", train=64, val=16)),
        epochs=3,
        batch_size=16,
        augment="none",
        output=folder / "plain",
    )


@pytest.fixture(scope="module")
def plain(config):
    """A run that logs nowhere."""
    cifar10.main(config)
    return config.output / "cifar10" / "1"


def events_of(folder):
    """(tag, epoch) -> value, and the times, of all event files in a folder."""
    from tensorboardX.proto.event_pb2 import Event

    values, times = {}, {}
    for path in folder.glob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):  # a length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                key = value.tag, event.step
                assert key not in values, "an epoch is there twice"
                values[key], times[event.step] = value.simple_value, event.wall_time
    return values, times


def check_events(folder):
    """TensorBoard has the numbers of `metrics.csv`, to float32."""
    rows = rows_of(folder / "metrics.csv")
    values, times = events_of(folder / "tensorboard")
    expected = {
        (logs.tag(name), int(row["epoch"])): float(value)
        for row in rows
        for name, value in row.items()
        if name != "epoch"
    }
    assert values.keys() == expected.keys() and len(rows) == 3
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=1e-5), key
    assert ("loss/train", 3) in values and ("accuracy/val", 1) in values
    when = [times[epoch] for epoch in (1, 2, 3)]
    assert when == sorted(when)
    gaps, seconds = np.diff(when), [float(row["seconds"]) for row in rows[1:]]
    assert (gaps >= np.array(seconds) - 1e-3).all()


def test_tensorboard_has_the_numbers_of_metrics_csv(config, plain, tmp_path):
    pytest.importorskip("tensorboardX")
    cifar10.main(replace(config, log=("tensorboard",), output=tmp_path))
    run = tmp_path / "cifar10" / "1"
    check_events(run)
    check_same_run(run, plain)
    assert not (plain / "tensorboard").exists() and not (plain / "wandb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_run_that_goes_on_has_each_epoch_once(
    config, plain, tmp_path, monkeypatch, lost
):
    pytest.importorskip("tensorboardX")
    logged = replace(config, log=("tensorboard",), output=tmp_path)
    run = tmp_path / "cifar10" / "1"
    with monkeypatch.context() as patch:
        if lost:  # the process dies when the second epoch is logged, not yet saved
            save, count = saved.save, []

            def break_off(*arguments):
                count.append(1)
                if len(count) > 1:
                    raise KeyboardInterrupt
                save(*arguments)

            patch.setattr(saved, "save", break_off)
            with pytest.raises(KeyboardInterrupt):
                cifar10.main(logged)
        else:
            stop_after(patch, cifar10, logged, looks=8)
    values, _ = events_of(run / "tensorboard")
    assert {epoch for _, epoch in values} <= {1, 2}
    cifar10.main(resumed(Config, run))
    check_events(run)
    check_same_run(run, plain)


def test_package_that_is_missing_is_one_line(config, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    for name, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        wanted = parse(Config, ["--log", name], prog="x").log
        message = rf"--log {name}: {package} is not installed: .*jaxvision\[{name}\]"
        with pytest.raises(UsageError, match=message) as caught:
            cifar10.main(replace(config, log=wanted, output=tmp_path))
        assert "\n" not in str(caught.value)
    assert parse(Config, [], prog="x").log == ()


def test_nothing_is_opened_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "KINDS", {})
    with logs.open_logs(tmp_path, {}) as write:
        write([{"epoch": 1, "seconds": 1.0}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wandb_is_written_on_disk_and_sent_nowhere(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_MODE", raising=False)
    rows = [{"epoch": i, "train_loss": 1 / i, "seconds": 2.0} for i in (1, 2, 3)]
    for end in (1, 2):  # the second start replaces what the first one left
        with logs.open_logs(tmp_path, {"log": ["wandb"]}) as write:
            write(rows[:end])
            write(rows[: end + 1])
    assert os.environ["WANDB_MODE"] == "offline"
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    data, at, found = file.read_bytes(), 7, []
    assert len(data) < 2**15  # one block, in which no record is cut
    while at < len(data):
        _, length, _ = struct.unpack("<IHB", data[at : at + 7])
        record = Record.FromString(data[at + 7 : at + 7 + length])
        at += 7 + length
        if record.WhichOneof("record_type") == "history":
            names = {
                item.key or ".".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            found.append((int(names["_step"]), float(names["loss/train"])))
    assert found == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
