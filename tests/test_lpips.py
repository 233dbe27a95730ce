"""LPIPS against the authors' code, and against its formula written out in torch."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.lpips import linear_weights
from converters.perceptual import vgg16_params
from jaxvision import lpips
from tests.vgg16 import random_state, torch_features, torch_layers

RELUS = (3, 8, 15, 22, 29)


def photos(dtype):
    rng = np.random.default_rng(0)
    a = rng.random((2, 17, 22, 3)).astype(dtype)
    return a, np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1).astype(dtype)


def random_linear(dtype):
    rng = np.random.default_rng(1)
    widths = zip(lpips.LAYERS, lpips.WIDTHS, strict=True)
    return {layer: rng.random(width).astype(dtype) for layer, width in widths}


def distance(state, linear, a, b):
    metric = lpips.make_lpips(vgg16_params(state, layers=lpips.LAYERS), linear=linear)
    return jax.jit(lpips.LPIPS.distance)(metric, a, b)


@pytest.mark.torch
def test_distance_follows_the_formula(float64):
    torch = pytest.importorskip("torch")
    state, linear = random_state(28, dtype="float64"), random_linear("float64")
    a, b = photos("float64")
    layers = torch_layers(state, 29)
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().reshape(1, 3, 1, 1)
    expected = 0
    outputs = [
        torch_features(
            layers, (2 * torch.tensor(x).permute(0, 3, 1, 2) - 1 - shift) / scale
        )
        for x in (a, b)
    ]
    for layer, index in zip(lpips.LAYERS, RELUS, strict=True):
        first, second = (
            x[index] / (x[index].norm(dim=1, keepdim=True) + 1e-10) for x in outputs
        )
        weight = torch.tensor(linear[layer]).reshape(1, -1, 1, 1)
        expected += (weight * (first - second) ** 2).sum(1).mean((1, 2))
    ours = distance(state, linear, a, b)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-9)


@pytest.mark.torch
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-5)])
def test_distance_equals_the_authors(dtype, tolerance, request, monkeypatch):
    torch = pytest.importorskip("torch")
    original = pytest.importorskip("lpips")
    if dtype == "float64":
        request.getfixturevalue("float64")
    state = random_state(28, dtype=dtype)
    # torchvision's network less the classifier, which takes seconds to draw.
    trunk = SimpleNamespace(features=torch_layers(state, 30))
    networks = original.pretrained_networks
    monkeypatch.setattr(networks.tv, "vgg16", lambda pretrained: trunk)
    net = original.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    a, b = photos(dtype)
    with torch.no_grad():
        theirs = net.to(getattr(torch, dtype))(
            *(torch.tensor(x).permute(0, 3, 1, 2) for x in (a, b)), normalize=True
        )
    ours = distance(state, linear_weights(), a, b)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, theirs.reshape(-1), rtol=tolerance)


@pytest.mark.slow
def test_places_without_features_have_no_length_and_no_gradient():
    features = jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]])
    unit = lpips._unit(features)
    np.testing.assert_allclose(unit, [[[[0.6, 0.8], [0, 0]]]], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.square(lpips._unit(x) - 1).sum())(features)
    assert jnp.isfinite(gradient).all()


def test_bad_weights_are_named(tmp_path, monkeypatch):
    linear = random_linear("float32")
    with pytest.raises(ValueError, match=r"linear weights must be .*relu5_3.*not"):
        lpips.make_lpips({}, linear={**linear, "relu5_3": np.zeros(3)})
    safetensors = pytest.importorskip("safetensors.numpy")
    file = tmp_path / "other.safetensors"
    safetensors.save_file({"lin0.weight": np.zeros(3, np.float32)}, file)
    with pytest.raises(ValueError, match="no weights of LPIPS over VGG16"):
        linear_weights(path=file)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install lpips"):
        linear_weights()
