"""What a recipe adds to the plain fine-tuning, in whole runs on small photos."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from converters.bundle import load_bundle
from experiments import predict, transfer
from experiments.command.console import Console
from experiments.command.options import UsageError, parse
from experiments.command.signals import Stop
from experiments.training import loop
from experiments.training.find_lr import steepest
from experiments.transfer import RECIPES, Config
from jaxvision.optim import Optim
from jaxvision.train import TrainState
from tests.runs import metrics_of, rows_of

CLASSES = ("dark", "light")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noisy photos whose class is their brightness: 24 to train, 8 to judge."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 150, (40, 40, 3)) + 100 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture
def config(photos, tmp_path):
    return Config(
        backbone=("resnet18",),
        data=str(photos),
        weights="random",
        epochs=1,
        batch_size=4,
        image_size=32,
        optim=Optim(lr=0.01),
        augment=("none",),
        output=tmp_path,
    )


@pytest.mark.slow
def test_last_layer_is_trained_before_all_others(config, capsys):
    """Here the second phase moves nothing: its rate is next to zero."""
    still = Optim(lr=1e-12, weight_decay=0.0)
    norms = "bn1,layer1,layer2,layer3,layer4"
    first = replace(config, head_epochs=12, optim=still, freeze=(norms,))
    numbers = transfer.main(first)
    folder = config.output / "transfer" / "1"
    assert "last layer alone: 12 epochs" in capsys.readouterr().out
    assert float(metrics_of(folder)[0]["train_loss"]) < 0.6  # chance is 0.69
    assert numbers["val_accuracy"] > 0.7
    plain = transfer.main(replace(first, head_epochs=0))
    assert plain["val_accuracy"] < numbers["val_accuracy"]
    ours, theirs = (
        load_file(config.output / "transfer" / run / "model.safetensors")
        for run in ("1", "2")
    )
    np.testing.assert_allclose(ours["conv1.weight"], theirs["conv1.weight"], atol=1e-9)
    assert np.abs(ours["fc.weight"] - theirs["fc.weight"]).max() > 0.01


@pytest.mark.slow
def test_frozen_backbone_is_computed_once_and_gives_the_same_run(config, monkeypatch):
    frozen = replace(config, freeze=("backbone",), epochs=3)
    quick = transfer.main(frozen)
    slow = []
    monkeypatch.setattr(
        "experiments.training.last_layer.trains_head_alone", lambda *_, **__: False
    )
    slow = transfer.main(frozen)
    one, other = (metrics_of(config.output / "transfer" / run) for run in ("1", "2"))
    for row, expected in zip(one, other, strict=True):
        assert row["val_accuracy"] == expected["val_accuracy"]
        assert float(row["train_loss"]) == pytest.approx(
            float(expected["train_loss"]), rel=1e-3
        )
    assert quick["val_accuracy"] == slow["val_accuracy"]


@pytest.mark.slow
def test_mirrored_answers_are_kept_and_predicted_again(config, photos):
    recipe = {"tta": "mirror", "mix": "mixup", "ema": 0.9, "accumulate": 2}
    transfer.main(replace(config, **recipe, augment=("full",)))
    folder = config.output / "transfer" / "1"
    assert load_bundle(folder / "model.safetensors").preprocessing.mirror
    rows = rows_of(folder / "predictions.csv")
    table = config.output / "again.csv"
    predict.main(predict.Config(run=folder, images=(photos / "val",), csv=table))
    again = {row["path"]: row for row in rows_of(table)}
    for row in rows:
        for name in CLASSES:
            assert float(again[row["path"]][name]) == pytest.approx(
                float(row[name]), abs=1e-5
            )


@pytest.mark.slow
def test_several_values_make_a_grid_with_one_page(config):
    both = replace(config, augment=("none", "flips"), class_weights=("balanced",))
    numbers = transfer.main(both)
    folder = config.output / "transfer" / "1"
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "comparison.csv",
        "comparison.html",
        "comparison.png",
        "config.yaml",
        "flips",
        "none",
    }
    assert json.loads((folder / "none" / "results.json").read_text()) == numbers
    words = ["--resume", str(folder / "flips")]
    one = parse(Config, words, prog="x")
    assert one.augment == ("flips",) and one.class_weights == ("balanced",)
    assert len(rows_of(folder / "comparison.csv")) == 2
    resumed = parse(Config, ["--resume", str(folder)], prog="x")
    assert transfer.main(resumed) == numbers


@pytest.mark.slow
def test_learning_rates_are_tried_drawn_and_one_suggested(config):
    numbers = transfer.main(replace(config, find_lr=True, freeze=("backbone",)))
    folder = config.output / "transfer" / "1"
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "lr.csv",
        "lr.png",
    }
    rates = [float(row["learning_rate"]) for row in rows_of(folder / "lr.csv")]
    assert rates == sorted(rates) and rates[0] == pytest.approx(1e-6)
    assert rates[0] <= numbers["learning_rate"] <= rates[-1]
    with pytest.raises(UsageError, match="--find-lr: give one backbone"):
        transfer.main(replace(config, find_lr=True, augment=("none", "flips")))


def test_steepest_is_where_the_loss_falls_fastest_and_not_after_its_lowest():
    rates = np.logspace(-6, 0, 61)
    losses = 2 - 1 / (1 + (1e-3 / rates) ** 2)  # falls around 1e-3
    losses[50:] += np.linspace(0, 5, 11)
    losses[55:] -= 2  # a cliff after the loss has exploded
    assert steepest(rates, losses) == pytest.approx(1e-3, rel=0.3)


def numbers_plan(accuracies, patience):
    """A plan without a model: the epochs' accuracies are given."""
    count = iter(accuracies)

    @jax.jit
    def run_steps(state, sums, data, order, start, stop, key):
        return replace(state, step=state.step + stop - start), sums

    return loop.Plan(
        run_steps=run_steps,
        data={"image": jnp.zeros((4, 1))},
        fingerprint="x",
        metrics=("loss",),
        batch_size=2,
        epochs=len(accuracies),
        key=jax.random.key(0),
        evaluate=lambda state: {"val_accuracy": next(count)},
        learning_rate=lambda step: 0.1,
        judged_by="val_accuracy",
        keep_best=lambda state, folder: None,
        patience=patience,
    )


@pytest.mark.parametrize(
    ("patience", "epochs"), [(0, 7), (1, 3), (2, 6), (3, 7)], ids=str
)
def test_training_ends_after_so_many_epochs_without_a_better_one(
    tmp_path, patience, epochs
):
    plan = numbers_plan([0.5, 0.6, 0.6, 0.7, 0.6, 0.6, 0.9], patience)
    state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(())}, {}, ())
    again = numbers_plan([0.0] * 7, patience)
    for one in (plan, again):  # a run that has ended is not resumed
        history = loop.fit(state, one, tmp_path, console=Console(), stop=Stop())
        assert len(history) == epochs and one.is_done(history)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_fills_in_what_the_command_line_leaves_open(name):
    words = ["--recipe", name, "--optim.lr", "0.5", "--epochs", "3"]
    config = parse(Config, words, prog="x", presets=RECIPES, preset_option="recipe")
    assert config.recipe == name and config.optim.lr == 0.5 and config.epochs == 3
    for option, value in RECIPES[name].items():
        if option == "optim":
            assert all(
                getattr(config.optim, key) == one
                for key, one in value.items()
                if key != "lr"
            )
        elif option != "epochs":
            given = tuple(value) if isinstance(value, list) else value
            assert getattr(config, option) == given


def test_unknown_recipe_names_those_there_are():
    with pytest.raises(UsageError, match="--recipe: unknown recipe 'x'; use original"):
        parse(
            Config, ["--recipe", "x"], prog="x", presets=RECIPES, preset_option="recipe"
        )
