"""The fine-tuning itself: outputs, exact resume, errors of one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from converters.bundle import load_bundle
from experiments import transfer
from experiments.command.console import Console
from experiments.command.options import RunError, UsageError, parse
from experiments.command.signals import Stop
from experiments.training import loop
from experiments.transfer import Config
from jaxvision import checkpoint
from jaxvision.optim import Optim
from jaxvision.train import TrainState
from tests import runs
from tests.runs import check_same_run, metrics_of, rows_of, stop_after

ROOT = Path(__file__).parents[1]
CLASSES = ("blue", "green", "red")

resumed = partial(runs.resumed, Config)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of noisy photos whose class is their colour: 72 to train, 9 to judge."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 3)):
        for channel, name in enumerate(reversed(CLASSES)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (40, 48, 3))
                pixels[..., channel] += 120
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def config(photos, tmp_path_factory):
    return Config(
        backbone=("resnet18",),
        data=str(photos),
        weights="random",
        epochs=3,
        batch_size=4,
        image_size=32,
        optim=Optim(lr=0.02),
        output=tmp_path_factory.mktemp("runs"),
    )


@pytest.fixture(scope="module")
def finished(config):
    """The folder and the numbers of an unbroken run."""
    numbers = transfer.main(config)
    return config.output / "transfer" / "1", numbers


@pytest.mark.floor
def test_run_learns_colours_and_leaves_every_file(finished):
    folder, numbers = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "confusion.png",
        "curves.png",
        "metrics.csv",
        "mistakes.png",
        "model.safetensors",
        "predictions.csv",
        "report.html",
        "results.json",
    }
    assert numbers["val_accuracy"] > 0.6  # chance is 0.33
    rows = metrics_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert max(float(r["val_accuracy"]) for r in rows) == pytest.approx(
        numbers["val_accuracy"], abs=1e-6
    )


def test_config_says_what_a_number_needs(finished, config):
    values = yaml.safe_load((finished[0] / "config.yaml").read_text())
    assert values["backbone"] == ["resnet18"] and values["optim"]["lr"] == 0.02
    said = values["environment"]
    assert {"command", "device", "git", "convolutions", "versions"} <= set(said)
    assert parse(
        Config, ["--config", str(finished[0] / "config.yaml")], prog="x"
    ) == replace(
        config,
        dtype="float32",
        input="resident",
        config=finished[0] / "config.yaml",
    )


def test_predictions_are_those_of_the_saved_model(finished):
    folder, numbers = finished
    rows = rows_of(folder / "predictions.csv")
    assert len(rows) == 9 and all(Path(row["path"]).is_file() for row in rows)
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == pytest.approx(numbers["val_accuracy"])
    for row in rows:
        shares = [float(row[name]) for name in CLASSES]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert CLASSES[int(np.argmax(shares))] == row["prediction"]


def test_model_file_holds_classes_and_preprocessing(finished):
    bundle = load_bundle(finished[0] / "model.safetensors")
    assert bundle.name == "resnet18" and bundle.classes == CLASSES
    assert (bundle.preprocessing.resize, bundle.preprocessing.crop) == (37, 32)


@pytest.mark.torch
def test_model_file_loads_in_pytorch_and_predicts_the_same(finished):
    torch = pytest.importorskip("torch")
    from converters.torchvision_import import import_torchvision

    torchvision = import_torchvision()
    from safetensors.torch import load_file as load_torch

    from jaxvision.preprocess import normalize, to_float

    folder = finished[0]
    model = torchvision.models.resnet18(num_classes=3)
    model.load_state_dict(load_torch(folder / "model.safetensors"), strict=True)
    rows = rows_of(folder / "predictions.csv")
    from jaxvision.preprocess import eval_image

    pixels = np.stack(
        [eval_image(Image.open(row["path"]), resize=37, crop=32) for row in rows]
    )
    images = np.asarray(normalize(to_float(pixels))).transpose(0, 3, 1, 2)
    with torch.no_grad():
        shares = model.eval()(torch.tensor(images)).softmax(1).numpy()
    ours = np.array([[float(row[name]) for name in CLASSES] for row in rows])
    np.testing.assert_allclose(ours, shares, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("looks", [4, 10])
def test_interrupted_and_resumed_run_has_the_same_bits(
    finished, config, monkeypatch, capsys, tmp_path, looks
):
    start = replace(config, output=tmp_path)
    stop_after(monkeypatch, transfer, start, looks=looks)
    folder = tmp_path / "transfer" / "1"
    assert f"--resume {folder}" in capsys.readouterr().err
    assert checkpoint.steps(folder / "checkpoints")
    assert not (folder / "report.html").exists()
    assert transfer.main(resumed(folder)) == finished[1]
    check_same_run(folder, finished[0])


def test_resume_of_a_finished_run_trains_no_further(finished):
    folder, numbers = finished
    before = (folder / "model.safetensors").stat().st_mtime
    assert transfer.main(resumed(folder)) == numbers
    assert (folder / "model.safetensors").stat().st_mtime == before


def test_dry_run_writes_nothing(config, tmp_path):
    numbers = transfer.main(replace(config, output=tmp_path, dry_run=True))
    assert np.isfinite(numbers["train_loss"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_divergence_stops_the_run_and_names_the_cure(config, tmp_path):
    with pytest.raises(RunError, match="no longer finite.*--optim.lr"):
        transfer.main(replace(config, output=tmp_path, optim=Optim(lr=1e30), epochs=2))


@pytest.mark.slow
def test_checkpoint_of_a_fine_tuned_model_keeps_its_head(finished, config, tmp_path):
    weights = str(finished[0] / "model.safetensors")
    again = replace(config, weights=weights, dry_run=True, output=tmp_path)
    assert transfer.main(again)["val_accuracy"] > 0.6  # a new head would guess


WRONG = [
    (["--backbone", "resnet_18"], "did you mean resnet18"),
    (["--data", "/no/such/folder"], "no such folder"),
    (["--batch-size", "5000"], "more than the 72 training photos"),
    (["--batch-size", "0"], "--batch-size cannot be 0"),
    (["--epochs", "0"], "--epochs cannot be 0"),
    (["--optim.lr", "-1"], "optim.lr cannot be -1"),
    (["--freeze", "layer1,"], "no layer of resnet18 lies under ''"),
    (["--batch-size", "1"], "use a larger batch or larger images"),
    (["--freeze", "layer9"], "no layer of resnet18 lies under 'layer9'"),
    (["--weights", "v7"], "no weights 'v7'"),
    (["--weights", "/no/such.pth"], "does not exist"),
    (["--resume", "/no/such/run"], "no config.yaml"),
    (["--config", "/no/such.yaml"], "cannot read /no/such.yaml"),
    (["--image-size", "4"], "--image-size cannot be 4"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda w: str(w)[:30])
def test_wrong_call_says_what_and_exits_with_2(
    photos, monkeypatch, capsys, tmp_path, words, message
):
    base = {"--data": str(photos), "--backbone": "resnet18", "--weights": "random"}
    base |= {"--image-size": "32", "--output": str(tmp_path)}
    runs.check_wrong_call(
        lambda: transfer.run_cli(Config, transfer.main, prog="transfer"),
        base,
        words,
        message,
        monkeypatch,
        capsys,
    )
    assert list(tmp_path.iterdir()) == []


def test_resume_with_other_options_is_refused(finished):
    for words, value in (("--epochs 99", "99"), ("--augment flips", r"\['flips'\]")):
        with pytest.raises(UsageError, match=f"leave out the other value, {value}"):
            transfer.main(resumed(finished[0], *words.split()))
    same = resumed(finished[0], "--backbone", "resnet18", "--optim.lr", "0.02")
    assert transfer.main(same) == finished[1]


def test_resume_with_other_photos_is_refused(finished, config, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    photos = tmp_path / "photos"
    shutil.copytree(config.data, photos)
    (photos / "train" / "red" / "0.png").unlink()
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(config.data, str(photos)))
    with pytest.raises(UsageError, match="not those that the run"):
        transfer.main(resumed(folder))


def test_divergence_keeps_the_checkpoint_of_the_epoch_before(tmp_path):
    """A plan of numbers: the weights turn NaN in the last step of the third epoch."""

    @jax.jit
    def run_steps(state, sums, data, order, start, stop, key):
        w = jnp.where(state.step + stop - start >= 6, jnp.nan, state.params["w"] + 1)
        step = state.step + stop - start
        return replace(state, step=step, params={"w": w}), sums

    plan = loop.Plan(
        run_steps=run_steps,
        data={"image": jnp.zeros((4, 1)), "label": jnp.zeros(4, jnp.int32)},
        fingerprint="x",
        metrics=("loss",),
        batch_size=2,
        epochs=3,
        key=jax.random.key(0),
        evaluate=lambda state: {"val_accuracy": float(state.step)},
        learning_rate=lambda step: 0.1,
        judged_by="val_accuracy",
        keep_best=lambda state, folder: None,
    )
    state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(())}, {}, ())
    with pytest.raises(RunError, match="last good checkpoint is kept"):
        loop.fit(state, plan, tmp_path, console=Console(), stop=Stop())
    target = {"state": state, "sums": plan.no_sums()}
    kept = checkpoint.restore(tmp_path / "checkpoints", target)
    assert kept is not None and kept.metadata["epoch"] == 2
    assert np.isfinite(kept.tree["state"].params["w"])


def test_weights_of_another_architecture_are_listed(config, tmp_path):
    save_file({"conv.weight": np.zeros((1,), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="missing .*conv1.weight.*1 unexpected"):
        transfer.main(replace(config, weights=str(tmp_path / "w.safetensors")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["vgg16", "densenet161", "googlenet", "mobilenet_v2", "resnext50", "wrn50_2"],
)
def test_every_backbone_takes_a_step(config, tmp_path, name):
    start = replace(config, backbone=(name,), dry_run=True, output=tmp_path)
    frozen = replace(start, freeze=("backbone",), optim=Optim(name="adamw", lr=1e-3))
    for one in (start, frozen):
        assert np.isfinite(transfer.main(one)["train_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_resume(config, tmp_path, signum):
    argv = ["--backbone", "resnet18", "--data", config.data, "--weights", "random"]
    argv += ["--image-size", "32", "--epochs", "500", "--output", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.transfer", *argv, "--batch-size", "4"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "transfer" / "1"
    for _ in range(600):
        if (folder / "metrics.csv").exists():
            break
        time.sleep(0.2)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert f"--resume {folder}" in err and "Traceback" not in err
    assert checkpoint.steps(folder / "checkpoints")


@pytest.mark.slow
def test_demo_without_network_warns_and_ends_well(tmp_path):
    """The README's command at a small size, with no cache and no server."""
    environment = os.environ | {
        "JAXVISION_HOME": str(tmp_path / "home"),
        "TORCH_HOME": str(tmp_path / "torch"),
        "JAXVISION_WEIGHTS_URL": "http://127.0.0.1:9",
    }
    argv = ["--backbone", "resnet18", "--epochs", "1", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.transfer", *argv],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("WARNING: The weights are random") == 2
    page = (tmp_path / "transfer" / "1" / "report.html").read_text()
    assert "The weights are random" in page


@pytest.mark.slow
def test_missing_download_for_own_data_names_the_file(config, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="resnet18-f37072fd.pth.*put it into"):
        transfer.main(replace(config, weights="imagenet"))


def test_metadata_of_a_bundle_is_json(finished):
    from safetensors import safe_open

    with safe_open(finished[0] / "model.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["classes"]) == list(CLASSES)
