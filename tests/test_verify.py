"""The verification finds what is wrong, and nothing where all is well."""

from dataclasses import replace

import numpy as np
import pytest

from converters import oracle, verify

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

NAME = "resnet18"


@pytest.fixture(scope="module")
def found():
    return verify.run(NAME, weights=None, size=33, dtype="float64")


def test_a_right_model_has_no_faults(found):
    assert found.faults == []
    assert found.diverges is None
    assert list(found.logits) == [33]
    assert 0 < found.logits[33] <= 1e-9
    assert 0 < found.gradients.difference <= 1e-8


def test_layers_are_all_there_in_the_order_of_computation(found):
    names = [row.name for row in found.layers]
    assert names[:4] == ["conv1", "bn1", "relu", "maxpool"]
    assert names[-1] == "fc"
    assert {"layer4", "layer4.1", "layer4.1.bn2", "layer2.0.downsample.1"} <= {*names}
    assert found.layers[-1].shape == (2, 1000)


def test_tables_have_a_line_each(found):
    layers = verify.layer_table(found).splitlines()
    assert len(layers) == 1 + len(found.layers)
    assert "64" in layers[1] and "diverges" not in verify.layer_table(found)
    lines = verify.table([found, found]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| resnet18 | 11,689,512 | 69.76 |")


def test_a_wrong_weight_is_traced_to_its_layer(found, monkeypatch):
    right = oracle.our_model

    def wrong(name, net):
        model = right(name, net)
        kernel = model.layer3[0].conv2.kernel
        kernel[...] = kernel[...] * (1 + 1e-6)
        return model

    monkeypatch.setattr(verify, "our_model", wrong)
    with oracle.precision("float64"):
        net = oracle.torch_model(NAME, dtype="float64")
        images = oracle.random_images(2, 33, dtype="float64")
        logits, layers = verify.compare_layers(NAME, net, images)
    broken = replace(found, logits={33: logits}, layers=layers)
    assert broken.diverges == "layer3.0.conv2"
    assert "layer3.0.conv2 " in verify.layer_table(broken).split("<- diverges")[0][-70:]
    (line,) = broken.faults
    assert "logits at 33 pixels" in line and "layer3.0.conv2" in line


@pytest.mark.parametrize("what", ["loss", "gradients", "parameters", "statistics"])
def test_training_is_bounded_in_double_precision_alone(found, what):
    broken = replace(found, **{what: verify.Worst(2e-8, "fc.bias")})
    (line,) = broken.faults
    assert "2.0e-08" in line and "fc.bias" in line
    assert replace(broken, dtype="float32").faults == []
    assert len(replace(found, **{what: verify.Worst(np.nan, "fc.bias")}).faults) == 1


def test_single_precision_has_its_own_bound(found):
    single = replace(found, dtype="float32", logits={33: 9e-5})
    assert single.faults == []
    assert len(replace(single, logits={33: 9e-5, 65: 2e-4}).faults) == 1


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_is_verified(found, tmp_path, monkeypatch):
    fields = ("loss", "gradients", "parameters", "statistics")
    training = {field: getattr(found, field) for field in fields}
    monkeypatch.setattr(verify, "compare_training", lambda *_: training)
    net = oracle.torch_model(NAME, dtype="float32", num_classes=7)
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    path = tmp_path / "mine.pth"
    found = verify.run(NAME, weights=path, size=33, dtype="float64")
    assert found.faults == []
    assert found.weights == str(path)
    assert found.layers[-1].shape == (2, 7)
    with pytest.raises(ValueError, match="no weights of vgg11"):
        verify.run("vgg11", weights=path, size=33, dtype="float64")
    with pytest.raises(ValueError, match="missing"):
        verify.run("resnet50", weights=path, size=33, dtype="float64")


def test_a_wrong_dtype_is_named():
    with pytest.raises(ValueError, match="float16.*float32"):
        verify.run(NAME, weights=None, size=33, dtype="float16")


@pytest.mark.slow
def test_sizes_are_the_smallest_an_even_and_an_odd_one_and_224_for_the_mission():
    assert oracle.default_sizes("vgg16") == (32, 64, 65, 224)
    assert oracle.default_sizes("densenet121") == (29, 64, 65)
    assert oracle.default_sizes("googlenet") == (15, 64, 65, 224)
    assert oracle.default_sizes("resnet34") == (1, 64, 65)


def test_randomised_batch_norm_has_no_two_tensors_alike():
    norm = oracle.torch_model(NAME, dtype="float32").layer1[0].bn1
    leaves = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    arrays = [leaf.detach().numpy() for leaf in leaves]
    assert all(array.std() > 0.01 for array in arrays)
    pairs = [(a, b) for i, a in enumerate(arrays) for b in arrays[:i]]
    assert all(np.abs(a - b).max() > 0.05 for a, b in pairs)
