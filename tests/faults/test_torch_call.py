"""The call that is printed beside a model builds, in torchvision, the very same one."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from converters.__main__ import main
from converters.bundle import load_bundle, save_bundle
from converters.from_torch import convert
from converters.rules import leaves
from converters.to_torch import to_state_dict, torch_call
from converters.torch_file import write_torch
from converters.torchvision_import import import_torchvision
from converters.verify import QUICK as QUICKLY
from converters.weights import load_state_dict
from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.pages.page import model_commands
from experiments.training.backbones import build, choose_weights, common_weights
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing

pytestmark = pytest.mark.torch
CLASSES = ("a", "b", "c")


def built(call):
    """What the words build; its random weights take long and are not looked at."""
    call = call.replace("init_weights=True", "init_weights=False")
    return eval(call, {"torchvision": import_torchvision()})


QUICK = ("resnet18", "resnext50_32x4d", "wide_resnet50_2", "googlenet", "mobilenet_v2")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in (*models.names(), "googlenet_untransformed")
    ],
)
def test_call_builds_the_tensors_of_each_backbone(name):
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        theirs = built(torch_call(name, num_classes=3)).state_dict()
    abstract = models.abstract(name, num_classes=3)
    arrays = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),  # takes no memory
        functionalize(abstract)[1:],
    )
    ours = to_state_dict(abstract, *arrays)
    assert {k: tuple(v.shape) for k, v in theirs.items()} == {
        k: v.shape for k, v in ours.items()
    }


def made(name):
    """A model with weights by which the logits depend on the images, made fast."""
    model = models.abstract(name, num_classes=3)
    rng = np.random.default_rng(0)
    state = {}
    for leaf in leaves(model):
        shape = leaf.layout.torch_shape(leaf.shape)
        noise = rng.standard_normal(shape, np.float32)
        fan_in = int(np.prod(shape[1:]))
        state[leaf.torch_name] = (
            noise * (2 / fan_in) ** 0.5 if len(shape) > 1 else 1 + 0.1 * noise
        )
    return convert(model, state)


@pytest.fixture(params=["googlenet", "googlenet_untransformed"])
def run(request, tmp_path):
    """GoogLeNet's run: its file, images and what it says of them."""
    model = made(request.param)
    apply, params, stats = functionalize(model)
    path = tmp_path / "model.safetensors"
    save_bundle(
        path,
        request.param,
        params,
        stats,
        classes=CLASSES,
        preprocessing=Preprocessing(),
    )
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    ours = jax.jit(lambda *args: apply(*args)[0], compiler_options=QUICKLY)
    return path, images, ours(params, stats, images)


def logits_of(call, file, images):
    torch = pytest.importorskip("torch")
    arrays = {k: torch.tensor(v) for k, v in load_state_dict(file).items()}
    with torch.device("meta"):  # takes neither time nor memory
        net = built(call).eval()
    net.load_state_dict(arrays, strict=True, assign=True)
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
    bundle = load_bundle(path)
    assert f"transform_input={bundle.name == 'googlenet'}" in said
    with pytest.raises(UsageError, match=f"give --backbone {bundle.name}"):
        choose_weights(*models.twins(bundle.name), str(path), console=Console())


def test_a_checkpoint_that_fits_two_says_how_it_is_taken(tmp_path, capsys):
    model = made("googlenet")
    arrays = to_state_dict(model, *functionalize(model)[1:])
    further = {"aux1.fc2.bias": np.zeros(3, np.float32)}
    write_torch(tmp_path / "own.pth", arrays | further)
    name, other = "googlenet_untransformed", "googlenet"
    chosen = choose_weights(name, str(tmp_path / "own.pth"), console=Console())
    said = capsys.readouterr().out
    assert f"own.pth is taken for {torch_call(name, num_classes=1000)}" in said
    assert f"give --backbone {other}" in said
    start = build(name, chosen, num_classes=3, size=64, seed=0)
    assert not start.model.transform_input
    assert start.source == "own.pth, with its last layer, without its aux1"


def test_no_imagenet_weights_are_those_of_the_untransformed():
    with pytest.raises(UsageError, match="no ImageNet weights.*try googlenet"):
        common_weights(
            ["googlenet_untransformed"], "auto", is_demo=False, console=Console()
        )


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
