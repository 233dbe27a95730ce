"""The best epoch's model: lost, it comes back from the best epoch's checkpoint."""

import shutil
from dataclasses import replace

import jax.numpy as jnp
import pytest

from experiments import transfer
from experiments.command.options import RunError
from experiments.inference.classifier import MODEL
from experiments.training import classifier
from jaxvision import checkpoint
from tests.faults.plans import ACCURACIES, fit, make_plan
from tests.runs import StopAfter, check_same_run, rows_of
from tests.test_transfer import config as config
from tests.test_transfer import photos as photos
from tests.test_transfer import resumed


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The folder and the numbers of an unbroken run, of which little is compiled."""
    options = {"augment": ("none",), "freeze": ("backbone",), "batch_size": 8}
    output = tmp_path_factory.mktemp("finished")
    numbers = transfer.main(replace(config, **options, output=output))
    return output / "transfer" / "1", numbers


def lose(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def replace_by_another(path):
    path.write_text("7.0")


DAMAGES = [lose, cut, empty, replace_by_another]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("looks", [10, 100])
def test_lost_model_is_written_anew_from_the_best_checkpoint(
    tmp_path, capsys, damage, looks
):
    fit(tmp_path, stop=StopAfter(looks))  # the best epoch, the second, is past
    model = (tmp_path / MODEL).read_text()
    damage(tmp_path / MODEL)
    capsys.readouterr()
    history = fit(tmp_path)
    assert [row["val_accuracy"] for row in history] == list(ACCURACIES)
    assert (tmp_path / MODEL).read_text() == model
    assert "written anew, from the checkpoint of epoch 2" in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES)
def test_model_that_is_lost_while_the_training_goes_on_comes_back(tmp_path, damage):
    fit(tmp_path / "whole")
    plan = make_plan()

    def evaluate(state):
        if int(state.step) == 8:
            damage(tmp_path / "other" / MODEL)
        return plan.evaluate(state)

    fit(tmp_path / "other", replace(plan, evaluate=evaluate))
    ours, theirs = (tmp_path / name / MODEL for name in ("other", "whole"))
    assert ours.read_text() == theirs.read_text()


def test_model_that_no_checkpoint_holds_is_one_line(tmp_path):
    fit(tmp_path)
    (best,) = (s for s in checkpoint.steps(tmp_path / "checkpoints") if s < 10)
    shutil.rmtree(tmp_path / "checkpoints" / str(best))
    (tmp_path / MODEL).unlink()
    with pytest.raises(RunError, match="is missing, and no checkpoint.*of epoch 2"):
        fit(tmp_path)


def test_model_newer_than_its_checkpoint_is_undone(tmp_path):
    """A kill between a new best model and its checkpoint."""
    fit(tmp_path, make_plan((0.5, 0.4, 0.3)))
    model = (tmp_path / MODEL).read_text()
    (tmp_path / MODEL).write_text("6.0")
    fit(tmp_path, make_plan((0.5, 0.4, 0.3)))
    assert (tmp_path / MODEL).read_text() == model


@pytest.mark.slow
def test_real_run_without_its_model_resumes_to_the_same(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / MODEL).unlink()
    (folder / "results.json").unlink()
    assert transfer.main(resumed(folder)) == finished[1]
    check_same_run(folder, finished[0])
    assert (folder / MODEL).read_bytes() == (finished[0] / MODEL).read_bytes()


@pytest.mark.slow
def test_model_of_another_accuracy_is_said(finished, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    load = classifier.load_bundle

    def another(path):
        bundle = load(path)
        bundle.model.fc.bias[...] = jnp.array([100.0, 0.0, 0.0])
        return bundle

    monkeypatch.setattr(classifier, "load_bundle", another)
    transfer.main(resumed(folder))
    assert "it is not that model" in capsys.readouterr().out
    assert "it is not that model" in (folder / "report.html").read_text()
    assert rows_of(folder / "metrics.csv") == rows_of(finished[0] / "metrics.csv")
