"""The perceptual loss against the same loss in PyTorch, and what it asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from converters import ConversionError
from converters.perceptual import vgg16_params
from converters.weights import load_state_dict
from jaxvision.perceptual import NODES, make_perceptual
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD
from tests.vgg16 import random_state, torch_features, torch_layers

pytestmark = pytest.mark.floor

LAYERS = {"conv1_2": 0.3, "relu2_2": 1.0, "features.4": 0.2}
SHAPE = (2, 19, 23, 3)


def photos(dtype="float32", *, shape=SHAPE):
    """A batch and another close to it."""
    rng = np.random.default_rng(0)
    targets = rng.random(shape)
    images = np.clip(targets + 0.1 * rng.standard_normal(shape), 0, 1)
    return images.astype(dtype), targets.astype(dtype)


def perceptual(dtype="float32", layers=LAYERS, pooling="max"):
    return make_perceptual(
        vgg16_params(random_state(7, dtype=dtype), layers=layers),
        layers=layers,
        pooling=pooling,
    )


def loss(perceptual, images, targets):
    return perceptual.loss(images, perceptual.features(targets))


def torch_loss(layers, images, targets, weights):
    """Value, and gradient with respect to the images."""
    import torch

    def features(x):
        x = x.permute(0, 3, 1, 2)
        mean, std = (
            torch.tensor(v, dtype=x.dtype).reshape(1, 3, 1, 1)
            for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return torch_features(layers, (x - mean) / std)

    x = torch.tensor(images, requires_grad=True)
    with torch.no_grad():
        expected = features(torch.tensor(targets))
    total = torch.zeros((), dtype=x.dtype)
    for (index, weight), outputs in zip(weights, [features(x)] * 9, strict=False):
        total = total + weight * ((outputs[index] - expected[index]) ** 2).mean()
    total.backward()
    return total.item(), x.grad.numpy()


@pytest.mark.torch
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-5)])
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_value_and_gradient_equal_torchs(dtype, tolerance, pooling, request):
    torch = pytest.importorskip("torch")
    if dtype == "float64":
        request.getfixturevalue("float64")
    images, targets = photos(dtype)
    layers = torch_layers(random_state(7, dtype=dtype), 8)
    if pooling == "mean":
        layers[4] = torch.nn.AvgPool2d(2)
    expected, gradient = torch_loss(
        layers, images, targets, [(2, 0.3), (8, 1.0), (4, 0.2)]
    )
    step = jax.jit(jax.value_and_grad(loss, argnums=1))
    ours, our_gradient = step(perceptual(dtype, pooling=pooling), images, targets)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, expected, rtol=tolerance)
    off = np.abs(our_gradient - gradient).max() / np.abs(gradient).max()
    assert off <= tolerance


@pytest.mark.torch
def test_names_are_before_and_after_the_relu_of_torchvisions_layers():
    pytest.importorskip("torch")
    kinds = {"conv": "Conv2d", "relu": "ReLU", "pool": "MaxPool2d"}
    layers = torch_layers(random_state(28, dtype="float32"), 30)
    assert len(NODES) == len(layers)
    for name, node in NODES.items():
        layer = layers[int(node.removeprefix("features."))]
        assert type(layer).__name__ == kinds[name[:4]]
    widths = {"conv1_2": 64, "conv2_2": 128, "conv3_3": 256, "conv5_1": 512}
    for name, width in widths.items():
        index = int(NODES[name].removeprefix("features."))
        assert layers[index].out_channels == width
        assert NODES[name.replace("conv", "relu")] == f"features.{index + 1}"


def test_parameters_are_arguments_and_targets_are_constants():
    ours = perceptual(layers={"relu1_2": 1.0})
    images, targets = map(jnp.asarray, photos())
    program = jax.make_jaxpr(loss)(ours, images, targets)
    assert max((np.size(x) for x in program.consts), default=0) <= 3
    step = jax.jit(jax.value_and_grad(loss, argnums=2))
    value, gradient = step(ours, images, targets)
    assert value > 0
    np.testing.assert_array_equal(gradient, 0)
    # Other parameters, the same program.
    assert step(jax.tree.map(jnp.zeros_like, ours), images, targets)[0] == 0
    assert step._cache_size() == 1


def test_features_are_named_as_asked_and_need_their_own_parameters_alone():
    params = vgg16_params(random_state(7, dtype="float32"), layers=["relu2_2"])
    whole = {**params, "classifier": {0: {"kernel": jnp.zeros((3, 3))}}}
    ours = make_perceptual(whole, layers={"relu1_1": 1.0, "features.1": 0.5})
    assert list(ours.params["features"]) == [0]
    features = ours.features(jnp.asarray(photos()[0]))
    assert list(features) == ["relu1_1", "features.1"]
    np.testing.assert_array_equal(features["relu1_1"], features["features.1"])
    with pytest.raises(ValueError, match=r"features.10.bias must be \(256,\) and are"):
        make_perceptual(params, layers={"relu3_1": 1.0})


@pytest.mark.usefixtures("unchecked")
def test_pixels_out_of_range_are_refused_where_they_are_known():
    ours = perceptual(layers={"conv1_1": 1.0})
    images = jnp.asarray(photos()[0])
    ours.features(images * 1.3 - 0.15)
    for wrong in (images * 255, (images - 0.45) / 0.225, 2 * images - 1):
        with pytest.raises(ValueError, match=r"images in \[0, 1\], got pixels from"):
            ours.features(wrong)
    with pytest.raises(ValueError, match="got uint8: call to_float first"):
        ours.features((images * 255).astype(jnp.uint8))
    jax.eval_shape(ours.features, images * 255)


def test_wrong_layers_and_targets_are_named():
    params = vgg16_params(random_state(2, dtype="float32"), layers=["conv1_2"])
    with pytest.raises(ValueError, match="no layer 'relu2-2': did you mean relu2_2"):
        make_perceptual(params, layers={"relu2-2": 1.0})
    for layers in ({}, {"relu1_1": -1.0}, {"relu1_1": float("nan")}):
        with pytest.raises(ValueError, match="at least one layer, with weights"):
            make_perceptual(params, layers=layers)
    ours = make_perceptual(params, layers={"conv1_1": 1.0})
    images = jnp.asarray(photos()[0])
    with pytest.raises(ValueError, match=r"\(2, 19, 23, 64\).*\(1, 19, 23, 64\)"):
        ours.loss(images, ours.features(images[:1]))
    with pytest.raises(ValueError, match="take both from one Perceptual"):
        ours.loss(images, {"conv1_2": jnp.zeros((2, 19, 23, 64))})


def test_converter_takes_whole_checkpoints_and_no_others():
    first = random_state(2, dtype="float32")
    rest = {"features.5.weight": np.zeros(1), "classifier.6.bias": np.zeros(7)}
    params = vgg16_params(first | rest, layers=["relu1_2"])
    kernel = first["features.2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["features"][2]["kernel"], kernel)
    assert list(params["features"]) == [0, 2]
    with pytest.raises(ConversionError, match=r"unexpected \(features.34.weight"):
        vgg16_params(first | {"features.34.weight": np.zeros(1)}, layers=["relu1_2"])
    with pytest.raises(ConversionError, match=r"missing \(features.5"):
        vgg16_params(first, layers=["relu2_1"])


@pytest.mark.data
@pytest.mark.torch
def test_first_layers_of_the_real_network_give_torchs_loss(data_folder):
    pytest.importorskip("torch")
    state = load_state_dict(data_folder / "weights" / "vgg16_features_relu2_2.pth")
    photo = Image.open(data_folder / "sr" / "Set5" / "butterfly.png").convert("RGB")
    photo = photo.crop((40, 60, 40 + 75, 60 + 61))
    blurred = photo.resize((37, 30)).resize(photo.size)
    target, image = (np.asarray(x, np.float32)[None] / 255 for x in (photo, blurred))
    weights = {"relu1_2": 0.5, "relu2_2": 1.0}
    expected, gradient = torch_loss(
        torch_layers(state, 8), image, target, [(3, 0.5), (8, 1.0)]
    )
    ours = make_perceptual(vgg16_params(state, layers=weights), layers=weights)
    step = jax.jit(jax.value_and_grad(loss, argnums=1))
    value, our_gradient = step(ours, image, target)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    off = np.abs(our_gradient - gradient).max() / np.abs(gradient).max()
    assert off <= 1e-5
