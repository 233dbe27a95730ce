"""The converter takes each tensor exactly once, or says which it cannot."""

import numpy as np
import pytest
from flax import nnx

from converters import ConversionError, convert, oracle, to_state_dict, weights
from converters.rules import IGNORED
from converters.torchvision_import import import_torchvision
from jaxvision import models
from jaxvision.functional import functionalize
from tests.families import one_a_family, slow_but

SMALL = one_a_family("mobilenet_v3_small")


def arrays(name):
    """What our own model of random weights is in torch's names and layouts."""
    model = models.create(name, num_classes=10, rngs=nnx.Rngs(0))
    return to_state_dict(model, *functionalize(model)[1:])


@pytest.fixture(scope="module")
def state():
    return arrays("resnet18")


def fresh():
    return models.abstract("resnet18", num_classes=10)


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", slow_but(("resnet18", "googlenet", "mobilenet_v3_small"), SMALL)
)
def test_round_trip_is_lossless_to_the_bit(name):
    torch = pytest.importorskip("torch")
    torchvision = import_torchvision()
    options = dict(models.abstract(name).torch_options)
    if name in ("vgg11", "googlenet"):
        options["init_weights"] = False
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, num_classes=10, **options)
    theirs = {key: tensor.numpy() for key, tensor in net.state_dict().items()}
    model = convert(models.abstract(name, num_classes=10), theirs)
    back = to_state_dict(model, *functionalize(model)[1:])
    assert back.keys() == theirs.keys()
    for key, array in theirs.items():
        assert back[key].dtype == array.dtype, key
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    tensors = {key: torch.tensor(array) for key, array in back.items()}
    net.load_state_dict(tensors, strict=True)


def test_convert_needs_every_tensor(state):
    short = {key: array for key, array in state.items() if key != "layer3.1.bn2.bias"}
    with pytest.raises(ConversionError, match=r"1 missing \(layer3.1.bn2.bias\)"):
        convert(fresh(), short)


def test_convert_rejects_an_extra_tensor(state):
    with pytest.raises(ConversionError, match=r"1 unexpected \(layer9.weight\)"):
        convert(fresh(), state | {"layer9.weight": np.ones(3, np.float32)})


def test_convert_rejects_another_shape(state):
    wrong = state | {"fc.weight": np.ones((7, 512), np.float32)}
    with pytest.raises(
        ConversionError, match=r"fc.weight is \(7, 512\), not \(10, 512"
    ):
        convert(fresh(), wrong)


def test_convert_rejects_a_kernel_in_our_layout(state):
    kernel = state["conv1.weight"].transpose(2, 3, 1, 0)
    with pytest.raises(ConversionError, match="1 mis-shaped"):
        convert(fresh(), state | {"conv1.weight": kernel})


def test_convert_lists_both_sides_of_a_prefix(state):
    wrapped = {f"module.{key}": array for key, array in state.items()}
    with pytest.raises(ConversionError) as caught:
        convert(fresh(), wrapped)
    count = sum(not key.endswith(IGNORED) for key in state)
    assert f"{count} missing" in str(caught.value)
    assert f"{count} unexpected (module." in str(caught.value)


def test_convert_leaves_the_model_alone_when_it_fails(state):
    model = convert(fresh(), state)
    worse = {key: array + 1 for key, array in state.items() if key != "fc.bias"}
    with pytest.raises(ConversionError):
        convert(model, worse)
    back = to_state_dict(model, *functionalize(model)[1:])
    np.testing.assert_array_equal(back["fc.weight"], state["fc.weight"])


def test_convert_widens_half_precision(state):
    half = {
        key: array if key.endswith(IGNORED) else array.astype(np.float16)
        for key, array in state.items()
    }
    model = convert(fresh(), half)
    for key, array in to_state_dict(model, *functionalize(model)[1:]).items():
        assert array.dtype == (np.int64 if key.endswith(IGNORED) else np.float32)
        np.testing.assert_array_equal(array, half[key])


def test_convert_does_without_the_counters(state):
    old = {key: array for key, array in state.items() if not key.endswith(IGNORED)}
    convert(fresh(), old)


def test_each_batch_norm_tensor_has_its_own_place(state):
    values = {"weight": 2, "bias": 3, "running_mean": 5, "running_var": 7}
    marked = state | {
        f"bn1.{leaf}": np.full(64, value, np.float32) for leaf, value in values.items()
    }
    bn1 = convert(fresh(), marked).bn1
    ours = {
        name: float(getattr(bn1, name)[0]) for name in ("scale", "bias", "mean", "var")
    }
    assert ours == {"scale": 2, "bias": 3, "mean": 5, "var": 7}


@pytest.mark.torch
def test_a_densenet_file_with_old_names_converts(tmp_path):
    torch = pytest.importorskip("torch")
    state = arrays("densenet121")
    old = {
        key.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2."): torch.tensor(array)
        for key, array in state.items()
        if not key.endswith(IGNORED)
    }
    assert old.keys().isdisjoint({"features.denseblock1.denselayer1.norm1.weight"})
    torch.save(old, tmp_path / "old.pth")
    loaded = weights.load_state_dict(tmp_path / "old.pth")
    model = convert(models.abstract("densenet121", num_classes=10), loaded)
    for key, array in to_state_dict(model, *functionalize(model)[1:]).items():
        np.testing.assert_array_equal(array, state[key])


@pytest.mark.torch
def test_a_head_of_ten_classes_gives_torchvisions_logits(float64):
    pytest.importorskip("torch")
    net = oracle.torch_model("resnet18", dtype="float64", num_classes=10)
    model = oracle.our_model("resnet18", net)
    images = oracle.random_images(2, 33, dtype="float64")
    apply, params, stats = functionalize(model)
    theirs = net(oracle.torch_images(images)).detach().numpy()
    ours, _ = apply(params, stats, images)
    assert ours.shape == (2, 10)
    assert np.abs(ours - theirs).max() <= 1e-9 * theirs.std()
