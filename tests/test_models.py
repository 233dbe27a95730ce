"""Every backbone against torchvision's, with no tensor left at its fresh value."""

import jax
import numpy as np
import pytest
from flax import nnx

from converters import convert, oracle, to_state_dict, verify, weights
from converters.torchvision_import import import_torchvision
from jaxvision import models
from jaxvision.functional import functionalize, modules
from jaxvision.models.googlenet import GoogLeNet

torch = pytest.importorskip("torch")
torchvision = import_torchvision()

pytestmark = pytest.mark.torch

SLOW = {
    *("vgg13", "vgg13_bn", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("resnet34", "resnet101", "resnet152", "wide_resnet101_2"),
    *("resnext101_32x8d", "resnext101_64x4d"),
    *("densenet121", "densenet169", "densenet201"),
    *("vgg11", "vgg11_bn", "mobilenet_v3_large"),
}
HEAVY = {"vgg16", "densenet161", "resnext50_32x4d", "wide_resnet50_2"}
"""Of these the quick tests compile one size, an odd one."""
TRAINED = {"resnet18"}
EVEN = 40
"""Pixels. "SAME" padding equals torch's where a map is odd: there it would not."""


def rows(*, quick=None):
    return [
        pytest.param(
            name,
            marks=pytest.mark.slow
            if (name in SLOW if quick is None else name not in quick)
            else (),
        )
        for name in models.names()
    ]


@pytest.fixture(autouse=True)
def one_thread():
    """Several processes share the cores: torch's threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def logits(model, images):
    apply, params, stats = functionalize(model)
    run = jax.jit(lambda *args: apply(*args)[0], compiler_options=verify.QUICK)
    return np.asarray(run(params, stats, images))


def torch_logits(net, images):
    with torch.no_grad():
        return net(oracle.torch_images(images)).numpy()


def difference(ours, theirs):
    """Largest difference in standard deviations of what is right."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / theirs.std()


@pytest.mark.floor
@pytest.mark.parametrize("name", rows())
def test_logits_match_torchvision(name, float64):
    smallest, even, odd = sizes(name)
    check_logits(name, (odd,) if name in HEAVY else (smallest, even, odd))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HEAVY))
def test_logits_match_torchvision_at_other_sizes(name, float64):
    smallest, even, _ = sizes(name)
    check_logits(name, (smallest, even))


def sizes(name):
    """The smallest that the net takes, an even one and an odd one."""
    smallest, _, odd = oracle.default_sizes(name)[:3]
    return smallest, max(EVEN, smallest + smallest % 2), odd


def check_logits(name, sizes):
    net = oracle.torch_model(name, dtype="float64")
    model = oracle.our_model(name, net)
    _, params, _ = functionalize(model)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == weights.find(name).params  # as torchvision's table has it
    for size in sizes:
        images = oracle.random_images(2, size, dtype="float64")
        assert difference(logits(model, images), torch_logits(net, images)) <= 1e-9


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_logits_match_torchvision_in_single_precision(name):
    net = oracle.torch_model(name, dtype="float32")
    images = oracle.random_images(2, EVEN, dtype="float32")
    ours = logits(oracle.our_model(name, net), images)
    assert difference(ours, torch_logits(net, images)) <= 1e-4


@pytest.mark.parametrize("name", rows(quick=TRAINED))
def test_three_steps_match_torchvision(name):
    with oracle.precision("float64"):
        net = oracle.torch_model(name, dtype="float64")
        # Deep nets need more images: BatchNorm over few values is ill-conditioned.
        batch = 2 if name in TRAINED else verify.TRAIN_BATCH
        images = oracle.random_images(batch, oracle.odd_size(name), dtype="float64")
        found = verify.compare_training(name, net, images)
    assert {
        what: worst for what, worst in found.items() if worst.difference > 1e-8
    } == {}


def googlenet(**options):
    net = torchvision.models.get_model("googlenet", init_weights=True, **options)
    return oracle.randomize(net.double())


@pytest.mark.slow
def test_googlenet_without_transform_input_matches_torchvision(float64):
    net = googlenet(aux_logits=False)  # as torchvision builds it without weights
    images = oracle.random_images(2, 32, dtype="float64")
    model = oracle.our_model("googlenet", net)
    assert difference(logits(model, images), torch_logits(net, images)) > 1e-2
    model = oracle.our_model("googlenet_untransformed", net)
    assert difference(logits(model, images), torch_logits(net, images)) <= 1e-9


def test_googlenet_has_auxiliary_heads_on_request(float64):
    net = googlenet(transform_input=True, aux_logits=True)
    state = oracle.state_arrays(net)
    model = nnx.eval_shape(lambda: GoogLeNet(aux_logits=True, rngs=nnx.Rngs(0)))
    convert(model, state)
    for _, module in modules(model):
        if isinstance(module, nnx.Dropout):
            module.rate = 0.0
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    apply, params, stats = functionalize(model)
    images = oracle.random_images(2, oracle.ODD, dtype="float64")
    assert jax.eval_shape(apply, params, stats, images)[0].shape == (2, 1000)
    step = jax.jit(apply, compiler_options=verify.QUICK)
    ours, stats = step(params, stats, images, key=jax.random.key(0))
    theirs = net.train()(oracle.torch_images(images))
    for mine, true in zip(ours, theirs, strict=True):
        assert difference(np.asarray(mine), true.detach().numpy()) <= 1e-9
    after = oracle.state_arrays(net)
    for name, array in to_state_dict(model, params, stats).items():
        if name in after:
            np.testing.assert_allclose(array, after[name], rtol=1e-9, atol=1e-12)


def test_googlenet_leaves_out_auxiliary_tensors_and_no_others():
    net = torchvision.models.get_model("googlenet", init_weights=False)
    state = oracle.state_arrays(net)
    assert any(name.startswith("aux1.") for name in state)
    convert(models.abstract("googlenet"), state)
    with pytest.raises(ValueError, match=r"1 unexpected \(aux3.fc.weight\)"):
        convert(models.abstract("googlenet"), state | {"aux3.fc.weight": np.ones(1)})
    with pytest.raises(ValueError, match="unexpected"):
        convert(models.abstract("resnet18"), state)


def test_dropout_drops_where_torchvision_does():
    rates = {}
    for name in ("vgg11", "googlenet", "mobilenet_v2", "mobilenet_v3_small"):
        model = models.abstract(name)
        rates[name] = {
            ".".join(map(str, path)): module.rate
            for path, module in modules(model)
            if isinstance(module, nnx.Dropout)
        }
    assert rates == {
        "vgg11": {"classifier.2": 0.5, "classifier.5": 0.5},
        "googlenet": {"dropout": 0.2},
        "mobilenet_v2": {"classifier.0": 0.2},
        "mobilenet_v3_small": {"classifier.2": 0.2},
    }


def test_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match="did you mean .*resnext50_32x4d"):
        models.abstract("resnext50_32x4")
