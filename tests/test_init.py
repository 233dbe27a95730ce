"""Random weights are drawn as torchvision draws them, family by family."""

import numpy as np
import pytest
from flax import nnx

from converters import to_state_dict
from converters.torchvision_import import import_torchvision
from jaxvision import models
from jaxvision.functional import functionalize
from tests.families import one_a_family, slow_but

FAMILIES = one_a_family("vgg11_bn", "resnet18", "resnext50_32x4d", "mobilenet_v3_small")
SIGMAS = 6
"""Of the sampling error: some thousand comparisons are made."""


def ours(name, *, seed=0, **options):
    model = models.create(name, rngs=nnx.Rngs(seed), **options)
    return to_state_dict(model, *functionalize(model)[1:])


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", slow_but(("resnet18", "googlenet", "mobilenet_v3_small"), FAMILIES)
)
def test_random_weights_have_torchvisions_distribution(name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = import_torchvision().models.get_model(
        name, **models.abstract(name).torch_options
    )
    drawn = ours(name)
    assert drawn.keys() == net.state_dict().keys()
    for key, tensor in net.state_dict().items():
        # A million tell as much as a hundred.
        mine, theirs = (v.ravel()[:1_000_000] for v in (drawn[key], tensor.numpy()))
        if theirs.min() == theirs.max():  # zeros and ones
            np.testing.assert_array_equal(mine, theirs, err_msg=key)
            continue
        error = SIGMAS * np.sqrt(2 / mine.size)  # of a difference of two samples
        scale = theirs.std()
        assert abs(mine.mean()) < SIGMAS * scale / np.sqrt(mine.size), key
        # The deviation's own error is 0.71 for a normal, 0.45 for a uniform law.
        assert abs(mine.std() / scale - 1) < error, key
        if mine.size > 10_000:  # 3 for a normal law, 1.8 for a uniform one
            kurtosis = [np.mean((v / v.std()) ** 4) for v in (mine, theirs)]
            assert abs(kurtosis[0] - kurtosis[1]) < error * np.sqrt(24), key


def test_new_head_is_drawn_as_torchs_linear():
    model = models.create("vgg11", num_classes=40, rngs=nnx.Rngs(0))
    before = np.asarray(model.classifier[3].kernel[...])
    models.new_head("vgg11", model, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(model.classifier[3].kernel[...], before)
    bound = 1 / np.sqrt(4096)
    for leaf in (model.classifier[6].kernel[...], model.classifier[6].bias[...]):
        values = np.asarray(leaf).ravel()
        assert 0.9 * bound < np.abs(values).max() <= bound
        spread = values.std() / (bound / np.sqrt(3))
        assert abs(spread - 1) < SIGMAS / np.sqrt(2 * values.size)


def test_the_seed_decides_the_weights():
    first, again, other = (
        ours("mobilenet_v3_small", seed=seed, num_classes=3) for seed in (0, 0, 1)
    )
    for key, array in first.items():
        np.testing.assert_array_equal(array, again[key])
    kernels = [key for key, array in first.items() if array.ndim > 1]
    assert all(np.any(first[key] != other[key]) for key in kernels)
