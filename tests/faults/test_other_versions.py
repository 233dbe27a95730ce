"""What another version trained is taken where it means the same, else refused."""

from dataclasses import replace

import numpy as np
import pytest
from flax import nnx

from converters.bundle import load_bundle, save_bundle
from experiments.command.options import UsageError
from experiments.training.enlarger import EnlargerRecipe, _as_ever, _warmed, build
from experiments.training.saved import check_same
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing
from jaxvision.tensor_file import open_tensors, save_tensors
from tests.faults.plans import make_plan

RESIDUAL = "srcnn_915_residual"


@pytest.fixture
def older(tmp_path):
    """A residual SRCNN's file as the first versions wrote it."""
    path = tmp_path / "model.safetensors"
    _, params, stats = functionalize(models.create(RESIDUAL, rngs=nnx.Rngs(0)))
    said = {"classes": (), "preprocessing": Preprocessing()}
    save_bundle(path, RESIDUAL, params, stats, **said)
    assert load_bundle(path).name == RESIDUAL
    with open_tensors(path) as file:
        metadata = dict(file.metadata() or {})
        arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}
    assert metadata.pop("revision") == "2"
    save_tensors(path, arrays, metadata)
    return path


def test_a_network_that_computed_something_else_is_refused(older):
    with pytest.raises(ValueError, match=f"another version's {RESIDUAL}"):
        load_bundle(older)
    with pytest.raises(UsageError, match="--init-from: .* another version's"):
        build(RESIDUAL, older, seed=0)


def test_a_run_that_trained_otherwise_does_not_go_on(tmp_path):
    now = make_plan(options={"model": RESIDUAL, "revision": 2})
    before = {"options": {"model": RESIDUAL}, "start": 0}
    with pytest.raises(UsageError, match="another version, which trained and judged"):
        check_same(before, now, tmp_path)
    assert check_same(before | {"options": now.options}, now, tmp_path) == []
    assert check_same(before, make_plan(options={"model": RESIDUAL}), tmp_path) == []


@pytest.mark.parametrize(
    ("change", "steps", "same"),
    [
        ({}, 400, True),
        ({}, 399, False),  # of which a quarter is less than the least warm-up
        ({"loss": "mse"}, 400, False),
        ({"loss": "l1+perceptual"}, 400, False),
        ({"degrade": "web"}, 400, False),
    ],
)
def test_runs_of_before_are_told_by_what_changed(change, steps, same):
    given = replace(EnlargerRecipe(), **change)
    light = models.create("light_x2", rngs=nnx.Rngs(0))
    assert _as_ever(light, given, _warmed(given, steps=steps)) == same
    residual = models.create(RESIDUAL, rngs=nnx.Rngs(0))
    assert not _as_ever(residual, given, _warmed(given, steps=steps))
