"""The call that is printed beside a model builds, in torchvision, the very same one."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from converters.__main__ import main
from converters.bundle import save_bundle
from converters.to_torch import to_state_dict, torch_call
from converters.torchvision_import import import_torchvision
from converters.weights import load_state_dict
from experiments.pages.page import model_commands
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing

pytestmark = pytest.mark.torch
CLASSES = ("a", "b", "c")


def built(call):
    """What the words build; `meta` tensors take neither time nor memory."""
    return eval(call, {"torchvision": import_torchvision()})


QUICK = ("resnet18", "resnext50_32x4d", "wide_resnet50_2", "googlenet", "mobilenet_v2")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in models.names()
    ],
)
def test_call_builds_the_tensors_of_each_backbone(name):
    torch = pytest.importorskip("torch")
    call = torch_call(name, num_classes=3).replace("init_weights=True", "")
    with torch.device("meta"):
        theirs = built(call).state_dict()
    abstract = models.abstract(name, num_classes=3)
    arrays = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),  # takes no memory
        functionalize(abstract)[1:],
    )
    ours = to_state_dict(abstract, *arrays)
    assert {k: tuple(v.shape) for k, v in theirs.items()} == {
        k: v.shape for k, v in ours.items()
    }


@pytest.fixture
def run(tmp_path):
    """GoogLeNet's run: its file."""
    model = models.create("googlenet", num_classes=3, rngs=nnx.Rngs(0))
    apply, params, stats = functionalize(model)
    path = tmp_path / "model.safetensors"
    save_bundle(
        path,
        "googlenet",
        params,
        stats,
        classes=CLASSES,
        preprocessing=Preprocessing(),
    )
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    return path, images, apply(params, stats, images)[0]


def logits_of(call, file, images):
    torch = pytest.importorskip("torch")
    net = built(call).eval()
    arrays = load_state_dict(file)
    net.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()}, strict=True)
    with torch.no_grad():
        return net(torch.tensor(images).permute(0, 3, 1, 2)).numpy()


def test_googlenet_answers_alike_by_the_report_and_by_export(run, tmp_path, capsys):
    path, images, ours = run
    (command,) = (c for c in model_commands(tmp_path).values() if "load_file" in c)
    (said,) = re.findall(r"model = (.*)", command)
    main(argv=["export", str(path), "--to", str(tmp_path / "model.pth")])
    (printed,) = re.findall(r"torchvision\.models\.\w+\(.*\)", capsys.readouterr().out)
    for call, file in ((said, path), (printed, tmp_path / "model.pth")):
        theirs = logits_of(call, file, images)
        np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.std(theirs))


def test_small_nets_are_not_said_to_be_torchvisions(tmp_path):
    model = models.create("fcn", num_classes=3, rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    save_bundle(
        tmp_path / "model.safetensors",
        "fcn",
        params,
        stats,
        classes=CLASSES,
        preprocessing=Preprocessing(resize=32, crop=32),
    )
    assert not any("torchvision.models" in c for c in model_commands(tmp_path).values())
    assert torch_call("fcn", num_classes=3) == ""
