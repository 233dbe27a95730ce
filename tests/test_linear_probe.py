"""The last layer by itself: the same numbers as in the whole model."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision import losses, models, optim, train
from jaxvision.functional import functionalize, mirrored, order_of_use
from jaxvision.linear_probe import split_head, trains_head_alone
from jaxvision.optim import Optim

pytestmark = pytest.mark.floor

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (4, 32, 32, 3))


def parts(name):
    model = models.create(name, num_classes=3, rngs=nnx.Rngs(0))
    head = models.variant(name).head
    apply, params, stats = functionalize(model, frozen=frozen_of(name))
    before = nnx.graphdef(model)
    body, last = split_head(model, head=head)
    assert nnx.graphdef(model) == before
    return apply, body, last, params, stats


def frozen_of(name):
    """All but the last layer, and dropout too."""
    return {
        "resnet18": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
        "mobilenet_v3_small": ("features", "classifier.0", "classifier.2"),
    }[name]


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)]
)
def test_training_the_last_layer_on_its_inputs_equals_training_it_in_the_model(name):
    apply, body, last, params, stats = parts(name)
    tx = optim.make_optimizer(Optim(), 0.1)
    batch = {"image": IMAGES, "label": jnp.asarray([0, 1, 2, 0])}
    features = {**batch, "image": jax.jit(body)(params, stats, IMAGES)[0]}
    assert features["image"].ndim == 2
    found = []
    for forward, one in ((apply, batch), (last, features)):
        step = train.make_train_step(
            forward, losses.classification(), tx, frozen=frozen_of(name)
        )
        start = jax.tree.map(jnp.copy, (params, stats))
        state = train.init_state(*start, tx, frozen=frozen_of(name))
        for _ in range(2):
            state, numbers = step(state, one, KEY)
        found.append((state.params, state.stats, numbers))
    chex.assert_trees_all_close(*found, rtol=2e-5, atol=2e-6)


def test_it_is_noticed_whether_anything_else_is_trained_or_noisy():
    model = models.abstract("mobilenet_v3_small", num_classes=3)
    head = "classifier.3"
    for frozen, alone in [
        (("features", "classifier.0", "classifier.2"), True),
        (("features", "classifier.0"), False),  # dropout draws anew in each epoch
        (("features", "classifier.2"), False),
        ((), False),
        (("",), True),
    ]:
        assert trains_head_alone(model, head=head, frozen=frozen) is alone


def test_layers_are_met_in_the_order_of_the_forward_pass():
    apply, params, stats = functionalize(models.abstract("resnet18"))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    layers = [".".join(layer) for layer in order_of_use(apply, params, stats, image)]
    assert layers[:3] == ["conv1", "bn1", "layer1.0.conv1"] and layers[-1] == "fc"
    assert layers.index("layer2.0.conv2") < layers.index("layer2.0.downsample.0")
    assert len(layers) == 41


def test_mirrored_answer_is_the_mean_of_two():
    def apply(params, stats, images, *, key=None):
        return images[:, 0, :2, 0] * params["w"], stats  # looks at the left edge

    ask, params = mirrored(apply), {"w": jnp.asarray(2.0)}
    logits, _ = ask(params, {}, IMAGES)
    both = [apply(params, {}, x)[0] for x in (IMAGES, IMAGES[:, :, ::-1])]
    expected = np.mean([jax.nn.softmax(out) for out in both], axis=0)
    np.testing.assert_allclose(jnp.exp(logits), expected, rtol=1e-5)
    in_training, _ = ask(params, {}, IMAGES, key=KEY)
    np.testing.assert_array_equal(in_training, both[0])


def test_six_answers_count_as_the_record_counts_them():
    """A half for the image and its mirror, a quarter for each place it is moved to."""

    def apply(params, stats, images, *, key=None):
        return images[:, 0, :2, 0] * params["w"], stats  # looks at one corner

    params = {"w": jnp.asarray(2.0)}
    logits, _ = mirrored(apply, shift=1)(params, {}, IMAGES)
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [(0.5, IMAGES), (0.25, padded[:, :-2, :-2]), (0.25, padded[:, 2:, 2:])]
    expected = sum(
        share / 2 * jax.nn.softmax(apply(params, {}, x[:, :, ::turn])[0])
        for share, x in views
        for turn in (1, -1)
    )
    np.testing.assert_allclose(jnp.exp(logits), expected, rtol=1e-5)
    in_training, _ = mirrored(apply, shift=1)(params, {}, IMAGES, key=KEY)
    np.testing.assert_array_equal(in_training, apply(params, {}, IMAGES)[0])
