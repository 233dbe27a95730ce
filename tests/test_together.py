"""Runs of several seeds in one program: the single runs' numbers, folders and files."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from converters.bundle import load_bundle
from experiments import cifar10
from experiments.cifar10 import PRESETS, Config
from experiments.command.options import parse
from experiments.training import together
from jaxvision import checkpoint
from jaxvision.functional import functionalize
from jaxvision.optim import Optim
from tests.colours import write_colours
from tests.runs import rows_of

NUMBERS = ("train_loss", "val_loss")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    npz = write_colours(folder / "colours.npz", train=48, val=20)
    return Config(
        model=("cnn_small",),
        data=str(npz),
        epochs=2,
        batch_size=8,
        optim=Optim(lr=0.02),
        repeats=3,
        output=folder / "alone",
    )


@pytest.fixture(scope="module")
def alone(config):
    cifar10.main(config)
    return config.output / "cifar10" / "1"


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(cifar10, "seeds_at_once", lambda: together.MOST)
    made = []
    original = together._program

    def program(run_seeds, group, places):
        made.append(len(group))
        return original(run_seeds, group, places)

    monkeypatch.setattr(together, "_program", program)
    return made


def weights_of(folder):
    _, params, stats = functionalize(load_bundle(folder / "model.safetensors").model)
    return jax.tree.leaves((params, stats))


def stopping_after(monkeypatch, calls):
    """A signal comes during so many judgements of an epoch."""
    original = cifar10.fit_together

    def stopped(run_seeds, members, *, most, console, stop):
        count = iter(range(1, 1000))

        def judged(plan):
            def evaluate(state):
                if next(count) == calls:
                    stop.signum = 15
                return plan.evaluate(state)

            return replace(plan, evaluate=evaluate)

        members = [replace(one, plan=judged(one.plan)) for one in members]
        original(run_seeds, members, most=most, console=console, stop=stop)

    monkeypatch.setattr(cifar10, "fit_together", stopped)


def test_on_a_cpu_each_run_is_for_itself():
    assert together.seeds_at_once() == 1


@pytest.mark.slow
def test_runs_at_once_are_the_single_runs_to_rounding(config, alone, at_once, tmp_path):
    numbers = cifar10.main(replace(config, output=tmp_path))
    folder = tmp_path / "cifar10" / "1"
    assert at_once == [3]
    for seed in range(3):
        one, other = (where / f"cnn_small-seed{seed}" for where in (folder, alone))
        names = {path.name for path in one.iterdir()}
        assert names == {path.name for path in other.iterdir()}
        assert len(checkpoint.steps(one / "checkpoints")) == 2
        rows, expected = rows_of(one / "metrics.csv"), rows_of(other / "metrics.csv")
        assert len(rows) == len(expected) == 2
        for row, same in zip(rows, expected, strict=True):
            assert list(row) == list(same)
            for name in NUMBERS:
                assert float(row[name]) == pytest.approx(float(same[name]), rel=1e-4)
        for a, b in zip(weights_of(one), weights_of(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert numbers["val_accuracy"] == pytest.approx(
        float(rows_of(alone / "cnn_small-seed0" / "metrics.csv")[-1]["val_accuracy"])
    )


@pytest.mark.slow
def test_interrupted_runs_go_on_together_to_the_same_bits(
    config, at_once, tmp_path, monkeypatch
):
    cifar10.main(replace(config, output=tmp_path / "whole"))
    whole = tmp_path / "whole" / "cifar10" / "1"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stopping_after(patch, 2)
        cifar10.main(replace(config, output=tmp_path))
    folder = tmp_path / "cifar10" / "1"
    runs = [folder / f"cnn_small-seed{seed}" for seed in range(3)]
    assert [len(rows_of(run / "metrics.csv")) for run in runs] == [1, 1, 1]
    # As where the process was killed before the last one was saved.
    newest = checkpoint.steps(runs[2] / "checkpoints")
    assert newest == [7]
    argv = ["--resume", str(folder)]
    cifar10.main(parse(Config, argv, prog="x", presets=PRESETS))
    assert at_once == [3, 3, 3]
    for run in runs:
        pairs = zip(weights_of(run), weights_of(whole / run.name), strict=True)
        assert all((a == b).all() for a, b in pairs)


@pytest.mark.slow
def test_a_run_that_is_behind_takes_the_others_back_to_it(config, at_once, tmp_path):
    """Killed while the last epoch was saved: one run has a checkpoint less."""
    cifar10.main(replace(config, output=tmp_path))
    folder = tmp_path / "cifar10" / "1"
    runs = [folder / f"cnn_small-seed{seed}" for seed in range(3)]
    before = [weights_of(run) for run in runs]
    for run in runs:
        (run / "results.json").unlink()
    shutil.rmtree(runs[1] / "checkpoints" / "14")
    argv = ["--resume", str(folder)]
    cifar10.main(parse(Config, argv, prog="x", presets=PRESETS))
    assert at_once == [3, 3]
    for run, expected in zip(runs, before, strict=True):
        assert all(
            (a == b).all() for a, b in zip(weights_of(run), expected, strict=True)
        )


@pytest.mark.slow
def test_what_does_not_fit_is_halved(config, tmp_path, monkeypatch):
    """And a run that is left alone is trained as single runs are."""
    monkeypatch.setattr(cifar10, "seeds_at_once", lambda: together.MOST)
    widths, original = [], together._program

    def program(run_seeds, group, places):
        widths.append(len(group))
        return original(run_seeds, group, places) if len(group) < 3 else None

    monkeypatch.setattr(together, "_program", program)
    cifar10.main(replace(config, epochs=1, output=tmp_path))
    assert widths == [3, 2]
    for seed in range(3):
        folder = tmp_path / "cifar10" / "1" / f"cnn_small-seed{seed}"
        (row,) = rows_of(folder / "metrics.csv")
        assert float(row["train_loss"]) < np.log(4)


def test_memory_decides_what_fits(monkeypatch):
    """A program that takes more than its share of the device is none."""
    program = jax.jit(lambda a, start, stop, keys: a @ a)
    a = jax.ShapeDtypeStruct((512, 512), "float32")
    monkeypatch.setattr(together, "_arguments", lambda group, places: (a,))
    monkeypatch.setattr(together, "_stacked", lambda trees: None)
    for limit, fits in ((None, True), (10**9, True), (10**6, False)):
        stats = None if limit is None else {"bytes_limit": limit}
        device = SimpleNamespace(memory_stats=lambda stats=stats: stats)
        monkeypatch.setattr(together.jax, "devices", lambda device=device: [device])
        assert (together._program(program, [], []) is not None) == fits
