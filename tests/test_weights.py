import importlib
import importlib.util
import pickle
import sys
import warnings

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from converters import weights
from converters.torch_file import write_torch
from converters.torchvision_import import import_torchvision
from jaxvision.models import names as our_names


class Recipe:
    """Something of a user's own, as training scripts pickle it."""


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def their_entries():
    """(model name, weights entry, the enum's DEFAULT) for all of our families.

    What torchvision has beside one of our backbones in the same file is asked for too.
    """
    import_torchvision()
    from torchvision import models

    names = set(models.list_models(module=models))
    for family in {models.get_model_builder(name).__module__ for name in our_names()}:
        module = importlib.import_module(family)
        for name in names & set(module.__all__):
            enum = models.get_model_weights(name)
            for entry in enum:
                yield name, entry, enum.DEFAULT


@pytest.mark.torch
def test_table_equals_torchvisions_enums():
    if not (
        importlib.util.find_spec("torchvision") and importlib.util.find_spec("torch")
    ):
        pytest.skip("torch and torchvision are not installed")
    theirs = {}
    for name, entry, default in their_entries():
        transforms = entry.transforms()
        metrics = entry.meta["_metrics"]["ImageNet-1K"]
        assert transforms.interpolation.value == "bilinear" and transforms.antialias
        version = entry.name.removeprefix("IMAGENET1K_").lower()
        row = weights.find(name, which=version)
        theirs[name, version] = row
        assert row.url == entry.url
        assert (row.params, row.mib) == (
            entry.meta["num_params"],
            entry.meta["_file_size"],
        )
        assert [row.resize] == transforms.resize_size
        assert [row.crop] == transforms.crop_size
        assert list(row.mean) == transforms.mean
        assert list(row.std) == transforms.std
        np.testing.assert_equal(row.acc1, metrics["acc@1"])  # nan equals nan
        np.testing.assert_equal(row.acc5, metrics["acc@5"])
        assert (weights.find(name) == row) == (entry == default)
    assert list(theirs) and set(theirs.values()) == set(weights.TABLE)
    assert len(weights.TABLE) >= 36


def test_table_has_each_file_once():
    assert len({row.file for row in weights.TABLE}) == len(weights.TABLE)
    for row in weights.TABLE:
        assert len(row.sha256_prefix) == 8 and int(row.sha256_prefix, 16) >= 0


def test_preprocessing_is_that_of_the_row():
    ours = weights.find("wide_resnet50_2").preprocessing
    assert (ours.resize, ours.crop, ours.mean) == (232, 224, (0.485, 0.456, 0.406))
    assert weights.find("vgg16", which="features").preprocessing.std == (1 / 255,) * 3


def test_a_row_is_found_by_the_name_of_its_file(tmp_path):
    for row in weights.TABLE:
        assert weights.named(tmp_path / row.file) is row
    assert weights.named(tmp_path / "wide_resnet50_2.pth") is None


def test_find_names_what_there_is():
    assert weights.find("resnet50", which="v1").file == "resnet50-0676ba61.pth"
    assert weights.find("vgg16").version == "v1"
    with pytest.raises(ValueError, match="resnet18 has no weights 'v2'.*imagenet, v1"):
        weights.find("resnet18", which="v2")
    with pytest.raises(ValueError, match="'resnet51'.*resnet50"):
        weights.find("resnet51")


def arrays():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "fc.bias": rng.normal(size=5),
        "bn.num_batches_tracked": np.array(7),
    }


def assert_same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype and ours[name].shape == array.shape
        np.testing.assert_array_equal(ours[name], array)


def saved(torch, folder, content, **options):
    path = folder / "weights.pth"
    torch.save(content, path, **options)
    return path


def tensors(torch):
    return {name: torch.from_numpy(array) for name, array in arrays().items()}


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_load_undoes_wrappers(torch, tmp_path, wrapper, zipped):
    content = tensors(torch)
    content = {wrapper: content, "epoch": 3} if wrapper else content
    path = saved(torch, tmp_path, content, _use_new_zipfile_serialization=zipped)
    assert_same(weights.load_state_dict(path), arrays())


@pytest.mark.torch
def test_load_strips_module_prefix_only_when_all_have_it(torch, tmp_path):
    wrapped = {f"module.{name}": tensor for name, tensor in tensors(torch).items()}
    assert_same(weights.load_state_dict(saved(torch, tmp_path, wrapped)), arrays())
    mixed = wrapped | {"other": torch.ones(1)}
    loaded = weights.load_state_dict(saved(torch, tmp_path, mixed))
    assert sorted(loaded) == sorted(mixed)


@pytest.mark.torch
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_load_upcasts_half_precision(torch, tmp_path, half):
    values = torch.linspace(-3, 3, 7).to(getattr(torch, half))
    loaded = weights.load_state_dict(saved(torch, tmp_path, {"a": values}))["a"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, values.double().numpy())


def test_every_half_is_exact(tmp_path):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    save_file({"a": halves}, tmp_path / "all.safetensors")
    loaded = weights.load_state_dict(tmp_path / "all.safetensors")["a"]
    expected = halves.astype(np.float32)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded.view(np.uint32), expected.view(np.uint32))


@pytest.mark.torch
def test_load_keeps_values_of_views_and_parameters(torch, tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    content = {"t": base.T, "row": base[1], "p": torch.nn.Parameter(base)}
    loaded = weights.load_state_dict(saved(torch, tmp_path, content))
    np.testing.assert_array_equal(loaded["t"], base.T.numpy())
    np.testing.assert_array_equal(loaded["row"], [4, 5, 6, 7])
    np.testing.assert_array_equal(loaded["p"], base.numpy())


@pytest.mark.torch
def test_load_renames_old_densenet_files(torch, tmp_path):
    old = "features.denseblock1.denselayer2.norm.1.running_mean"
    loaded = weights.load_state_dict(saved(torch, tmp_path, {old: torch.ones(2)}))
    assert list(loaded) == ["features.denseblock1.denselayer2.norm1.running_mean"]
    both = {old: torch.ones(2), old.replace("norm.1", "norm1"): torch.zeros(2)}
    with pytest.raises(ValueError, match="both its old and its new name"):
        weights.load_state_dict(saved(torch, tmp_path, both))


def failure(path) -> str:
    """The message of the refusal: one line, without torch's words, and no cause."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError) as caught:
            weights.load_state_dict(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "weights_only" not in message and "add_safe_globals" not in message
    return message


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_load_refuses_pickled_objects(torch, tmp_path, zipped):
    for content, name in (
        ({"a": torch.ones(1), "recipe": Recipe()}, "test_weights.Recipe"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ):
        message = failure(
            saved(torch, tmp_path, content, _use_new_zipfile_serialization=zipped)
        )
        assert name in message and "torch.save(model.state_dict(), FILE)" in message
        assert "safetensors" in message


@pytest.mark.torch
def test_load_runs_no_code(torch, tmp_path):
    path = tmp_path / "evil.pth"
    flag = tmp_path / "ran"
    path.write_bytes(
        b"cpathlib\nPath.touch\n(cpathlib\nPath\n(V%s\ntRtR." % bytes(flag)
    )
    assert "re-save it with torch.save" in failure(path)
    path.write_bytes(pickle.dumps(Recipe()))
    failure(path)
    assert not flag.exists()


@pytest.mark.torch
def test_load_refuses_torchscript(torch, tmp_path):
    path = tmp_path / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript" in failure(path)


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_load_names_cut_files(torch, tmp_path, zipped):
    path = saved(torch, tmp_path, tensors(torch), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in (len(whole) - 3, len(whole) // 2, 100, 5):
        path.write_bytes(whole[:size])
        assert "damaged" in failure(path)


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"hello there, this is text", "damaged"),
        (bytes(range(255, 0, -1)) * 20, "damaged"),
        (b"\0" * 4000, "damaged"),
    ],
)
def test_load_names_what_is_no_weights(torch, tmp_path, suffix, content, words):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert words in failure(path)


def test_load_names_missing_file_and_folder_and_suffix(tmp_path):
    assert "does not exist" in failure(tmp_path / "none.pth")
    (tmp_path / "folder.pt").mkdir()
    assert "cannot be read: Is a directory" in failure(tmp_path / "folder.pt")
    assert ".pth, .pt or .safetensors" in failure(tmp_path / "weights.h5")


@pytest.mark.torch
def test_load_refuses_what_is_no_tensor(torch, tmp_path):
    for content, words in (
        ({"a": torch.ones(1), "epoch": 3}, "'epoch' is a int"),
        ({"state_dict": {"a": [1.0]}}, "'a' is a list"),
        ({3: torch.ones(1)}, "3 is a Tensor"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        ({}, "no tensors"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.eye(2).to_sparse()}, "sparse"),
        ({"a": torch.ones(2, device="meta")}, "meta"),
    ):
        assert words in failure(saved(torch, tmp_path, content))


def test_safetensors_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    path = tmp_path / "weights.safetensors"
    halves = {
        "half": np.linspace(-2, 2, 5).astype(np.float16),
        "brain": np.linspace(-2, 2, 5).astype(ml_dtypes.bfloat16),
    }
    save_file({f"module.{k}": v for k, v in (arrays() | halves).items()}, path)
    upcast = {name: array.astype(np.float32) for name, array in halves.items()}
    assert_same(weights.load_state_dict(path), arrays() | upcast)


@pytest.mark.torch
def test_safetensors_agrees_with_torchs_own_writer(torch, tmp_path):
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "weights.safetensors"
    brain = torch.linspace(-2, 2, 5).to(torch.bfloat16)
    save_torch(tensors(torch) | {"brain": brain}, path)
    assert_same(
        weights.load_state_dict(path), arrays() | {"brain": brain.float().numpy()}
    )


def test_safetensors_damage_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(arrays(), path)
    whole = path.read_bytes()
    for size in (len(whole) - 1, 50, 4):
        path.write_bytes(whole[:size])
        assert "damaged" in failure(path)
    save_file({"a": np.ones(2, np.complex64)}, path)
    assert "unsupported type C64" in failure(path)


def test_pth_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    write_torch(tmp_path / "weights.pth", arrays())
    assert_same(weights.load_state_dict(tmp_path / "weights.pth"), arrays())


@pytest.mark.parametrize("end", [".PTH", ".bin", ".ckpt", ".pth.tar", ".pt"])
def test_checkpoints_have_many_endings(tmp_path, end):
    write_torch(tmp_path / f"weights{end}", arrays())
    assert_same(weights.load_state_dict(tmp_path / f"weights{end}"), arrays())


def test_loaded_arrays_outlive_the_file(tmp_path):
    path = tmp_path / "weights.pth"
    write_torch(path, arrays())
    loaded = weights.load_state_dict(path)
    path.write_bytes(b"")
    assert_same(loaded, arrays())
    assert all(x.flags.owndata and x.flags.writeable for x in loaded.values())


@pytest.mark.torch
@pytest.mark.data
def test_load_reads_a_real_checkpoint(torch, data_folder):
    path = data_folder / "weights" / "mobilenet_v2.pth"
    loaded = weights.load_state_dict(path)
    theirs = torch.load(path, weights_only=True)
    assert_same(loaded, {k: v.detach().numpy() for k, v in theirs.items()})
    assert len(loaded) == 314
