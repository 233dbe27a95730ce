"""A run that goes on is the run that began: its photos, its options, its tables."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from converters.to_torch import to_state_dict
from experiments import cifar10, transfer
from experiments.command.options import RunError, UsageError
from experiments.inference.classifier import MODEL
from experiments.runs.comparison import RESULTS
from experiments.training.backbones import Weights, build
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing
from tests import runs
from tests.faults.cifar import write_images
from tests.faults.plans import ACCURACIES, fit, make_plan
from tests.runs import StopAfter, check_same_run, metrics_of, rows_of, stop_after
from tests.test_transfer import photos as photos

resumed = partial(runs.resumed, cifar10.Config)
OPTIONS = {"batch_size": 4, "optim": {"lr": 0.1, "name": "sgd"}, "augment": "none"}


def stopped(folder, **options):
    fit(folder, make_plan(**options), stop=StopAfter(9))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("judged", "y", "validation photos are not those"),
        ("fingerprint", "y", "training photos are not those"),
        ("options", OPTIONS | {"batch_size": 8}, "batch_size is 8, and .* with 4"),
        (
            "options",
            OPTIONS | {"optim": {"lr": 0.2, "name": "sgd"}},
            "optim.lr is 0.2, and .* with 0.1",
        ),
        ("options", OPTIONS | {"augment": "full"}, "augment is full, and .* with none"),
    ],
)
def test_other_photos_or_options_are_another_run(tmp_path, name, value, message):
    begun = {"judged": "x", "fingerprint": "x", "options": OPTIONS}
    stopped(tmp_path, **begun)
    before = rows_of(tmp_path / "metrics.csv")
    with pytest.raises(UsageError, match=message):
        fit(tmp_path, make_plan(**begun | {name: value}))
    assert rows_of(tmp_path / "metrics.csv") == before
    fit(tmp_path, make_plan(**begun))


def test_what_may_change_is_said(tmp_path, capsys):
    stopped(tmp_path, options=OPTIONS | {"epochs": 6, "patience": 0})
    options = OPTIONS | {"epochs": 4, "patience": 0}
    history = fit(tmp_path, make_plan(ACCURACIES[:4], options=options))
    assert len(history) == 4
    assert "epochs is 4 from here on; the run began with 6" in capsys.readouterr().out


def test_checkpoint_in_mid_epoch_of_another_batch_size_is_one_line(tmp_path):
    """Of an older version, which did not note the options."""
    fit(tmp_path, stop=StopAfter(2))
    larger = make_plan(batch_size=4)  # one step an epoch instead of two
    with pytest.raises(UsageError, match="stands at step 1 of an epoch, which has 1"):
        fit(tmp_path, larger)


@pytest.mark.parametrize("text", ["", "epoch,loss\n1,2\n", None])
def test_table_that_was_cut_is_written_anew(tmp_path, text):
    fit(tmp_path)
    path = tmp_path / "metrics.csv"
    before = path.read_text()
    path.unlink() if text is None else path.write_text(text)
    fit(tmp_path)
    assert path.read_text() == before


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture
def config(images, tmp_path):
    return cifar10.Config(
        model=("fcn",), data=str(images), epochs=3, batch_size=16, output=tmp_path
    )


@pytest.fixture
def begun(config, monkeypatch):
    """A run that was stopped after its first epoch."""
    stop_after(monkeypatch, cifar10, config, looks=6)
    return config.output / "cifar10" / "1"


def edit(folder, **options):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | options))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 8),
        ("seed", 1),
        pytest.param("augment", "none", marks=pytest.mark.slow),
        pytest.param("dropout", 0.1, marks=pytest.mark.slow),
        pytest.param("ema", 0.5, marks=pytest.mark.slow),
        pytest.param("dtype", "bfloat16", marks=pytest.mark.slow),
        pytest.param("label_smoothing", 0.1, marks=pytest.mark.slow),
    ],
)
def test_edited_config_is_not_another_run_in_silence(begun, option, value):
    edit(begun, **{option: value})
    with pytest.raises(Exception, match=f"{option}|does not fit") as error:
        cifar10.main(resumed(begun))
    assert isinstance(error.value, ValueError)


def test_changed_validation_photos_are_noticed(begun, tmp_path):
    data = write_images(tmp_path / "fewer.npz", val=12)
    for split in ("x_test", "y_test"):  # the training half is the same
        assert len(np.load(data)[split]) == 12
    edit(begun, data=str(data))
    with pytest.raises(UsageError, match="(training|validation) photos are not"):
        cifar10.main(resumed(begun))


def test_moved_photos_are_accepted_and_noted(begun, images, tmp_path):
    moved = tmp_path / "moved.npz"
    shutil.copy(images, moved)
    cifar10.main(resumed(begun, "--data", str(moved)))
    assert len(metrics_of(begun)) == 3
    assert yaml.safe_load((begun / "config.yaml").read_text())["data"] == str(moved)
    other = write_images(tmp_path / "other.npz", seed=1)
    with pytest.raises(UsageError, match="training photos are not those"):
        cifar10.main(resumed(begun, "--data", str(other)))
    assert yaml.safe_load((begun / "config.yaml").read_text())["data"] == str(moved)


@pytest.mark.slow
def test_moved_photos_of_a_grid_are_looked_at_in_each_run(config, images, tmp_path):
    cifar10.main(replace(config, repeats=2, epochs=1))
    folder = tmp_path / "cifar10" / "1"
    other = write_images(tmp_path / "other.npz", seed=1)
    with pytest.raises(UsageError, match="training photos are not those"):
        cifar10.main(resumed(folder, "--data", str(other)))
    moved = tmp_path / "moved.npz"
    shutil.copy(images, moved)
    cifar10.main(resumed(folder, "--data", str(moved)))
    for path in (folder, *(p.parent for p in folder.glob(f"*/{RESULTS}"))):
        assert yaml.safe_load((path / "config.yaml").read_text())["data"] == str(moved)


def write_weights(path, seed):
    start = build(
        "resnet18",
        Weights(None, Preprocessing(), ""),
        num_classes=5,
        size=32,
        seed=seed,
    )
    _, params, stats = functionalize(start.model)
    save_file(to_state_dict(start.model, params, stats), path)


@pytest.mark.slow
def test_start_weights_may_be_gone_and_may_not_be_others(photos, tmp_path, monkeypatch):
    """The last layer alone is trained: the rest is the weights' file, or the model."""
    weights = tmp_path / "w.safetensors"
    write_weights(weights, seed=3)
    config = transfer.Config(
        backbone=("resnet18",),
        data=str(photos),
        weights=str(weights),
        epochs=3,
        batch_size=4,
        image_size=32,
        augment=("none",),
        freeze=("backbone",),
    )
    whole, other = (replace(config, output=tmp_path / name) for name in ("a", "b"))
    numbers = transfer.main(whole)
    stop_after(monkeypatch, transfer, other, looks=10)
    folder = tmp_path / "b" / "transfer" / "1"
    assert (folder / MODEL).is_file()
    write_weights(weights, seed=4)
    with pytest.raises(UsageError, match="frozen weights"):
        transfer.main(runs.resumed(transfer.Config, folder))
    weights.unlink()
    assert transfer.main(runs.resumed(transfer.Config, folder)) == numbers
    check_same_run(folder, tmp_path / "a" / "transfer" / "1")
    with pytest.raises((UsageError, RunError), match="w.safetensors does not exist"):
        transfer.main(replace(config, output=tmp_path / "c"))
