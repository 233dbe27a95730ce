"""Checkpoints as people save them: which tensors are the model's, and their names."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from converters.checkpoint import (
    PREFIXES,
    WRAPPERS,
    CheckpointError,
    find_state_dict,
    foreign_names,
    plain_names,
)
from converters.rules import leaves
from converters.torch_file import write_torch
from converters.weights import is_file_name, load_state_dict, split_key
from jaxvision import models
from jaxvision.models import srcnn
from tests.torch_files import archive, dict_of, number, tensor

X = np.ones(2, np.float32)
PLAIN = {"conv1.weight": X, "layer1.0.bn1.bias": X, "fc.weight": X, "fc.bias": X}


def prefixed(prefix, names=PLAIN):
    return {prefix + name: value for name, value in names.items()}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_model_is_found_among_what_a_script_keeps(wrapper):
    beside = {"epoch": 3, "loss": X, "optimizer": {"state": {0: {"step": X}}}}
    assert find_state_dict({**beside, wrapper: PLAIN}) is PLAIN
    assert find_state_dict({"state_dict": {**beside, wrapper: PLAIN}}) is PLAIN
    few = {"criterion": {"weight": X}}
    assert find_state_dict({**few, wrapper: PLAIN}) is PLAIN


def test_a_model_under_a_name_of_its_own_is_found():
    assert find_state_dict({"resnet": PLAIN, "epoch": 3}) is PLAIN
    assert find_state_dict(PLAIN) is PLAIN
    bare = {"weight": X, "extra": {"a": X}}
    assert find_state_dict(bare) is bare


def test_several_models_are_asked_for():
    both = {"model": PLAIN, "model_ema": prefixed("module."), "epoch": 1}
    with pytest.raises(
        CheckpointError, match="'model', 'model_ema': name one.*FILE:model'"
    ):
        find_state_dict(both)
    assert find_state_dict(both, key="model") is PLAIN
    assert find_state_dict({"a": {"state_dict": PLAIN}}, key="a") is PLAIN
    with pytest.raises(CheckpointError, match="under 'emma'; there is 'model', 'model"):
        find_state_dict(both, key="emma")
    with pytest.raises(CheckpointError, match="'generator', 'discriminator'"):
        find_state_dict({"generator": PLAIN, "discriminator": PLAIN})


def test_what_is_no_state_dict_is_named():
    with pytest.raises(CheckpointError, match="holds a Tensor.*state_dict"):
        find_state_dict(X)
    with pytest.raises(CheckpointError, match="holds a list"):
        find_state_dict([X])
    loop: dict = {}
    loop["model"] = loop
    find_state_dict(loop)


@pytest.mark.parametrize("outer", ("", *PREFIXES))
@pytest.mark.parametrize("inner", PREFIXES)
def test_prefixes_go_in_any_order(outer, inner):
    assert list(plain_names(prefixed(outer + inner))) == list(PLAIN)
    averaged = {"n_averaged": X, **prefixed("module." + outer + inner)}
    assert list(plain_names(averaged)) == list(PLAIN)


def test_prefixes_stay_where_a_tensor_is_without():
    mixed = {**prefixed("module."), "other": X}
    assert plain_names(mixed) == mixed
    mixed = {**prefixed("module."), "head.weight": X}  # data parallelism has no head
    assert plain_names(mixed) == mixed
    mixed = {**prefixed("backbone."), "neck.weight": X}
    assert plain_names(mixed) == mixed


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "encoder.", "net."])
def test_a_head_around_the_model_is_left_out(prefix):
    for head in ("head.weight", "projector.0.weight", "classifier.1.weight"):
        around = {**prefixed(prefix), head: X}
        names = list(plain_names(around))
        # Without a classifier of its own, the model may have that one.
        assert names == [*PLAIN, *([head] if head.startswith("classifier") else [])]
    body = {name: x for name, x in PLAIN.items() if not name.startswith("fc.")}
    around = {**prefixed(prefix, body), "fc.weight": X, "fc.bias": X}
    assert list(plain_names(around)) == list(PLAIN)
    assert list(plain_names({**prefixed(prefix), "fc.weight": X})) == list(PLAIN)


def test_what_is_left_out_is_named(tmp_path):
    around = {**prefixed("backbone."), "projector.0.weight": X, "n_averaged": X[:1]}
    write_torch(tmp_path / "ssl.pth", around)
    with pytest.warns(UserWarning, match="ssl.pth: left out.*: 'projector.0.weight'$"):
        assert list(load_state_dict(tmp_path / "ssl.pth")) == list(PLAIN)
    write_torch(tmp_path / "ssl.pth", prefixed("module.") | {"n_averaged": X[:1]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_state_dict(tmp_path / "ssl.pth")


def test_timms_vgg_is_torchvisions(tmp_path):
    """Names and shapes of timm 1.0.31's vgg11, narrowed; its files are safetensors."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in {
            "features.0.weight": (5, 3, 3, 3),
            "features.0.bias": (5,),
            "pre_logits.fc1.weight": (6, 5, 7, 7),
            "pre_logits.fc1.bias": (6,),
            "pre_logits.fc2.weight": (6, 6, 1, 1),
            "pre_logits.fc2.bias": (6,),
            "head.fc.weight": (4, 6),
            "head.fc.bias": (4,),
        }.items()
    }
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = load_state_dict(tmp_path / "model.safetensors")
    assert list(found)[:2] == ["features.0.bias", "features.0.weight"]
    assert {name for name in found if not name.startswith("features")} == {
        f"classifier.{layer}.{leaf}"
        for layer in (0, 3, 6)
        for leaf in ("weight", "bias")
    }
    # A convolution over the whole map is a linear layer on what torch flattens.
    maps = rng.standard_normal((5, 7, 7)).astype(np.float32)
    conv = np.einsum("ochw,chw->o", arrays["pre_logits.fc1.weight"], maps)
    linear = found["classifier.0.weight"] @ maps.reshape(-1)
    np.testing.assert_allclose(linear, conv, rtol=1e-4, atol=1e-4)
    assert found["classifier.3.weight"].shape == (6, 6)
    np.testing.assert_array_equal(
        found["classifier.6.weight"], arrays["head.fc.weight"]
    )


def test_a_linear_layer_behind_a_dropout_is_the_head():
    body = {name: x for name, x in PLAIN.items() if not name.startswith("fc.")}
    assert list(plain_names({**body, "fc.1.weight": X, "fc.1.bias": X})) == list(PLAIN)
    for other in ({"fc.0.weight": X, "fc.1.bias": X}, {"fc.1.weight": X}):
        assert plain_names(body | other) == body | other


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("conv_stem.weight", "timm"),
        ("patch_embed.proj.weight", "timm"),
        ("blocks.0.0.conv_dw.weight", "timm"),
        ("blocks.3.attn.qkv.weight", "timm"),
        ("stages.0.blocks.0.norm.weight", "timm"),
        ("pre_logits.fc1.weight", "timm"),
        ("resnet.embedder.embedder.convolution.weight", "transformers"),
        ("vit.encoder.layer.0.output.dense.weight", "transformers"),
        ("rpn.head.conv.0.0.weight", "a detector"),
    ],
)
def test_other_libraries_are_named(tmp_path, name, source):
    assert source in str(foreign_names({name: X}))
    write_torch(tmp_path / "file.pth", {name: X})
    with pytest.raises(ValueError, match=f"{source}.*torchvision's own weights"):
        load_state_dict(tmp_path / "file.pth")


@pytest.mark.parametrize(
    "name",
    [
        *("features.0.weight", "layer1.0.conv1.weight", "conv1.conv.weight"),
        *("blocks.0.conv1.weight", "whiten.weight", "lin0.model.1.weight"),
        *("features.conv0.weight", "features.1.block.0.0.weight", "stem.weight"),
    ],
)
def test_torchvisions_and_our_own_names_are_not_foreign(name):
    assert foreign_names({name: X, "conv1.weight": X}) is None
    assert foreign_names({name: X}) is None


FAMILIES = ("vgg11_bn", "resnet18", "densenet121", "googlenet", "mobilenet_v3_small")


@pytest.mark.parametrize(
    "name", [*FAMILIES, "mobilenet_v2", *models.small_names(), *srcnn.VARIANTS]
)
def test_names_of_our_models_stay_as_they_are(name):
    names = {leaf.torch_name: X for leaf in leaves(models.abstract(name))}
    assert names and plain_names(names) == names and foreign_names(names) is None


def test_a_key_follows_the_file(tmp_path):
    assert split_key("a/b.pth:model_ema")[1] == "model_ema"
    assert split_key("C:/a.pth") == (Path("C:/a.pth"), None)
    assert is_file_name("x.PTH") and is_file_name("x.pth.tar:model")
    assert is_file_name("x.bin") and is_file_name("x.safetensors")
    assert not is_file_name("imagenet") and not is_file_name("v1:pth")
    path = tmp_path / "two.ckpt"
    other = tensor(offset=5, size=(1,), stride=(1,))
    path.write_bytes(
        archive(dict_of(model=dict_of(w=tensor()), ema=dict_of(w=other), n=number(1)))
    )
    with pytest.raises(ValueError, match="several models, 'model', 'ema'"):
        load_state_dict(path)
    assert load_state_dict(f"{path}:ema")["w"] == 5
    assert load_state_dict(f"{path}:model")["w"].shape == (2, 3)
    named = tmp_path / "odd.pth:ema"
    assert split_key(named) == (tmp_path / "odd.pth", "ema")
    named.touch()
    assert split_key(named) == (named, None)
