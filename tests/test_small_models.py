"""CIFAR-10's classifiers and the enlargers against torch's, in float64."""

from collections import OrderedDict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import convert, oracle, to_state_dict, verify
from converters.bundle import load_bundle, save_bundle
from jaxvision import models
from jaxvision.functional import functionalize, modules
from jaxvision.models.cifar import dirac, gelu, whitening
from jaxvision.preprocess import Preprocessing
from tests.enlarger_twins import Residual, srcnn

torch = pytest.importorskip("torch")
from benchmarks import twins  # noqa: E402

T = torch.nn

pytestmark = pytest.mark.torch

PARAMETERS = {
    "fcn_baseline": 309_530,
    "fcn_wide": 3_676_682,
    "fcn_deep": 1_746_506,
    "fcn": 1_707_274,
    "cnn_small": 357_034,
    "cnn": 814_826,
    "cnn_lean": 1_161_272,
    "cnn_fast": 1_972_792,  # the paper's 1.97 million
    "light_x1": 47_361,
    "light_x2": 48_228,
    "light_x3": 49_673,
    "light_x4": 51_696,
    **{
        f"srcnn_{name}{scale}": count
        for scale in ("", "_x3", "_x4")
        for name, count in (
            ("955", 69_251),
            ("915", 20_099),
            ("955_residual", 69_251),
            ("915_residual", 20_099),
        )
    },
}


@pytest.fixture(autouse=True)
def one_thread():
    """Several processes share the cores: torch's threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Times(T.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def fcn(*widths, dropout=0.0):
    layers, width = [T.Flatten()], 3072
    for out in widths:
        layers += [T.Linear(width, out), T.ReLU()]
        layers += [T.Dropout(dropout)] if dropout else []
        width = out
    return T.Sequential(
        OrderedDict(hidden=T.Sequential(*layers), head=T.Linear(width, 10))
    )


def block(cin, cout, depth):
    widths = (cin, *[cout] * depth)
    for one, other in zip(widths, widths[1:], strict=False):
        yield T.Conv2d(one, other, 3, padding=1, bias=False)
        yield T.BatchNorm2d(other)
        yield T.ReLU()
    yield T.MaxPool2d(2)


def cnn(depth, *hidden):
    pairs = ((3, 32), (32, 64), (64, 128))
    return T.Sequential(
        OrderedDict(
            features=T.Sequential(*(x for pair in pairs for x in block(*pair, depth))),
            hidden=T.Sequential(T.Flatten(), *hidden),
            head=T.Linear(hidden[0].out_features, 10),
        )
    )


def conv_dirac(cin, cout):
    conv = T.Conv2d(cin, cout, 3, padding=1, bias=False)
    T.init.dirac_(conv.weight.data[:cin])
    return conv


def fast(*widths):
    blocks, cin = [], 24
    for out in widths:
        layers = [
            conv_dirac(cin, out),
            T.MaxPool2d(2),
            T.BatchNorm2d(out, momentum=1 - 0.6),
            T.GELU(),
            conv_dirac(out, out),
            T.BatchNorm2d(out, momentum=1 - 0.6),
            T.GELU(),
        ]
        blocks.append(T.Sequential(*layers))
        cin = out
    net = T.Sequential(
        OrderedDict(
            whiten=T.Conv2d(3, 24, 2),
            first=T.GELU(),
            blocks=T.Sequential(*blocks),
            pool=T.MaxPool2d(3),
            flatten=T.Flatten(),
            head=T.Linear(cin, 10, bias=False),
            scale=Times(1 / 9),
        )
    )
    T.init.zeros_(net.whiten.bias)
    return net


TWINS = {
    "fcn_baseline": lambda: fcn(100, 20),
    "fcn_wide": lambda: fcn(1024, 512),
    "fcn_deep": lambda: fcn(512, 256, 128, 64),
    "fcn": lambda: fcn(512, 256, dropout=0.2),
    "cnn_small": lambda: cnn(1, T.Linear(2048, 128), T.ReLU()),
    "cnn": lambda: cnn(
        2,
        T.Linear(2048, 256, bias=False),
        T.BatchNorm1d(256),
        T.ReLU(),
        T.Dropout(0.5),
    ),
    "cnn_lean": lambda: fast(64, 128, 256),
    "cnn_fast": lambda: fast(64, 256, 256),
    **{f"light_x{scale}": partial(twins.LightTwin, scale) for scale in (1, 2, 3, 4)},
    **{
        f"srcnn_{''.join(map(str, sizes))}{suffix}{scale}": partial(
            srcnn, *sizes, kind=kind
        )
        for scale in ("", "_x3", "_x4")
        for suffix, kind in (("", T.Sequential), ("_residual", Residual))
        for sizes in ((9, 5, 5), (9, 1, 5))
    },
}


def twin(name, *, seed=0):
    """In float64, with no tensor at its fresh value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = TWINS[name]().double().eval()
        with torch.no_grad():
            for tensor in net.parameters():
                if tensor.ndim == 1:
                    tensor += 0.1 * torch.randn_like(tensor)
            for module in net.modules():
                if isinstance(module, T.BatchNorm1d | T.BatchNorm2d):
                    module.running_mean.normal_(std=0.3)
                    module.running_var.uniform_(0.3, 1.5)
        return net


def largest(ours, theirs):
    """The largest difference in units of the largest entry of what is right."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def output(apply, params, stats, images):
    run = jax.jit(lambda *args: apply(*args)[0], compiler_options=verify.QUICK)
    return np.asarray(run(params, stats, images))


def test_the_tables_have_these_rows():
    assert tuple(PARAMETERS) == tuple(TWINS)
    assert models.small_names() == tuple(TWINS)[: len(models.small_names())]
    further = {"googlenet_untransformed"}
    assert set(models.VARIANTS) == {*models.names(), *TWINS, *further}
    assert not set(models.names()) & set(TWINS)
    assert models.variant("srcnn").name == "srcnn_955"


@pytest.mark.parametrize("name", TWINS)
def test_outputs_and_weights_equal_torchs(name, float64):
    net = twin(name)
    state = oracle.state_arrays(net)
    # A wrong padding or a swap of height and width would pass on a square.
    enlarges = models.variant(name).task == "superres"
    shape = (2, 13, 17, 3) if enlarges else (2, 32, 32, 3)
    images = np.random.default_rng(0).standard_normal(shape)
    model = convert(models.abstract(name, num_classes=10), state)
    apply, params, stats = functionalize(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[name]
    with torch.no_grad():
        theirs = net(oracle.torch_images(images)).numpy()
    if enlarges:
        theirs = theirs.transpose(0, 2, 3, 1)
    assert largest(output(apply, params, stats, images), theirs) <= 1e-9
    back = to_state_dict(models.abstract(name, num_classes=10), params, stats)
    assert back.keys() == net.state_dict().keys()
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array)


@pytest.mark.parametrize(
    "name", ["fcn", "cnn_small", "cnn", "cnn_lean", "srcnn_915", "light_x3"]
)
def test_gradients_and_statistics_equal_torchs(name, float64):
    net = twin(name).train()
    model = convert(models.abstract(name, num_classes=10), oracle.state_arrays(net))
    for _, module in modules(model):
        if isinstance(module, nnx.Dropout):
            module.rate = 0.0
    for module in net.modules():
        if isinstance(module, T.Dropout):
            module.p = 0.0
    apply, params, stats = functionalize(model)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 32, 32, 3))
    theirs = net(oracle.torch_images(images))
    wanted = rng.standard_normal(theirs.shape)
    T.functional.mse_loss(theirs, torch.from_numpy(wanted)).backward()
    if wanted.ndim == 4:
        wanted = wanted.transpose(0, 2, 3, 1)

    def loss(params):
        out, after = apply(params, stats, images, key=jax.random.key(0))
        return ((out - wanted) ** 2).mean(), after

    step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=verify.QUICK)
    gradients, after = step(params)
    gradients = to_state_dict(model, gradients, stats)
    for key, tensor in net.named_parameters():
        assert largest(gradients[key], tensor.grad.numpy()) <= 1e-8, key
    after = to_state_dict(model, params, after)
    for key, tensor in net.named_buffers():
        if tensor.ndim:
            assert largest(after[key], tensor.numpy()) <= 1e-8, key


@pytest.mark.slow
@pytest.mark.parametrize("name", models.small_names())
def test_three_steps_equal_torchs(name, float64):
    images = oracle.random_images(8, 32, dtype="float64")
    found = verify.compare_training(name, twin(name), images)
    assert {k: worst for k, worst in found.items() if worst.difference > 1e-8} == {}


@pytest.mark.parametrize("name", ["fcn_baseline", "cnn", "cnn_lean", "srcnn_955"])
def test_random_weights_have_torchs_distribution(name):
    torch.manual_seed(0)
    net = TWINS[name]()
    model = models.create(name, num_classes=10, rngs=nnx.Rngs(0))
    drawn = to_state_dict(model, *functionalize(model)[1:])
    for key, tensor in net.state_dict().items():
        mine, theirs = drawn[key].ravel(), tensor.numpy().ravel()
        if theirs.min() == theirs.max():  # zeros and ones
            np.testing.assert_array_equal(mine, theirs, err_msg=key)
        elif mine.size >= 500:
            error = 6 * np.sqrt(2 / mine.size)
            assert abs(mine.mean() - theirs.mean()) < error * theirs.std(), key
            assert abs(mine.std() / theirs.std() - 1) < error, key
            assert abs(np.abs(mine).max() / np.abs(theirs).max() - 1) < 0.25, key


@pytest.mark.parametrize("shape", [(3, 3, 4, 9), (3, 3, 9, 4), (2, 2, 3, 24)])
def test_dirac_passes_the_first_channels_through(shape):
    cin, cout = shape[2:]
    kernel = dirac(np.random.default_rng(0), shape, int(np.prod(shape[:3])))
    right = torch.zeros(min(cin, cout), cin, *shape[:2])
    T.init.dirac_(right)
    passed = kernel[..., : min(cin, cout)].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(passed, right.numpy())
    assert (kernel[..., min(cin, cout) :] != 0).all()


@pytest.mark.parametrize("seed", range(2))
def test_whitened_patches_have_the_unit_covariance(seed):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((601, 7, 6, 3))
    # Pixels and channels that depend on each other, and means that are not zero.
    noise = noise + 0.8 * np.roll(noise, 1, axis=1) + 0.5 * np.roll(noise, 1, axis=2)
    mix = rng.standard_normal((3, 3)) * [1, 1, 0.01]  # one direction of no variance
    images = (noise @ mix + rng.standard_normal(3)).astype(np.float32)
    kernel = whitening(images)
    assert kernel.shape == (2, 2, 3, 24) and kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    np.testing.assert_array_equal(whitening(jnp.asarray(images)), kernel)

    patches = T.functional.unfold(oracle.torch_images(images).double(), 2)
    patches = patches.permute(1, 0, 2).reshape(12, -1).numpy()
    variances = np.linalg.eigvalsh(np.cov(patches))[::-1]
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1)[:12]).double()
    white = T.functional.conv2d(oracle.torch_images(images).double(), weight)
    found = np.cov(white.permute(1, 0, 2, 3).reshape(12, -1).numpy())
    np.testing.assert_allclose(
        found, np.diag(variances / (variances + 5e-4)), atol=2e-3
    )
    assert variances[-1] < 1e-3 < 0.999 < found[0, 0]


def test_dropout_is_where_it_belongs():
    rates = {
        (name, ".".join(map(str, path))): module.rate
        for name in TWINS
        for path, module in modules(models.abstract(name, num_classes=10))
        if isinstance(module, nnx.Dropout)
    }
    assert rates == {
        ("fcn", "hidden.3"): 0.2,
        ("fcn", "hidden.6"): 0.2,
        ("cnn", "hidden.4"): 0.5,
    }


def test_gelu_keeps_bfloat16_and_its_precision():
    x = jnp.linspace(-4, 4, 999).astype(jnp.bfloat16)
    right = T.functional.gelu(torch.tensor(np.asarray(x, np.float32))).bfloat16()
    assert gelu(x).dtype == jnp.bfloat16
    ours, theirs = np.asarray(gelu(x), np.float32), right.float().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=2**-7)  # the last of 8 bits


@pytest.mark.parametrize(
    ("name", "layer", "shape", "left"),
    [
        ("fcn", "hidden.2", (2, 512), {"hidden"}),
        ("cnn", "features.6", (2, 16, 16, 32), {"features"}),
        ("cnn_fast", "blocks.0", (2, 15, 15, 64), {"whiten", "blocks"}),
        ("srcnn", "conv1", (2, 32, 32, 64), {"conv1"}),
    ],
)
def test_features_of_small_models(name, layer, shape, left):
    model = models.cut(models.abstract(name, num_classes=10), layers=[layer])
    apply, params, stats = functionalize(model, forward=models.capture([layer]))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert jax.eval_shape(apply, params, stats, images)[0][layer].shape == shape
    assert params.keys() == left  # what comes after is taken out


def test_a_bundle_of_srcnn_needs_no_classes(tmp_path):
    model = models.create("srcnn_915", rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    path, preprocessing = tmp_path / "model.safetensors", Preprocessing()
    save_bundle(
        path, "srcnn_915", params, stats, classes=(), preprocessing=preprocessing
    )
    back = load_bundle(path)
    assert back.classes == ()
    again = functionalize(back.model)[1]
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("shape", [(2, 28, 28, 3), (2, 32, 32, 1), (2, 3, 32, 32)])
@pytest.mark.parametrize("name", ["fcn", "cnn_small", "cnn_fast"])
def test_other_sizes_are_refused(name, shape):
    apply, params, stats = functionalize(models.abstract(name, num_classes=10))
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match=r"32, 32, 3.*got \(2, ") as error:
        jax.eval_shape(apply, params, stats, images)
    assert str(shape) in str(error.value)


def test_what_has_no_meaning_is_refused():
    model = models.abstract("srcnn_955")
    with pytest.raises(ValueError, match="srcnn has no classifier"):
        models.new_head("srcnn", model, rngs=nnx.Rngs(0))
    apply, params, stats = functionalize(model)
    grey = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    with pytest.raises(ValueError, match=r"RGB .*\(2, 8, 8, 1\)"):
        jax.eval_shape(partial(apply, params, stats), grey)
    with pytest.raises(ValueError, match=r"got \(4, 1, 8, 3\)"):
        whitening(np.zeros((4, 1, 8, 3)))
