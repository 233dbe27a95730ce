"""The recipe of `--preset speed` on small data: what it trains, to the same bits."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from converters.bundle import load_bundle
from experiments import cifar10
from experiments.cifar10 import PRESETS, Config
from experiments.command.options import parse
from experiments.training import classifier, loop
from jaxvision import models
from jaxvision.functional import functionalize
from tests.colours import write_colours
from tests.runs import rows_of


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    npz = write_colours(folder / "colours.npz", train=70, val=30)
    argv = ["--preset", "speed", "--data", str(npz), "--batch-size", "16"]
    # Rates that are of a sum are smaller for fewer images.
    argv += ["--epochs", "3", "--optim.brief-epochs", "1", "--model", "cnn_lean"]
    argv += ["--optim.bias-lr", "0.8", "--optim.head-lr", "0.02"]
    found = parse(Config, argv, prog="x", presets=PRESETS)
    return replace(found, output=folder)


@pytest.fixture(scope="module")
def finished(config):
    numbers = cifar10.main(config)
    return config.output / "cifar10" / "1", numbers


def arrays_of(folder):
    bundle = load_bundle(folder / "model.safetensors")
    return bundle.preprocessing, functionalize(bundle.model)[1]


def test_it_learns_and_answers_by_six_views(finished):
    folder, numbers = finished
    assert numbers["val_accuracy"] > 0.8
    size, params = arrays_of(folder)
    assert (size.mirror, size.shift) == (True, 1)
    rows = rows_of(folder / "metrics.csv")
    rates = [float(row["learning_rate"]) for row in rows]
    # The last step of each epoch of four, of a line from 0.24 to 0 in twelve.
    np.testing.assert_allclose(rates, [0.24 * (1 - k / 12) for k in (3, 7, 11)])
    # Kernels have norm 1 a filter but for the last step; scales stay.
    for block in params["blocks"].values():
        for layer in (0, 4):
            kernel = np.asarray(block[layer]["kernel"])
            assert np.linalg.norm(kernel) == pytest.approx(
                kernel.shape[-1] ** 0.5, rel=0.02
            )
        for layer in (2, 5):
            np.testing.assert_array_equal(block[layer]["scale"], 1)
            assert np.abs(block[layer]["bias"]).max() > 0


@pytest.mark.slow
def test_whitening_stays_after_its_epochs(config, tmp_path, monkeypatch):
    seen = []
    original = loop.end_epoch

    def looking(at, plan, folder, means):
        seen.append(jax.device_get(at.state.params["whiten"]))
        return original(at, plan, folder, means)

    monkeypatch.setattr(loop, "end_epoch", looking)
    cifar10.main(replace(config, epochs=2, output=tmp_path))
    first, second = seen
    assert np.abs(first["bias"]).max() > 0
    np.testing.assert_array_equal(first["bias"], second["bias"])
    np.testing.assert_array_equal(first["kernel"], second["kernel"])


@pytest.mark.slow
def test_resumed_run_has_the_bits_of_an_unbroken_one(
    finished, config, tmp_path, monkeypatch
):
    """Stopped after the first epoch: momenta, flips and the whitening go on."""
    original = classifier.fit

    def stopping(state, plan, folder, *, console, stop):
        def evaluate(state):
            stop.signum = 15
            return plan.evaluate(state)

        changed = replace(plan, evaluate=evaluate)
        return original(state, changed, folder, console=console, stop=stop)

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "fit", stopping)
        with pytest.raises(SystemExit):
            cifar10.main(replace(config, output=tmp_path))
    folder = tmp_path / "cifar10" / "1"
    assert len(rows_of(folder / "metrics.csv")) == 1
    argv = ["--resume", str(folder)]
    numbers = cifar10.main(parse(Config, argv, prog="x", presets=PRESETS))
    assert numbers == finished[1]
    jax.tree.map(
        np.testing.assert_array_equal, arrays_of(folder)[1], arrays_of(finished[0])[1]
    )


def test_cnn_fast_has_the_groups_of_the_record():
    """Six kernels by Muon, the head and seven biases by SGD, no scale at all."""
    _, params, _ = functionalize(models.abstract("cnn_fast"))
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    counts = {rank: sum(len(s) == rank for s in shapes) for rank in (1, 2, 4)}
    # Besides: the whitening's kernel, which is frozen, and six scales.
    assert counts == {4: 6 + 1, 2: 1, 1: 7 + 6}
