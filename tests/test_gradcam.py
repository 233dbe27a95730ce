"""Grad-CAM against the same with hooks on torchvision's models, in float64."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import oracle
from jaxvision import gradcam, models
from jaxvision.functional import functionalize
from tests.families import ONE_A_FAMILY

LABELS = np.array([2, 0], np.int32)
TORCH_NODES = {
    "resnet18": "layer4",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "googlenet": "inception5b",
    "vgg11_bn": "features.27",
}
"""Torch's own name for the last map; DenseNet's is the result of a function."""


def torch_maps(net, module, images, labels):
    """Grad-CAM by hooks, not scaled, and the logits."""
    import torch

    kept = []
    handle = module.register_forward_hook(lambda *args: kept.append(args[-1]))
    logits = net(images)
    handle.remove()
    (maps,) = kept
    maps.retain_grad()
    logits.gather(1, labels[:, None]).sum().backward(retain_graph=True)
    weights = maps.grad.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weights * maps).sum(1)).detach().numpy()
    return cam, logits.detach().numpy()


def our_maps(name, net, images, layer):
    model = oracle.our_model(name, net)
    apply, params, stats = functionalize(model, forward=gradcam.probe(layer))
    compute = jax.jit(partial(gradcam.grad_cam, apply))
    return compute(params, stats, images, jnp.asarray(LABELS))


@pytest.mark.floor
@pytest.mark.torch
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "resnet18" else pytest.mark.slow)
        for name in TORCH_NODES
    ],
)
def test_maps_equal_those_of_hooks_in_torch(name, float64):
    torch = pytest.importorskip("torch")
    net = oracle.torch_model(name, dtype="float64", num_classes=3)
    layer = gradcam.trunk(models.abstract(name))[-1]
    images = oracle.random_images(2, 97, dtype="float64")
    module = net.get_submodule(TORCH_NODES[name])
    theirs, logits = torch_maps(
        net, module, oracle.torch_images(images), torch.tensor(LABELS).long()
    )
    ours, our_logits = our_maps(name, net, images, layer)
    assert ours.shape[1] >= 3 and theirs.max() > 0
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.max())
    np.testing.assert_allclose(our_logits, logits, rtol=1e-9, atol=1e-9)


@pytest.mark.torch
@pytest.mark.slow
def test_densenets_map_is_rectified(float64):
    torch = pytest.importorskip("torch")
    net = oracle.torch_model("densenet121", dtype="float64", num_classes=3)
    images = oracle.random_images(2, 97, dtype="float64")
    maps = torch.relu(net.features(oracle.torch_images(images))).detach()
    maps.requires_grad_()
    logits = net.classifier(maps.mean((2, 3)))
    logits.gather(1, torch.tensor(LABELS).long()[:, None]).sum().backward()
    weights = maps.grad.mean(dim=(2, 3), keepdim=True)
    theirs = torch.relu((weights * maps).sum(1)).detach().numpy()
    ours, _ = our_maps("densenet121", net, images, "relu")
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.max())


@pytest.mark.torch
def test_an_inner_map_equals_torchs(float64):
    """The layers after the map are convolutions, whose gradients count."""
    torch = pytest.importorskip("torch")
    net = oracle.torch_model("resnet18", dtype="float64", num_classes=3)
    images = oracle.random_images(2, 33, dtype="float64")
    theirs, _ = torch_maps(
        net,
        net.layer2,
        oracle.torch_images(images),
        torch.tensor(LABELS).long(),
    )
    ours, _ = our_maps("resnet18", net, images, "layer2")
    assert ours.shape == (2, 5, 5)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.max())


@pytest.mark.torch
def test_heat_is_enlarged_as_torch_enlarges():
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    maps[2] = 0
    theirs = torch.nn.functional.interpolate(
        torch.tensor(maps)[:, None], size=(23, 23), mode="bilinear"
    ).numpy()[:, 0]
    theirs[:2] /= theirs[:2].max((1, 2), keepdims=True)
    ours = gradcam.heat(jnp.asarray(maps), size=23)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours[0].max() == 1 and not ours[2].any()


@pytest.mark.slow
def test_every_trunk_ends_in_the_last_map_and_small_images_go_back():
    chosen = {
        "resnet18": ("layer4", "layer2"),
        "mobilenet_v2": ("features.18", "features.6"),
        "vgg11_bn": ("features.27", "features.20"),
    }
    for name, (large, small) in chosen.items():
        assert gradcam.choose_layer(name, size=224) == large
        assert gradcam.choose_layer(name, size=32) == small
    assert gradcam.choose_layer("cnn", size=32) == "features.19"
    assert gradcam.choose_layer("cnn_fast", size=32) == "blocks.1"
    assert gradcam.choose_layer("resnet18", size=1) == "layer1"
    with pytest.raises(ValueError, match="FCN has no convolutional maps"):
        gradcam.choose_layer("fcn", size=32)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ONE_A_FAMILY, *models.small_names()])
def test_every_family_can_be_probed_or_says_why_not(name):
    model = models.abstract(name)
    if name.startswith("fcn"):
        with pytest.raises(ValueError, match="no convolutional maps"):
            gradcam.trunk(model)
        return
    size = model.smallest if name in models.small_names() else 224
    layer = gradcam.choose_layer(name, size=size)
    apply, params, stats = functionalize(model, forward=gradcam.probe(layer))
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    maps, _ = jax.eval_shape(
        partial(gradcam.grad_cam, apply), params, stats, images, labels
    )
    assert min(maps.shape[1:]) >= gradcam.LEAST


@pytest.mark.floor
def test_a_probed_model_is_the_model_and_finds_the_bright_corner():
    """A net whose class 1 is brightness: the map shows where the image is bright."""
    model = models.create("cnn_small", num_classes=2, rngs=nnx.Rngs(0))
    images = jnp.zeros((1, 32, 32, 3)).at[:, :16, 16:].set(3.0)
    before = nnx.graphdef(model)
    apply, params, stats = functionalize(model)
    plain, _ = apply(params, stats, images)
    probe, params, stats = functionalize(model, forward=gradcam.probe("features.10"))
    (logits, maps), _ = probe(params, stats, (images, 0.0))
    np.testing.assert_array_equal(logits, plain)
    assert nnx.graphdef(model) == before
    # Each weight of the classifier is positive for class 1 and negative for class 0.
    hidden = params["hidden"][1]["kernel"]
    params["hidden"][1]["kernel"] = jnp.abs(hidden)
    head = jnp.ones_like(params["head"]["kernel"]) * jnp.array([[-1.0, 1.0]])
    params["head"]["kernel"] = head

    @jax.jit
    @chex.assert_max_traces(n=1)
    def compute(labels):
        return gradcam.grad_cam(probe, params, stats, images, labels)[0]

    found = compute(jnp.array([1]))[0]
    np.testing.assert_allclose(compute(jnp.array([0])), 0)
    inside = found[1:3, 5:7].mean()
    assert inside > 2 * found[5:7, 1:3].mean()


def test_a_layer_that_is_not_there_is_named():
    model = models.abstract("resnet18")
    apply, params, stats = functionalize(model, forward=gradcam.probe("layer9"))
    with pytest.raises(ValueError, match="no layer 'layer9'"):
        jax.eval_shape(apply, params, stats, (jnp.zeros((1, 32, 32, 3)), 0.0))
