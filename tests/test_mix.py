"""Mixup and CutMix against torchvision's classes; the shares and boxes they draw."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from converters.torchvision_import import import_torchvision
from jaxvision import augment
from jaxvision.augment import mix
from tests.augmentations import (
    MANY,
    assert_counts_alike,
    assert_uncorrelated,
    assert_uniform,
    key,
    photos,
)

SHARES = np.array([0.0, 1.0, 0.37, 0.9, 0.04, 0.6, 0.75])
CENTERS = np.array([[0, 0], [3, 5], [12, 15], [6, 8], [7, 1], [0, 9], [12, 0]])
N = len(SHARES)


@pytest.fixture
def batch():
    """Images, soft targets, and torchvision's class on the sample that is asked for."""
    torch = pytest.importorskip("torch")
    import_torchvision()
    images = photos(13, 16, n=N)
    targets = np.random.default_rng(1).dirichlet(np.ones(4), N)
    tensors = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(targets)

    def theirs(transform, parameters):
        parameters |= {"labels": tensors[1], "batch_size": N}
        mixed, rows = (transform.transform(x, parameters) for x in tensors)
        return mixed.permute(0, 2, 3, 1).numpy(), rows.numpy()

    return images, targets, theirs


def assert_samples_equal(ours, theirs):
    """Sample k of ours is sample k of torchvision's batch for its share."""
    for k, expected in enumerate(theirs):
        for mine, other in zip(ours, expected, strict=True):
            assert mine.dtype == other.dtype and mine.shape == other.shape
            # A fused multiply-add rounds once where torch rounds twice.
            np.testing.assert_allclose(mine[k], other[k], rtol=0, atol=2.3e-16)


@pytest.mark.torch
def test_mixup_equals_torchvisions(batch, float64):
    images, targets, theirs = batch
    from torchvision.transforms import v2

    transform = v2.MixUp(num_classes=4)
    expected = [theirs(transform, {"lam": float(share)}) for share in SHARES]
    assert_samples_equal(jax.jit(mix.mixup_with)(images, targets, SHARES), expected)


@pytest.mark.torch
def test_cutmix_equals_torchvisions_for_its_share_and_centre(
    batch, float64, monkeypatch
):
    images, targets, theirs = batch
    import torch
    from torchvision.transforms import v2

    transform = v2.CutMix(num_classes=4)
    image = torch.zeros(N, 3, 13, 16)
    expected = []
    for share, (row, column) in zip(SHARES, CENTERS, strict=True):
        # Its own arithmetic, with what it would draw given.
        places = {16: column, 13: row}
        monkeypatch.setattr(transform, "_dist", _Always(torch.tensor(share)))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda n, size: torch.tensor([places[n]]))  # noqa: B023
            parameters = transform.make_params([image])
        expected.append(theirs(transform, parameters))
    ours = jax.jit(mix.cutmix_with)(images, targets, SHARES, CENTERS)
    assert_samples_equal(ours, expected)
    # A box at the border is cut, and the target then keeps more than the share.
    kept = 1 - (np.asarray(ours[0]) != images).any(axis=3).mean(axis=(1, 2))
    assert kept[0] > 0.7 and kept[1] == 1


class _Always:
    """A distribution of one value."""

    def __init__(self, value):
        self.value = value

    def sample(self, shape):
        return self.value


@pytest.mark.parametrize("name", mix.MIXES)
def test_shares_are_beta_and_differ_by_sample(name, monkeypatch, unchecked):
    caught = []
    catch = lambda images, targets, *drawn: caught.append(drawn)  # noqa: E731
    monkeypatch.setattr(mix, f"{name}_with", catch)
    images, targets = jnp.zeros((MANY, 9, 7, 1)), jnp.zeros((MANY, 2))
    for alpha in (0.2, 1.0, 3.0):
        mix.MIXES[name].__wrapped__(key(), images, targets, alpha=alpha)
    shares = [np.asarray(drawn[0]) for drawn in caught]
    for share, alpha in zip(shares, (0.2, 1.0, 3.0), strict=True):
        assert_uniform(stats.beta.cdf(share, alpha, alpha), 0, 1)
    for share, *centers in caught:
        assert_uncorrelated(share, *(c for pairs in centers for c in pairs.T))
    if name == "cutmix":
        row, column = np.asarray(caught[0][1]).T
        assert_counts_alike(row, 9)
        assert_counts_alike(column, 7)


@pytest.mark.parametrize("name", mix.MIXES)
def test_mixed_images_hold_the_shares_that_their_targets_say(name):
    labels = jnp.arange(MANY) % 5
    targets = jax.nn.one_hot(labels, 5)
    # One value for each class: the mean of a mixed image tells the shares.
    values = jnp.array([0.0, 0.6, 1.0, 0.1, 0.4])
    images = jnp.broadcast_to(values[labels][:, None, None, None], (MANY, 8, 6, 3))
    # Not compiled as a whole, so that the tests share one generator's compilation.
    function = partial(mix.MIXES[name].__wrapped__, alpha=1.0)
    mixed, rows = function(key(), images, targets)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), rows @ values, atol=1e-5)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert mixed.min() >= 0 and mixed.max() <= 1
    # A sample's own class and the one before it, nothing else.
    assert not np.any(rows[(targets == 0) & (jnp.roll(targets, 1, axis=0) == 0)])
    np.testing.assert_array_equal(function(key(), images, targets)[1], rows)
    assert np.any(function(key(1), images, targets)[1] != rows)


@pytest.mark.parametrize("name", augment.MIXES)
def test_mixes_trace_in_a_scan_in_the_images_dtype(name):
    function = partial(augment.MIXES[name], alpha=0.2)
    images = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.bfloat16)
    targets = jax.ShapeDtypeStruct((4, 10), jnp.float32)

    def epoch(key, images, targets):
        keys = jax.random.split(key, 3)
        step = lambda carry, key: (carry, function(key, *carry))  # noqa: E731
        return jax.lax.scan(step, (images, targets), keys)[1]

    mixed, rows = jax.eval_shape(epoch, key(), images, targets)
    assert mixed.shape == (3, 4, 8, 8, 3) and mixed.dtype == jnp.bfloat16
    assert rows.shape == (3, 4, 10) and rows.dtype == jnp.float32


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named():
    images, targets = jnp.zeros((4, 8, 8, 3)), jnp.zeros((4, 10))
    for mixed in augment.MIXES.values():
        for alpha in (0.0, -1.0):
            with pytest.raises(ValueError, match="alpha must be above 0, got"):
                mixed(key(), images, targets, alpha=alpha)
        for wrong in (jnp.zeros(4, jnp.int32), targets[:3], targets.astype(jnp.int32)):
            with pytest.raises(ValueError, match=r"shape \(4, classes\).*one_hot"):
                mixed(key(), images, wrong, alpha=1.0)


@pytest.mark.parametrize("name", augment.MIXES)
def test_mixing_takes_rows_of_labels(name):
    """Of one label each the same as of classes; of several the shares of each."""
    images = jnp.asarray(photos(12, 12, n=4), jnp.float32)
    labels = jnp.asarray([0, 2, 1, 2])
    rows = jax.nn.one_hot(labels, 3, dtype=jnp.uint8)
    transform = augment.mix_transform(name, alpha=1.0, num_classes=3)
    by_class = transform(key(3), {"image": images, "label": labels})
    by_row = transform(key(3), {"image": images, "label": rows})
    for part in ("image", "target"):
        np.testing.assert_array_equal(by_class[part], by_row[part])
    every = transform(key(3), {"image": images, "label": rows.at[1:].set(1)})
    np.testing.assert_allclose(every["target"][2:], 1)
    share = by_row["target"][1, 2]  # of the image itself, the rest is its neighbour's
    np.testing.assert_allclose(every["target"][1], jnp.array([1, share, share]))
    np.testing.assert_array_equal(every["label"], rows.at[1:].set(1))
