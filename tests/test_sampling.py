"""Balanced draws: how often, of which, and by what chance."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import transfer
from experiments.command.options import UsageError, parse
from experiments.training.plan import Plan
from experiments.transfer import Config, make_cells
from jaxvision.optim import Optim
from jaxvision.sampling import balanced_order
from tests import runs
from tests.photos import make_folder
from tests.runs import check_same_run, stop_after

LABELS = np.repeat([0, 2, 3], [600, 60, 3])[np.random.default_rng(0).permutation(663)]


def orders(labels, epochs, seed=0):
    draw = balanced_order(labels)
    key = jax.random.key(seed)
    return np.array([draw(jax.random.fold_in(key, epoch)) for epoch in range(epochs)])


def test_classes_come_as_often_and_their_images_too():
    drawn = orders(LABELS, 60)
    assert drawn.dtype == np.int32 and drawn.shape == (60, 663)
    counts = np.bincount(drawn.ravel(), minlength=663)
    by_class = np.bincount(LABELS, counts)
    assert by_class[1] == 0 and stats.chisquare(by_class[[0, 2, 3]]).pvalue > 1e-3
    for label in (0, 2, 3):
        assert stats.chisquare(counts[LABELS == label]).pvalue > 1e-3
    # One draw says nothing of the next.
    classes = LABELS[drawn]
    pairs = stats.contingency.crosstab(classes[:, :-1].ravel(), classes[:, 1:].ravel())
    assert stats.chi2_contingency(pairs.count).pvalue > 1e-3


def plan(seed, draw):
    return Plan(
        run_steps=lambda: None,
        data={"image": jnp.zeros((663, 1))},
        fingerprint="",
        metrics=("loss",),
        batch_size=8,
        epochs=2,
        key=jax.random.key(seed),
        evaluate=lambda state: {},
        learning_rate=lambda step: 0.0,
        judged_by="epoch",
        keep_best=lambda state, folder: None,
        draw=draw,
    )


def test_order_is_that_of_seed_and_epoch():
    draw = balanced_order(LABELS)
    one, again, other = plan(0, draw), plan(0, draw), plan(1, draw)
    np.testing.assert_array_equal(one.order(3), again.order(3))
    np.testing.assert_array_equal(one.order(3), orders(LABELS, 4)[3])
    assert (one.order(3) != one.order(4)).any()
    assert (one.order(3) != other.order(3)).any()
    # Without it each image comes once, as ever.
    order = plan(0, None).order(3)
    key = jax.random.fold_in(jax.random.key(0), 3)
    np.testing.assert_array_equal(order, jax.random.permutation(key, 663))


@pytest.fixture
def config(tmp_path):
    counts = {"train/a": 20, "train/b": 4, "val/a": 2, "val/b": 2}
    return Config(
        backbone=("resnet18",),
        data=make_folder(tmp_path / "photos", counts),
        weights="random",
        epochs=2,
        batch_size=8,
        image_size=32,
        optim=Optim(lr=0.01),
        augment=("none",),
        sampler="balanced",
        output=tmp_path / "runs",
    )


@pytest.mark.slow
def test_run_that_is_stopped_draws_on_as_if_it_was_not(config, monkeypatch):
    transfer.main(config)
    stop_after(monkeypatch, transfer, config, looks=4)
    folder = config.output / "transfer"
    transfer.main(runs.resumed(Config, folder / "2"))
    check_same_run(folder / "2", folder / "1")


def test_balanced_twice_is_refused(config):
    with pytest.raises(UsageError, match="rare classes would count twice; give one"):
        make_cells(replace(config, class_weights=("none", "balanced")))
    assert len(make_cells(config)) == 1
    said = partial(parse, Config, prog="x")
    assert said(["--sampler", "balanced"]).sampler == "balanced"
