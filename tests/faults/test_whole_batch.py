"""In however many parts a batch is computed, its means are those of the whole batch."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.training.perceptual import make_loss, squared
from jaxvision import losses, train
from jaxvision.augment import MIXES, mix_transform

SIZE, CLASSES = 32, 4
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.standard_normal((SIZE, 1, 1, 10)), jnp.float32)
LABELS = jnp.asarray(RNG.permutation([0] * 23 + [1] * 5 + [2] * 3 + [3]), jnp.int32)
KERNEL = jnp.asarray(0.1 * RNG.standard_normal((10, CLASSES)), jnp.float32)
BALANCED = losses.balanced_weights(LABELS, num_classes=CLASSES)
PARTS = (4, 8, 32)


def classify(params, stats, images, *, key=None):
    return images[:, 0, 0] @ params["head"]["kernel"], stats


def enlarge(params, stats, images, *, key=None):
    return images @ params["head"]["kernel"], stats


def step_of(apply, loss_fn, batch, *, parts):
    """The update and the metrics of one step."""
    tx = optax.sgd(1.0)
    step = train.make_train_step(apply, loss_fn, tx, accumulate=parts)
    params = {"head": {"kernel": jnp.copy(KERNEL)}}
    state, metrics = step(train.init_state(params, {}, tx), batch, jax.random.key(0))
    return state.params["head"]["kernel"] - KERNEL, metrics


def check(apply, loss_fn, batch, *, rtol=1e-5):
    whole = step_of(apply, loss_fn, batch, parts=1)
    for parts in PARTS:
        found = step_of(apply, loss_fn, batch, parts=parts)
        chex.assert_trees_all_close(found, whole, rtol=rtol, atol=1e-7)


def mixed(name):
    if name == "none":
        return {"image": IMAGES, "label": LABELS}
    mix = mix_transform(name, alpha=1.0, num_classes=CLASSES)
    return mix(jax.random.key(1), {"image": IMAGES, "label": LABELS})


@pytest.mark.parametrize("mix", ["none", *MIXES])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, BALANCED], ids=["alike", "balanced"])
def test_parts_of_a_batch_make_its_step(weights, smoothing, mix):
    loss_fn = losses.classification(class_weights=weights, label_smoothing=smoothing)
    check(classify, loss_fn, mixed(mix))


def test_a_part_whose_classes_weigh_nothing_adds_nothing():
    weights = jnp.asarray([0.0, 1.0, 2.0, 3.0])
    check(classify, losses.classification(class_weights=weights), mixed("none"))


def test_weights_count_with_one_image_a_part():
    step = partial(step_of, classify, batch=mixed("none"), parts=SIZE)
    weighted, _ = step(losses.classification(class_weights=BALANCED))
    plain, _ = step(losses.classification())
    assert jnp.linalg.norm(weighted - plain) > 0.5 * jnp.linalg.norm(plain)


def test_without_parts_the_loss_is_cross_entropy_to_the_bit():
    loss_fn = losses.classification(class_weights=BALANCED, label_smoothing=0.1)
    logits = classify({"head": {"kernel": KERNEL}}, {}, IMAGES)[0]
    loss, _ = loss_fn(logits, {"label": LABELS})
    expected = losses.cross_entropy(
        logits, LABELS, class_weights=BALANCED, label_smoothing=0.1
    )
    assert loss == expected


class Features:
    """Stands for VGG16: a loss of each image, averaged as `Perceptual` does."""

    def features(self, images):
        return {"a": jnp.tanh(images)}

    def loss(self, images, target_features):
        return jnp.square(jnp.tanh(images) - target_features["a"]).mean()


@pytest.mark.parametrize("perceptual", [None, Features()], ids=["mse", "perceptual"])
def test_enlarging_has_the_whole_batchs_means_too(perceptual):
    target = jnp.asarray(RNG.standard_normal((SIZE, 1, 1, CLASSES)), jnp.float32)
    loss_fn = make_loss(squared, perceptual, weight=0.1)
    check(enlarge, loss_fn, {"image": IMAGES, "target": target})
