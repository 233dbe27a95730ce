"""Losses as pure functions of arrays."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxvision.typing import Array, Batch, Float, Labels, Logits, LossFn, Metrics

Targets = Float[Array, "n classes"]


def cross_entropy(
    logits: Logits,
    labels: Labels | Targets,
    *,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
    total_weight: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy in nats, `torch.nn.functional.cross_entropy` to the rounding.

    Args:
      logits: unnormalised log-probabilities.
      labels: class indices, or a row of shares that sums to one for each image, as
        mixup makes them.
      class_weights: one factor a class. The mean over class indices is then weighted;
        that over rows of shares is not, as in torch.
      label_smoothing: the share of each target spread over all classes, in [0, 1].
      total_weight: what the sum over class indices is divided by; by default the sum of
        their own weights. For parts of a batch whose mean is to be the whole batch's.

    Reference: Szegedy et al., 2015, arXiv:1512.00567, section 7, for the smoothing.
    """
    log_probs = jax.nn.log_softmax(logits)
    classes = logits.shape[-1]
    weights = (
        jnp.ones(classes, logits.dtype) if class_weights is None else class_weights
    )
    if labels.ndim == 2:
        targets = (1 - label_smoothing) * labels + label_smoothing / classes
        return -(targets * weights[None] * log_probs).sum(-1).mean()
    chosen = weights[labels]
    picked = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    hard = -picked * chosen
    smooth = -(log_probs * weights[None]).sum(-1)
    loss = (1 - label_smoothing) * hard + label_smoothing / classes * smooth
    return loss.sum() / (chosen.sum() if total_weight is None else total_weight)


def balanced_weights(labels: Labels, *, num_classes: int) -> Float[Array, " classes"]:
    """`n / (classes * count)` for each class, so that a batch weighs all classes alike.

    The same as scikit-learn's `class_weight="balanced"`. A class without an image gets
    the weight zero.
    """
    counts = jnp.bincount(labels, length=num_classes)
    weights = len(labels) / (num_classes * jnp.maximum(counts, 1))
    # Wider ones, as where JAX computes in 64 bits, would make the loss as wide.
    return jnp.where(counts > 0, weights, 0).astype(jnp.float32)


def binary_cross_entropy(
    logits: Logits,
    targets: Targets | Array,
    *,
    positive_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Mean binary cross-entropy in nats over images and labels, each by itself.

    `torch.nn.functional.binary_cross_entropy_with_logits` to the rounding.

    Args:
      logits: of each label's probability.
      targets: `(n, classes)`, 1 where a label holds, or shares in [0, 1] of mixed ones.
      positive_weights: torch's `pos_weight`: one factor a label for where it holds.
      label_smoothing: the share of each target that becomes one half, in [0, 1].
    """
    targets = (1 - label_smoothing) * targets.astype(logits.dtype) + label_smoothing / 2
    weights = 1.0 if positive_weights is None else positive_weights[None]
    rest = jax.nn.softplus(-logits)
    return ((1 - targets) * logits + (1 + (weights - 1) * targets) * rest).mean()


def positive_weights(labels: Array) -> Float[Array, " classes"]:
    """How many images lack each label, divided by how many have it.

    So a label weighs as much where it holds as where it does not. Of one that no image
    has, the weight is 1.
    """
    count = (labels != 0).sum(axis=0)
    weights = (len(labels) - count) / jnp.maximum(count, 1)
    return jnp.where((count > 0) & (count < len(labels)), weights, 1).astype(
        jnp.float32
    )


def multilabel_classification(
    *,
    positive_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
) -> LossFn:
    """`loss_fn(logits, batch) -> (loss, metrics)` over rows of 0 and 1 in `label`.

    Where the batch has been mixed, its `target` takes the place of the labels. The
    metric is the `loss`.
    """

    def loss_fn(out: Array, batch: Batch) -> tuple[Array, Metrics]:
        loss = binary_cross_entropy(
            out,
            batch.get("target", batch["label"]),
            positive_weights=positive_weights,
            label_smoothing=label_smoothing,
        )
        return loss, {"loss": loss}

    return loss_fn


def classification(
    *,
    class_weights: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
) -> LossFn:
    """`loss_fn(logits, batch) -> (loss, metrics)` over `batch["label"]`.

    Where the batch has been mixed, its rows of shares, `batch["target"]`, take the
    place of the labels. The metrics are `loss` and `accuracy`, means over the batch; of
    a mixed image the label with the largest share is the right one.
    """
    return _Classification(class_weights, label_smoothing)


@dataclass(frozen=True)
class _Classification:
    """See `classification`; a `WeightedLoss`."""

    class_weights: Array | None
    label_smoothing: float
    total_weight: Array | None = None

    def __call__(self, out: Array, batch: Batch) -> tuple[Array, Metrics]:
        targets = _targets(batch)
        loss = cross_entropy(
            out,
            targets,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
            total_weight=self.total_weight,
        )
        labels = targets.argmax(-1) if targets.ndim == 2 else targets
        accuracy = (out.argmax(-1) == labels).mean(dtype=loss.dtype)
        return loss, {"loss": loss, "accuracy": accuracy}

    def of_part(self, whole: Batch, *, parts: int) -> LossFn:
        targets = _targets(whole)
        # Without weights, and over rows of shares, the mean is a plain one.
        if self.class_weights is None or targets.ndim == 2:
            return self
        total = self.class_weights[targets].sum() / parts
        return replace(self, total_weight=total)


def _targets(batch: Batch) -> Labels | Targets:
    return batch.get("target", batch["label"])
