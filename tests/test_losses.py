"""Losses against PyTorch and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import losses


@pytest.mark.torch
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", ["labels", "shares"])
def test_cross_entropy_equals_torch(float64, weighted, smoothing, targets):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.standard_normal((7, 5)), rng.integers(0, 5, 7)
    if targets == "shares":
        labels = rng.dirichlet(np.ones(5), 7)
    weights = rng.uniform(0.2, 3, 5) if weighted else None
    theirs_in = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        theirs_in,
        torch.tensor(labels),
        weight=None if weights is None else torch.tensor(weights),
        label_smoothing=smoothing,
    )
    theirs.backward()

    def ours(logits):
        return losses.cross_entropy(
            logits,
            jnp.asarray(labels),
            class_weights=None if weights is None else jnp.asarray(weights),
            label_smoothing=smoothing,
        )

    value, gradient = jax.jit(jax.value_and_grad(ours))(jnp.asarray(logits))
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, theirs_in.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.torch
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("targets", ["labels", "shares"])
def test_binary_cross_entropy_equals_torch(float64, weighted, smoothing, targets):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = 30 * rng.standard_normal((7, 5))  # where exp would overflow, too
    labels = rng.random((7, 5))
    if targets == "labels":
        labels = (labels < 0.4).astype(np.uint8)
    weights = rng.uniform(0.2, 9, 5) if weighted else None
    theirs_in = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.BCEWithLogitsLoss(
        pos_weight=None if weights is None else torch.tensor(weights)
    )(theirs_in, torch.tensor(labels * (1 - smoothing) + smoothing / 2).double())
    theirs.backward()

    def ours(logits):
        return losses.binary_cross_entropy(
            logits,
            jnp.asarray(labels),
            positive_weights=None if weights is None else jnp.asarray(weights),
            label_smoothing=smoothing,
        )

    value, gradient = jax.jit(jax.value_and_grad(ours))(jnp.asarray(logits))
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, theirs_in.grad.numpy(), rtol=1e-10, atol=1e-15)


def test_positive_weights_make_a_label_weigh_as_much_as_its_lack():
    labels = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]], np.uint8)
    weights = losses.positive_weights(jnp.asarray(labels))
    np.testing.assert_array_equal(weights, np.array([3, 1, 1], np.float32))


def test_multilabel_classification_takes_mixed_targets():
    labels = jnp.asarray([[1, 0], [0, 1]], jnp.uint8)
    logits, target = jnp.asarray([[2.0, -1.0], [0.0, 1.0]]), jnp.full((2, 2), 0.5)
    loss_fn = losses.multilabel_classification()
    loss, metrics = loss_fn(logits, {"label": labels})
    assert metrics == {"loss": loss} and loss.dtype == jnp.float32
    expected = losses.binary_cross_entropy(logits, labels)
    np.testing.assert_array_equal(loss, expected)
    mixed, _ = loss_fn(logits, {"label": labels, "target": target})
    np.testing.assert_array_equal(mixed, losses.binary_cross_entropy(logits, target))
    assert mixed != loss


def test_balanced_weights_make_classes_weigh_alike():
    labels = jnp.asarray([0, 0, 0, 1, 2, 2])
    weights = losses.balanced_weights(labels, num_classes=4)
    np.testing.assert_allclose(weights, [6 / 12, 6 / 4, 6 / 8, 0], rtol=1e-6)


def test_classification_reports_loss_and_accuracy():
    logits = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = jnp.asarray([0, 1, 1])
    loss, numbers = losses.classification()(logits, {"label": labels})
    expected = np.log1p(np.exp([-2.0, -1.0, 3.0])).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(numbers["accuracy"], 2 / 3, rtol=1e-6)


def test_classification_of_mixed_images_goes_by_their_shares():
    logits = jnp.asarray([[2.0, 0.0], [0.0, 1.0]])
    shares = jnp.asarray([[0.7, 0.3], [0.6, 0.4]])
    batch = {"label": jnp.asarray([1, 1]), "target": shares}
    loss, numbers = losses.classification()(logits, batch)
    expected = -(shares * jax.nn.log_softmax(logits)).sum(-1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(numbers["accuracy"], 0.5)
