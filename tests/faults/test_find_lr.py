"""The rate that `--find-lr` suggests is that of the problem, not that of the seed."""

from dataclasses import replace

import numpy as np
import pytest

from experiments import cifar10, transfer
from experiments.command.console import Console
from experiments.training.classifier import make_classifier
from experiments.training.data import open_data
from experiments.training.find_lr import STEPS, find_lr, ramp, steepest
from experiments.training.recipe import ClassifierRecipe
from jaxvision.optim import Optim
from tests.runs import rows_of

RATES = np.asarray(ramp(np.arange(STEPS)))
FACTOR = 3


def losses_of(seed, *, fall=0.8, noise=0.2):
    """Of a search: falls at 2e-3, explodes at the end, and hangs on the batches."""
    rng = np.random.default_rng(seed)
    losses = 2 - fall / (1 + (2e-3 / RATES) ** 2) + noise * rng.standard_normal(STEPS)
    losses[85:] += np.linspace(0, 20, STEPS - 85)
    return losses


def made(tmp_path, *, labelled=True):
    """A faint colour in noise tells the class, or nothing does."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 256)
    shown = labels if labelled else rng.integers(0, 3, 256)
    pixels = rng.integers(0, 200, (256, 32, 32, 3))
    pixels[np.arange(256), ..., shown] += 10
    x, y = pixels.astype(np.uint8), labels
    path = tmp_path / "made.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    return str(path)


def test_noise_moves_the_suggestion_by_less_than_a_factor():
    found = [steepest(RATES, losses_of(seed)) for seed in range(50)]
    assert max(found) <= FACTOR * min(found)
    assert 1e-3 < min(found) and max(found) < 4e-3


def test_the_first_steps_are_no_slope():
    losses = losses_of(0, noise=0.02)
    losses[:2] += 5
    assert 1e-3 < steepest(RATES, losses) < 4e-3


def test_without_a_slope_nothing_is_suggested():
    found = [steepest(RATES, losses_of(seed, fall=0.0)) for seed in range(50)]
    assert sum(rate is not None for rate in found) <= 1
    assert steepest(RATES, np.full(STEPS, 2.0)) is None


def test_seeds_agree_on_a_small_net(tmp_path):
    console = Console()
    dataset = open_data(made(tmp_path), cifar10.CIFAR10, train_size=32, console=console)
    recipe = ClassifierRecipe(batch_size=16, augment="none", dtype="float32")
    start = cifar10.build("fcn", dataset, dropout=0.0, seed=0)
    training = make_classifier(dataset, start, recipe, console=console, schedule=ramp)
    found = []
    for seed in range(5):
        model = cifar10.build(start.name, dataset, dropout=0.0, seed=seed).model
        one = training.seeded(seed).training
        found.append(find_lr(one, model, tmp_path, console=console)["learning_rate"])
    assert max(found) <= FACTOR * min(found), found
    assert min(found) > 1e-5


def search(tmp_path, **options):
    config = transfer.Config(
        backbone=("resnet18",),
        data=made(tmp_path, labelled=options.pop("labelled", True)),
        weights="random",
        image_size=32,
        batch_size=16,
        augment=("none",),
        find_lr=True,
        output=tmp_path / "runs",
    )
    return transfer.main(replace(config, **options))


@pytest.mark.slow
def test_seeds_agree_on_a_backbone(tmp_path):
    found = [search(tmp_path, seed=seed)["learning_rate"] for seed in range(4)]
    assert max(found) <= FACTOR * min(found), found
    assert min(found) > 1e-5


def test_a_search_without_a_slope_says_so(tmp_path, capsys):
    # The last layer alone, on chance: 100 steps of it change nothing.
    options = {"labelled": False, "optim": Optim(), "freeze": ("backbone",)}
    numbers = search(tmp_path, class_weights=("none",), **options)
    folder = tmp_path / "runs" / "transfer" / "1"
    assert (folder / "lr.png").is_file() and len(rows_of(folder / "lr.csv")) > 10
    assert numbers == {}
    assert "no learning rate to suggest" in capsys.readouterr().out
