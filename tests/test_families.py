"""What each family says of itself holds, and a new file is a new family."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxvision import models
from jaxvision.functional import functionalize, modules
from jaxvision.models.nodes import find

pytestmark = pytest.mark.floor

ROOT = Path(__file__).parents[1]
QUICK = {*models.small_names(), *(next(iter(f.VARIANTS)) for f in models.FAMILIES)}


def rows(quick):
    return [
        pytest.param(name, marks=() if name in quick else pytest.mark.slow)
        for name in models.VARIANTS
    ]


def output_shape(model, size):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(*functionalize(model), images)[0].shape


@pytest.mark.parametrize("name", rows(QUICK))
def test_the_smallest_images_are_taken_and_no_smaller_ones(name):
    model = models.abstract(name)
    shape = output_shape(model, model.smallest)
    side = 1 if getattr(model, "takes_enlarged", True) else getattr(model, "scale", 1)
    assert shape == ((2, 1000) if models.variant(name).head else (2, side, side, 3))
    if model.smallest > 1:
        with pytest.raises(ValueError, match="larger images|takes images of shape"):
            output_shape(model, model.smallest - 1)


@pytest.mark.parametrize("name", models.VARIANTS)
def test_a_trunk_is_made_of_layers_and_missing_only_where_no_maps_are(name):
    model = models.abstract(name)
    for node in model.trunk():
        assert find(model, node).path == node
    has_maps = any(isinstance(module, nnx.Conv) for _, module in modules(model))
    assert bool(model.trunk()) == (has_maps and bool(models.variant(name).head))
    for child in model.optional:
        assert hasattr(model, child)


def test_tables_have_no_row_twice_and_no_task_of_their_own():
    assert len(models.VARIANTS) == sum(len(f.VARIANTS) for f in models.FAMILIES)
    assert len(models.ALIASES) == sum(len(f.ALIASES) for f in models.FAMILIES)
    assert not models.ALIASES.keys() & models.VARIANTS.keys()
    assert set(models.ALIASES.values()) | set(models.MISSION) <= set(models.VARIANTS)
    tasks = {row.task for row in models.VARIANTS.values()}
    assert tasks == {"imagenet", "cifar10", "superres"}


def test_lists_keep_their_order_whatever_is_added():
    wanted = "vgg11 resnet18 densenet121 googlenet mobilenet_v2 mobilenet_v3_large"
    firsts = [next(iter(f.VARIANTS)) for f in models.FAMILIES if f.TASK == "imagenet"]
    assert firsts[:6] == wanted.split()
    backbones = [name for name in models.VARIANTS if not models.twins(name)]
    assert backbones[:25] == [name for name in models.names() if name != "googlenet"]


FAMILY = """
from flax import nnx

from jaxvision import ops
from jaxvision.models.init import Init
from jaxvision.models.layers import conv
from jaxvision.models.network import Network


class Tiny(Network):
    smallest = 2

    def __init__(self, *, num_classes=1000, rngs):
        self.conv1 = conv(3, 8, 2, rngs=rngs)
        self.fc = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.fc(ops.global_avg_pool(self.conv1(x)))
{trunk}

{task}
VARIANTS = {{"aaa_tiny": Tiny}}
ALIASES = {{"tiny": "aaa_tiny"}}
HEAD = "fc"
INIT = Init()
"""
TRUNK = """
    def trunk(self):
        return ("conv1",)
"""
USE = """
from flax import nnx
from converters import oracle
from jaxvision import gradcam, models
models.create("tiny", num_classes=3, rngs=nnx.Rngs(0))
print(models.names()[-2:], gradcam.choose_layer("aaa_tiny", size=32))
print(oracle.default_sizes("aaa_tiny"))
"""


def use_scratch_family(folder, *, trunk=TRUNK, task='TASK = "imagenet"'):
    """Runs `USE` with a copy of the library to which one file is added."""
    for package in ("jaxvision", "converters"):
        shutil.copytree(ROOT / package, folder / package)
    source = FAMILY.format(trunk=trunk, task=task)
    (folder / "jaxvision" / "models" / "aaa.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-c", USE],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


def test_a_file_with_variants_is_a_family(tmp_path):
    done = use_scratch_family(tmp_path)
    assert done.stdout.splitlines() == [
        "('mobilenet_v3_small', 'aaa_tiny') conv1",
        "(2, 64, 65)",
    ], done.stderr


@pytest.mark.parametrize(
    ("lacking", "message"),
    [({"trunk": ""}, "abstract.* '?trunk"), ({"task": ""}, "no attribute 'TASK'")],
)
def test_a_family_that_lacks_a_fact_fails_loudly(tmp_path, lacking, message):
    done = use_scratch_family(tmp_path, **lacking)
    assert done.returncode != 0
    assert re.search(message, done.stderr)
