"""Photos that are streamed: the same order, the same bits, whatever happens."""

import shutil
import signal
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
import yaml

from experiments import cifar10, transfer
from experiments.command import memory
from experiments.command.console import Console
from experiments.command.options import RunError, UsageError
from experiments.training import loop
from experiments.training.loop import straggler
from jaxvision import checkpoint, parallel, stream
from jaxvision.data import list_dataset, open_dataset
from jaxvision.data.lazy import LazyImages
from jaxvision.optim import Optim
from tests import runs
from tests.colours import write_colours
from tests.photos import SIZES, bad_file, make_folder
from tests.processes import ended, started
from tests.runs import check_same_run, metrics_of, stop_after
from tests.test_transfer import config as config
from tests.test_transfer import finished as finished
from tests.test_transfer import photos as photos

pytest.importorskip("grain", reason="grain is not installed: pip install '.[stream]'")


@pytest.fixture
def folder(tmp_path):
    """Twelve photos to train on, and five to judge by."""
    counts = {"train/a": 6, "train/b": 6, "val/a": 3, "val/b": 2}
    return tmp_path, make_folder(tmp_path / "set", counts)


def opened(root):
    return list_dataset(root, **SIZES)


def batches(dataset, order, start, stop, batch_size=4):
    data = {"image": dataset.train.images, "label": dataset.train.labels}
    one = stream.Stream(data, batch_size=batch_size, mesh=parallel.make_mesh())
    found = list(one.take(order, start, stop))
    one.close()
    return [(np.asarray(b["image"][0]), np.asarray(b["label"][0])) for b in found]


@pytest.mark.parametrize("start", [0, 2])
def test_batches_are_those_of_the_resident_set(folder, start):
    listing = opened(folder[1])
    resident, streamed = listing.read(), listing.stream()
    assert isinstance(streamed.train.images, LazyImages) and streamed.is_streamed
    assert tuple(streamed.train.paths) == resident.train.paths
    np.testing.assert_array_equal(streamed.val.images[:], resident.val.images)
    order = jax.random.permutation(jax.random.key(0), 12)
    found = batches(streamed, order, start, 3)
    assert len(found) == 3 - start
    for index, (images, labels) in enumerate(found, start):
        places = np.asarray(order)[4 * index : 4 * index + 4]
        np.testing.assert_array_equal(images, resident.train.images[places])
        np.testing.assert_array_equal(labels, resident.train.labels[places])


def test_stream_that_is_asked_elsewhere_begins_there(folder):
    streamed = opened(folder[1]).stream()
    data = {"image": streamed.train.images, "label": streamed.train.labels}
    one = stream.Stream(data, batch_size=4, mesh=parallel.make_mesh())
    order = jax.numpy.arange(12)
    (first,) = one.take(order, 0, 1)
    (third,) = one.take(order, 2, 3)
    (again,) = one.take(jax.numpy.arange(12)[::-1], 2, 3)
    one.close()
    labels = [np.asarray(b["label"][0]).tolist() for b in (first, third, again)]
    assert labels == [[0] * 4, [1] * 4, [0] * 4]


def test_unreadable_photo_is_replaced_by_the_next_one(folder):
    root = folder[1]
    for name in ("train/a/1.png", "train/b/5.png"):
        bad_file(folder[0] / "set" / name, "truncated.png")
    resident = open_dataset(root, **SIZES)
    streamed = opened(root).stream()
    (images, labels), *_ = batches(streamed, jax.numpy.array([1, 11, 2, 0]), 0, 1)
    # Of twelve the first and the last but one stayed: 2 in place of 1, 0 of 11.
    assert labels.tolist() == [0, 0, 0, 0]
    readable = resident.train.images
    np.testing.assert_array_equal(images, readable[[1, 0, 1, 0]])
    assert set(streamed.train.images.bad) == {1, 11} and len(readable) == 10


def test_photos_that_are_all_gone_end_the_run(folder):
    root = folder[1]
    streamed = opened(root).stream()
    shutil.rmtree(root)
    with pytest.raises(stream.StreamError, match="12 photos in a row cannot be read"):
        batches(streamed, jax.numpy.arange(12), 0, 1)


def test_outputs_leave_out_what_cannot_be_read(folder):
    bad_file(folder[0] / "set" / "val" / "a" / "1.png", "truncated.png")
    images = opened(folder[1]).stream().val.images
    out, there = stream.outputs(
        lambda params, stats, images: images.astype(np.float32).mean((1, 2)),
        {},
        {},
        images,
        batch_size=4,
        mesh=parallel.make_mesh(),
    )
    assert there.tolist() == [True, False, True, True, True]
    expected = images[:].astype(np.float32).mean((1, 2))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.slow
def test_streamed_run_has_the_bits_of_a_resident_one(finished, config):
    numbers = transfer.main(replace(config, input="stream"))
    newest = max((config.output / "transfer").iterdir(), key=lambda p: int(p.name))
    assert yaml.safe_load((newest / "config.yaml").read_text())["input"] == "stream"
    check_same_run(newest, finished[0])
    assert numbers == finished[1]
    for name in ("predictions.csv", "config.yaml"):
        assert (newest / name).is_file()
    ours, theirs = (path / "predictions.csv" for path in (newest, finished[0]))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("looks", [5, 30])
def test_streamed_run_stopped_in_mid_epoch_goes_on_to_the_same_bits(
    looks, finished, config, tmp_path, monkeypatch
):
    streamed = replace(config, input="stream", output=tmp_path)
    monkeypatch.setattr(loop, "STRETCH_SECONDS", 0)  # a look before each step
    stop_after(monkeypatch, transfer, streamed, looks=looks)
    run = tmp_path / "transfer" / "1"
    (step,) = checkpoint.steps(run / "checkpoints")[-1:]
    assert step % 19  # of the 18 steps of an epoch some are left
    transfer.main(runs.resumed(transfer.Config, run))
    check_same_run(run, finished[0])


@pytest.mark.slow
def test_streamed_run_killed_in_mid_epoch_goes_on_to_the_same_bits(tmp_path):
    data = write_colours(tmp_path / "colours.npz", train=400, val=10)
    words = ["experiments.cifar10", "--data", data, "--model", "fcn_baseline"]
    words += ["--epochs", 6, "--batch-size", 16, "--optim.lr", 0.001]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    whole = started(1, 1, *words, "--output", unbroken, folder=tmp_path / "a")
    assert ended(whole) == [0]
    words += ["--input", "stream", "--output", killed]
    (process,) = started(1, 1, *words, folder=tmp_path / "b")
    run = killed / "cifar10" / "1"
    while len(checkpoint.steps(run / "checkpoints")) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert ended([process]) == [-signal.SIGKILL] and len(metrics_of(run)) < 6
    words = ["experiments.cifar10", "--resume", run]
    assert ended(started(1, 1, *words, folder=tmp_path / "c")) == [0]
    check_same_run(run, unbroken / "cifar10" / "1")


@pytest.mark.slow
def test_last_layer_alone_is_trained_on_what_a_stream_sees(config, tmp_path):
    alone = replace(config, output=tmp_path, freeze=("backbone",), augment=("none",))
    for how in ("resident", "stream"):
        transfer.main(replace(alone, input=how))
    check_same_run(tmp_path / "transfer" / "1", tmp_path / "transfer" / "2")


def of_arrays(folder):
    """A short run of a small net over images that are an array."""
    data = write_colours(folder / "colours.npz", train=48, val=10)
    return cifar10.Config(
        data=str(data),
        model=("fcn_baseline",),
        epochs=2,
        batch_size=16,
        optim=Optim(lr=0.001),
        output=folder,
    )


@pytest.mark.slow
def test_arrays_are_streamed_too(tmp_path):
    small = of_arrays(tmp_path)
    for how in ("resident", "stream"):
        cifar10.main(replace(small, input=how))
    check_same_run(tmp_path / "cifar10" / "1", tmp_path / "cifar10" / "2")


@pytest.mark.slow
def test_unreadable_photos_are_named_at_the_end(config, photos, tmp_path, capsys):
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    for name in ("train/red/3.png", "val/green/1.png"):
        bad_file(data / name, "truncated.png")
    transfer.main(
        replace(config, data=str(data), input="stream", epochs=1, output=tmp_path)
    )
    run = tmp_path / "transfer" / "1"
    skipped = (run / "skipped.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in skipped] == [
        str(data / "train" / "red" / "3.png"),
        str(data / "val" / "green" / "1.png"),
    ]
    assert len((run / "predictions.csv").read_text().splitlines()) == 1 + 8
    assert "2 photos were left out" in capsys.readouterr().out


@pytest.mark.slow
def test_photos_that_vanish_end_the_run_with_a_line(config, photos, tmp_path):
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    streamed = replace(config, data=str(data), input="stream", output=tmp_path)
    opener = transfer.make_classifier

    def vanish(*args, **kwargs):
        shutil.rmtree(data)
        return opener(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "make_classifier", vanish)
        with pytest.raises(RunError, match="photos in a row cannot be read"):
            transfer.main(streamed)


def test_input_is_chosen_by_the_budget(monkeypatch, capsys):
    choose = memory.choose_input
    console = Console()
    gib = memory.GIB
    monkeypatch.setattr(memory, "machine_memory", lambda: 4 * gib)
    assert choose(memory.Memory(), gib, console=console) == "resident"
    assert choose(memory.Memory(), gib + 1, console=console) == "stream"
    assert choose(memory.Memory(memory=2.0), gib + 1, console=console) == "resident"
    assert choose(memory.Memory("stream"), 5, console=console) == "stream"
    assert choose(memory.Memory("resident"), 99 * gib, console=console) == "resident"
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1.0 GiB of decoded photos, of 1.0 GiB (a quarter of")
    assert "> 1.0 GiB" in said[1] and said[1].endswith(": streamed")
    monkeypatch.setattr(stream, "is_possible", lambda: False)
    with pytest.raises(UsageError, match=r"needs grain, pip install 'jaxvision\[stre"):
        choose(memory.Memory(memory=0.5), gib, console=console)


@pytest.mark.slow
def test_run_from_before_there_were_streams_stays_resident(tmp_path, monkeypatch):
    """Its config.yaml has no `input`, and its checkpoint knows its photos by pixels."""
    config = of_arrays(tmp_path)
    cifar10.main(config)
    monkeypatch.setattr(loop, "STRETCH_SECONDS", 0)
    stop_after(monkeypatch, cifar10, config, looks=5)
    whole, run = (tmp_path / "cifar10" / name for name in "12")
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved.pop("input") == "resident"
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    monkeypatch.setattr(memory, "machine_memory", lambda: 1)
    assert memory.choose_input(memory.Memory(), 5, console=Console()) == "stream"
    cifar10.main(runs.resumed(cifar10.Config, run))
    check_same_run(run, whole)


def test_a_straggler_is_said():
    assert straggler([0.04, 0.01]) == "" == straggler([0.0])
    assert straggler([0.01, 0.2]) == "  20% waits for photos of process 1"
    assert straggler([0.31]) == "  31% waits for photos"
