"""Photos, torchvision's functions and checks of draws, for the augmentation tests."""

import sys
from functools import partial

import jax
import numpy as np
import pytest

from converters.torchvision_import import import_torchvision
from jaxvision import augment

N = 6


def photos(height=37, width=52, n=N, seed=0, low=0.0, high=1.0):
    """Noise, patches of one colour and gray ones: every branch of a colour formula."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(low, high, (n, height, width, 3))
    images[:, :5, :7] = rng.uniform(low, high, (n, 1, 1, 3))
    images[:, 5:9, :9] = rng.uniform(low, high, (n, 1, 1, 1))
    images[:, 9:11, :3], images[:, 11:13, :3] = low, high
    return images


@pytest.fixture(scope="module")
def F():
    """torchvision's functional transforms for NHWC arrays, one sample at a time."""
    torch = pytest.importorskip("torch")
    import_torchvision()
    from torchvision.transforms.v2 import functional

    def call(name, images, *parameters, **options):
        results = []
        for image, *arguments in zip(images, *parameters, strict=True):
            arguments = [np.asarray(a).tolist() for a in arguments]
            tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            result = getattr(functional, name)(tensor, *arguments, **options)
            results.append(result.permute(1, 2, 0).numpy())
        return np.stack(results)

    return call


def ours(name, *arrays, **options):
    """One of our functions, compiled."""
    return jax.jit(partial(getattr(augment, name), **options))(*arrays)


def close(ours, theirs, atol):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


MANY = 2000


def key(seed=0):
    return jax.random.key(seed)


@pytest.fixture
def drawn(monkeypatch, unchecked):
    """The parameters `random_<name>` gives to `to`; their last axis is the samples."""

    def draw(name, *, to, shape=(1, 1), n=MANY, **options):
        caught = []

        def catch(images, *parameters, **_):
            caught.extend(p if p is None else np.asarray(p).T for p in parameters)
            return images

        function = getattr(augment, f"random_{name}").__wrapped__
        monkeypatch.setattr(sys.modules[function.__module__], to, catch)
        images = np.broadcast_to(np.float32(0), (n, *shape, 3))
        function(key(), images, **options)
        return caught

    return draw


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov at one in a thousand, and the range."""
    values = np.sort(np.asarray(values, float))
    assert values[0] >= low - 1e-6 and values[-1] <= high + 1e-6
    steps = np.arange(len(values)) / len(values)
    distance = np.abs((values - low) / (high - low) - steps).max()
    assert distance < 1.95 / np.sqrt(len(values)) + 1 / len(values)


def assert_counts_alike(values, choices):
    """Chi-squared, five standard deviations, over whole numbers below `choices`."""
    counts = np.bincount(values, minlength=choices)
    expected = len(values) / choices
    assert len(counts) == choices
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < choices - 1 + 5 * np.sqrt(2 * (choices - 1))


def assert_uncorrelated(*parameters):
    """No two parameters, nor one and its neighbour in the batch, go together."""
    table = np.array([*parameters, *(np.roll(p, 1) for p in parameters)])
    correlation = np.corrcoef(table) - np.eye(len(table))
    assert np.abs(correlation).max() < 5 / np.sqrt(table.shape[1])
