"""Outputs of inner layers by torchvision's names."""

import chex
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
from tests.families import one_a_family

pytestmark = pytest.mark.floor

FAMILIES = one_a_family("vgg11_bn", "mobilenet_v3_small")
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

    net = torchvision.models.get_model(name, **models.abstract(name).torch_options)
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


def test_the_second_call_of_a_function_is_a_layer_of_its_own():
    model = models.create("resnet18", num_classes=5, rngs=nnx.Rngs(0))
    layers = ["layer1.0.relu_1", "layer1.0.relu", "layer1.0", "layer1"]
    apply, params, stats = functionalize(model, forward=models.capture(layers))
    out, _ = apply(params, stats, jnp.ones((1, 33, 33, 3)))
    np.testing.assert_array_equal(out["layer1.0.relu_1"], out["layer1.0"])
    assert np.abs(out["layer1.0.relu"] - out["layer1.0"]).max() > 0
    never = functionalize(model, forward=models.capture(["layer1.0.relu_2"]))[0]
    with pytest.raises(ValueError, match="never called: layer1.0.relu_2"):
        never(params, stats, jnp.ones((1, 33, 33, 3)))


def test_captured_training_moves_all_statistics_that_it_comes_by():
    model = models.create("resnet18", num_classes=5, rngs=nnx.Rngs(0))
    images = jnp.asarray(oracle.random_images(2, 65, dtype="float32"))
    plain, params, stats = functionalize(model)
    layers = ["bn1", "layer1.0", ""]
    apply, _, _ = functionalize(model, forward=models.capture(layers))
    key = jax.random.key(0)
    chex.assert_trees_all_equal(
        apply(params, stats, images, key=key)[1],
        plain(params, stats, images, key=key)[1],
    )


@pytest.mark.parametrize("name", ["resnet18", "cnn_fast"])
def test_a_model_stays_whole_where_its_beginning_is_cut_off(name):
    model = models.create(name, num_classes=5, rngs=nnx.Rngs(0))
    layer = model.trunk()[0]
    definition = nnx.graphdef(model)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    part = models.cut(model, layers=[layer])
    assert nnx.graphdef(model) == definition and type(part) is type(model)
    _, params, stats = functionalize(model)
    apply, few, some = functionalize(part, forward=models.capture([layer]))
    assert "head" not in few and "fc" not in few and few.keys() < params.keys()
    assert all(  # the arrays themselves, not copies
        any(leaf is other for other in jax.tree.leaves(params))
        for leaf in jax.tree.leaves(few)
    )
    images = jnp.ones((2, 32, 32, 3))
    whole = functionalize(model, forward=models.capture([layer]))[0]
    np.testing.assert_array_equal(
        apply(few, some, images)[0][layer], whole(params, stats, images)[0][layer]
    )
    # Nor does what is put into the part come into the model.
    nnx.update(part, jax.tree.map(jnp.zeros_like, nnx.state(part, nnx.Param)))
    assert all(not leaf.any() for leaf in jax.tree.leaves(functionalize(part)[1]))
    chex.assert_trees_all_equal(functionalize(model)[1], before)


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
    with pytest.raises(ValueError, match="there are 0, 1, 2, 3, .*30$"):
        models.cut(models.abstract(VGG16), layers=["features.conv1"])
    forward = models.capture(["features.31"])
    apply, params, stats = functionalize(models.abstract(VGG16), forward=forward)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match="VGG has no layer 'features.31'"):
        jax.eval_shape(apply, params, stats, images)


@pytest.mark.data
def test_a_checkpoint_of_the_first_layers_serves(data_folder):
    state = weights.load_state_dict(data_folder / "weights/vgg16_features_relu2_2.pth")
    apply, params, stats = extractor(state, ["features.3", "features.8"])
    out, _ = apply(params, stats, jnp.ones((1, 32, 32, 3)))
    assert {layer: y.shape for layer, y in out.items()} == {
        "features.3": (1, 32, 32, 64),
        "features.8": (1, 16, 16, 128),
    }
