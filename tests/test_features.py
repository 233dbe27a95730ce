"""Outputs of inner layers by torchvision's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import ConversionError, convert, oracle, weights
from converters.torchvision_import import import_torchvision
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.models.nodes import find

FAMILIES = {
    "vgg11_bn": {},
    "resnet18": {},
    "densenet121": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
}
VGG16 = "vgg16"
FIRST = ["features.0", "features.2", "features.5", "features.7"]


@pytest.fixture(scope="module")
def first_convolutions():
    """Random weights of VGG-16's first four convolutions, in torch's layout."""
    rng = np.random.default_rng(0)
    widths = [3, 64, 64, 128, 128]
    state = {}
    for layer, cin, cout in zip(FIRST, widths, widths[1:], strict=False):
        kernel = rng.standard_normal((cout, cin, 3, 3)) / np.sqrt(4.5 * cin)
        state[f"{layer}.weight"] = kernel.astype(np.float32)
        state[f"{layer}.bias"] = 0.1 * rng.standard_normal(cout).astype(np.float32)
    return state


def extractor(state, layers):
    model = models.cut(models.abstract(VGG16), layers=layers)
    return functionalize(convert(model, state), forward=models.capture(layers))


@pytest.mark.torch
@pytest.mark.parametrize("name", FAMILIES)
def test_torchvisions_nodes_are_layers(name):
    pytest.importorskip("torch")
    torchvision = import_torchvision()
    from torchvision.models.feature_extraction import get_graph_node_names

    net = torchvision.models.get_model(name, **FAMILIES[name])
    modules = dict(net.named_modules())
    model = models.abstract(name)
    _, nodes = get_graph_node_names(net.eval())
    nodes = [node for node in nodes if node in modules]
    for node in nodes:
        assert find(model, node).path == node


@pytest.mark.torch
def test_layers_equal_torchvisions_before_and_after_a_relu(first_convolutions, float64):
    torch = pytest.importorskip("torch")
    import_torchvision()
    from torchvision.models import vgg

    body = vgg.make_layers(vgg.cfgs["D"])[:9].double()
    body.load_state_dict(
        {
            key.removeprefix("features."): torch.tensor(array)
            for key, array in first_convolutions.items()
        }
    )
    images = oracle.random_images(2, 33, dtype="float64")
    state = {key: array.astype(np.float64) for key, array in first_convolutions.items()}
    layers = ["features.8", "features.0", "features.7", "features.3"]
    apply, params, stats = extractor(state, layers)
    ours, _ = apply(params, stats, images)
    assert ours.keys() == {*layers}
    x = oracle.torch_images(images)
    for index, module in enumerate(body):
        # Not in place: torchvision's ReLU would change what the convolution gave.
        x = torch.relu(x) if isinstance(module, torch.nn.ReLU) else module(x)
        if f"features.{index}" in ours:
            theirs = x.detach().permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(ours[f"features.{index}"], theirs, atol=1e-12)
    assert ours["features.7"].min() < 0
    np.testing.assert_array_equal(ours["features.8"], nnx.relu(ours["features.7"]))


def test_what_comes_after_the_last_layer_is_neither_kept_nor_computed(
    first_convolutions, monkeypatch
):
    monkeypatch.setenv("JAXVISION_CONV", "xla")
    apply, params, stats = extractor(first_convolutions, ["features.8"])
    assert list(params) == ["features"]
    assert sorted(params["features"]) == [0, 2, 5, 7]
    assert not jax.tree.leaves(stats)
    images = jnp.ones((1, 32, 32, 3))
    program = str(jax.make_jaxpr(apply)(params, stats, images))
    assert program.count("conv_general_dilated[") == 4
    with pytest.raises(ConversionError, match=r"features.5.weight.*features.7.bias"):
        extractor(first_convolutions, ["features.3"])


def test_full_model_gives_layers_beside_its_own_output():
    plain = models.create("resnet18", num_classes=5, rngs=nnx.Rngs(0))
    images = jnp.asarray(oracle.random_images(2, 33, dtype="float32"))
    apply, params, stats = functionalize(plain)
    logits, _ = apply(params, stats, images)
    layers = ["layer1", "layer1.1", "layer2.0.bn2", ""]
    apply, params, stats = functionalize(plain, forward=models.capture(layers))
    out, _ = apply(params, stats, images)
    assert out.keys() == {*layers}
    np.testing.assert_array_equal(out[""], logits)
    np.testing.assert_array_equal(out["layer1"], out["layer1.1"])
    assert out["layer2.0.bn2"].shape == (2, 5, 5, 128)
    assert out["layer2.0.bn2"].min() < 0 == out["layer1"].min()


def test_gradient_flows_through_features(first_convolutions):
    apply, params, stats = extractor(
        first_convolutions, ["features.3"] + ["features.8"]
    )

    @jax.jit
    def loss(images):
        return sum(
            jnp.square(y).sum() for y in apply(params, stats, images)[0].values()
        )

    gradient = jax.grad(loss)(jnp.ones((1, 32, 32, 3)))
    assert float(jnp.abs(gradient).min()) >= 0 < float(jnp.abs(gradient).max())


def test_unknown_layer_names_its_neighbours():
    with pytest.raises(ValueError, match=r"VGG has no layer 'features.31'; features "):
        models.cut(models.abstract(VGG16), layers=["features.31"])
    with pytest.raises(ValueError, match=r"at its top there are .*classifier"):
        models.cut(models.abstract(VGG16), layers=["layer1"])


@pytest.mark.data
def test_a_checkpoint_of_the_first_layers_serves(data_folder):
    state = weights.load_state_dict(data_folder / "weights/vgg16_features_relu2_2.pth")
    apply, params, stats = extractor(state, ["features.3", "features.8"])
    out, _ = apply(params, stats, jnp.ones((1, 32, 32, 3)))
    assert {layer: y.shape for layer, y in out.items()} == {
        "features.3": (1, 32, 32, 64),
        "features.8": (1, 16, 16, 128),
    }
