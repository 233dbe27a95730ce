"""The functional boundary: modes, keys, compute types, freezing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvision import models
from jaxvision.functional import copy_of, functionalize
from jaxvision.models.layers import BatchNorm, Sequential, conv

pytestmark = pytest.mark.floor

IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


class Net(nnx.Module):
    """One layer of each kind."""

    def __init__(self, *, rngs):
        self.body = Sequential([conv(3, 4, 3, padding=1, rngs=rngs)])
        self.norm = BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.body(x)))
        return self.head(self.drop(x.mean((1, 2))))


@pytest.fixture
def net():
    return Net(rngs=nnx.Rngs(0))


def test_key_means_training_and_no_key_evaluation(net):
    apply, params, stats = functionalize(net)
    out, same = apply(params, stats, IMAGES)
    chex.assert_trees_all_equal(stats, same)
    np.testing.assert_array_equal(out, apply(params, stats, IMAGES)[0])
    trained, moved = apply(params, stats, IMAGES, key=jax.random.key(0))
    assert not np.allclose(out, trained)
    assert not np.allclose(moved["norm"]["mean"], stats["norm"]["mean"])


def test_dropout_follows_the_key_alone(net):
    apply, params, stats = functionalize(net)
    first = apply(params, stats, IMAGES, key=jax.random.key(0))[0]
    np.testing.assert_array_equal(
        first, apply(params, stats, IMAGES, key=jax.random.key(0))[0]
    )
    other = apply(params, stats, IMAGES, key=jax.random.key(1))[0]
    assert not np.allclose(first, other)


def test_apply_changes_no_argument_and_works_under_jit_and_grad(net):
    apply, params, stats = functionalize(net)
    before = jax.tree.map(np.array, (params, stats))

    @jax.jit
    def loss(params):
        out, new = apply(params, stats, IMAGES, key=jax.random.key(0))
        return (out**2).sum(), new

    grads, new = jax.grad(loss, has_aux=True)(params)
    chex.assert_trees_all_equal(before, (params, stats))
    chex.assert_trees_all_equal_structs(grads, params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["head"]))
    assert new["norm"]["var"].shape == (4,)


def test_bfloat16_computes_half_and_keeps_parameters_and_outputs_float32(net):
    full, params, stats = functionalize(Net(rngs=nnx.Rngs(0)))
    half, _, _ = functionalize(net, dtype=jnp.bfloat16)
    expected = full(params, stats, IMAGES)[0]
    out, new = half(params, stats, IMAGES, key=jax.random.key(0))
    assert out.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, new)))
    out = half(params, stats, IMAGES)[0]
    error = np.abs(out - expected).max()
    assert 0 < error < 0.02  # 8 bits of mantissa: not the same, and not far
    text = str(jax.make_jaxpr(half)(params, stats, IMAGES))
    assert "bf16[4,8,8,4]" in text


def variables(model):
    return {path: leaf for path, leaf in nnx.iter_graph(model) if is_variable(leaf)}


def is_variable(leaf):
    return isinstance(leaf, nnx.Variable)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_model_stays_as_it_was_and_no_array_is_copied(net, mode):
    getattr(net, mode)()
    before, leaves = nnx.graphdef(net), variables(net)
    arrays = {path: leaf[...] for path, leaf in leaves.items() if leaf.ndim}
    apply, params, stats = functionalize(net, dtype=jnp.bfloat16, frozen=("norm",))
    apply(params, stats, IMAGES, key=jax.random.key(0))
    assert nnx.graphdef(net) == before  # modes and compute types
    after = variables(net)
    assert after.keys() == leaves.keys()
    assert all(after[path] is leaf for path, leaf in leaves.items())
    assert all(after[path][...] is array for path, array in arrays.items())
    assert params["head"]["kernel"] is net.head.kernel[...]
    assert stats["norm"]["mean"] is net.norm.mean[...]
    # Nor does one compute type outlive its call.
    plain = functionalize(net)[0]
    text = str(jax.make_jaxpr(plain)(params, stats, IMAGES))
    assert "bf16" not in text


def test_changes_to_a_copy_are_not_the_models(net):
    kernel = net.head.kernel[...]
    copy = copy_of(net)
    assert copy.head.kernel[...] is kernel
    copy.head.kernel[...] = jnp.zeros_like(kernel)
    copy.drop.rate = 0.0
    assert net.head.kernel[...] is kernel and net.drop.rate == 0.5


def test_forward_has_a_net_of_its_own_at_each_call(net):
    def forward(net, images):
        norm = net.norm
        net.norm = lambda x: norm(x) + 1  # no module is there any more
        return {"sum": net(images), "seen": images.mean()}

    plain, params, stats = functionalize(net)
    apply, _, _ = functionalize(net, forward=forward)
    first, _ = apply(params, stats, IMAGES)
    again, same = apply(params, stats, IMAGES)
    chex.assert_trees_all_equal(first, again)
    chex.assert_trees_all_equal(same, stats)
    assert not np.allclose(first["sum"], plain(params, stats, IMAGES)[0])
    key = jax.random.key(0)
    moved = apply(params, stats, IMAGES, key=key)[1]
    chex.assert_trees_all_equal(moved, plain(params, stats, IMAGES, key=key)[1])
    assert isinstance(net.norm, BatchNorm)


def test_frozen_part_keeps_its_statistics(net):
    apply, params, stats = functionalize(net, frozen=("norm",))
    _, new = apply(params, stats, IMAGES, key=jax.random.key(0))
    chex.assert_trees_all_equal(new, stats)


def test_abstract_model_gives_abstract_leaves():
    apply, params, stats = functionalize(models.abstract("resnet18", num_classes=9))
    leaves = jax.tree.leaves((params, stats))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert jax.eval_shape(apply, params, stats, images)[0].shape == (2, 9)


@pytest.mark.torch
def test_batch_norm_training_equals_torch(float64):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(4, momentum=0.3, eps=1e-3).double()
    layer = BatchNorm(4, momentum=0.3, eps=1e-3, rngs=nnx.Rngs(0))
    apply, params, stats = functionalize(layer)
    params, stats = jax.tree.map(lambda x: x.astype("float64"), (params, stats))
    for seed in range(3):
        x = 5 + 2 * np.random.default_rng(seed).standard_normal((2, 3, 5, 4))
        expected = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out, stats = apply(params, stats, jnp.asarray(x), key=jax.random.key(0))
        np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-10)
        np.testing.assert_allclose(stats["mean"], theirs.running_mean, rtol=1e-12)
        np.testing.assert_allclose(stats["var"], theirs.running_var, rtol=1e-12)


def test_batch_norm_of_one_value_is_an_error():
    apply, params, stats = functionalize(BatchNorm(4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="larger batch"):
        apply(params, stats, jnp.ones((1, 1, 1, 4)), key=jax.random.key(0))


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError, match="resnet50"):
        models.variant("resnet_50")
    assert models.variant("wrn50_2").name == "wide_resnet50_2"
