"""What is wrong with the weights to start from is said before anything is trained."""

from dataclasses import replace

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from converters.from_torch import ConversionError, convert
from converters.to_torch import to_state_dict
from experiments import transfer
from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.inference.classifier import MODEL
from experiments.training import loop
from experiments.training.backbones import resumed_weights
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.optim import Optim
from tests.photos import make_folder
from tests.runs import check_same_run, resumed, stop_after


def tensors(name, num_classes=1000):
    model = models.create(name, num_classes=num_classes, rngs=nnx.Rngs(0))
    return to_state_dict(model, *functionalize(model)[1:])


@pytest.fixture(scope="module")
def resnet18():
    return tensors("resnet18", 3)


@pytest.fixture
def config(tmp_path):
    photos = make_folder(
        tmp_path / "p", {f"{split}/{c}": 3 for split in ("train", "val") for c in "abc"}
    )
    return lambda **options: transfer.Config(
        data=photos,
        image_size=32,
        batch_size=8,
        epochs=1,
        augment=("none",),
        output=tmp_path / "runs",
        **options,
    )


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_weights_that_are_not_finite_are_named(resnet18, config, tmp_path, value, word):
    spoilt = {name: array.copy() for name, array in resnet18.items()}
    spoilt["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    save_file(spoilt, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=f"layer1.0.conv1.weight holds {word}"):
        transfer.main(
            config(backbone=("resnet18",), weights=str(tmp_path / "w.safetensors"))
        )
    assert not (tmp_path / "runs").exists()


def test_statistics_that_are_not_finite_are_named(resnet18):
    spoilt = resnet18 | {"bn1.running_var": np.full(64, np.nan, np.float32)}
    with pytest.raises(ConversionError, match="bn1.running_var holds NaN"):
        convert(models.abstract("resnet18", num_classes=3), spoilt)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "FILE"}, "mobilenet_v2: --weights: the tensors do not fit"),
        ({"weights": "random", "image_size": 24}, "densenet121 takes images of 29"),
    ],
)
def test_all_runs_are_looked_at_before_the_first(
    resnet18, config, tmp_path, options, message
):
    file = tmp_path / "w.safetensors"
    save_file(resnet18, file)
    options = {k: str(file) if v == "FILE" else v for k, v in options.items()}
    other = message.split(":")[0].split()[0]
    size = options.pop("image_size", 32)
    both = config(backbone=("resnet18", other), **options)
    with pytest.raises(UsageError, match=message):
        transfer.main(replace(both, image_size=size))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_run_stopped_in_its_first_epoch_needs_no_weights_file(
    resnet18, config, tmp_path, monkeypatch
):
    """Its checkpoint has every weight; where a part is frozen the file is asked for."""
    file = tmp_path / "w.safetensors"
    save_file(resnet18, file)
    options = config(
        backbone=("resnet18",), weights=str(file), optim=Optim(name="adam", lr=1e-3)
    )
    options = replace(options, batch_size=2)
    whole = replace(options, output=tmp_path / "whole")
    numbers = transfer.main(whole)
    stop_after(monkeypatch, transfer, options, looks=2)
    folder = tmp_path / "runs/transfer/1"
    assert not (folder / MODEL).exists()
    file.unlink()
    assert transfer.main(resumed(transfer.Config, folder)) == numbers
    check_same_run(folder, tmp_path / "whole/transfer/1")
    (folder / MODEL).unlink()
    with pytest.raises(UsageError, match="w.safetensors"):
        resumed_weights(
            "resnet18", str(file), folder, freeze="layer1", console=Console()
        )


def test_cure_of_a_diverged_run_is_a_new_one(tmp_path):
    words = loop.diverged(tmp_path, 0, 1)
    assert "Start a new run with a smaller --optim.lr" in words
    assert "--resume goes on by the run's own options" in words
