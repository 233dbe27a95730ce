"""`python -m converters`: what it prints, writes and refuses."""

import sys

import numpy as np
import pytest
from flax import nnx

from converters.__main__ import MARKS, _update_readme, main
from converters.bundle import save_bundle
from converters.weights import load_state_dict
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing


@pytest.fixture
def bundle(tmp_path):
    model = models.create("resnet18", num_classes=3, rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    save_bundle(
        tmp_path / "run" / "model.safetensors",
        "resnet18",
        params,
        stats,
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(),
    )
    return tmp_path / "run"


def test_list_names_each_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    main(argv=["list"])
    out = capsys.readouterr().out
    assert "wide_resnet50_2" in out and "81.602" in out


@pytest.mark.floor
@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_export_loads_strictly_in_torchvision(bundle, tmp_path, suffix):
    torch = pytest.importorskip("torch")
    from converters.torchvision_import import import_torchvision

    target = tmp_path / f"model{suffix}"
    main(argv=["export", str(bundle), "--to", str(target)])
    arrays = load_state_dict(target)
    theirs = import_torchvision().models.resnet18(num_classes=3)
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    theirs.load_state_dict(tensors, strict=True)
    ours = load_state_dict(bundle / "model.safetensors")
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), ours[name])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_no_command_needs_torch(bundle, tmp_path, monkeypatch, suffix, capsys):
    main(argv=["list"])  # tyro asks once for torch, whatever the command
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    exported, converted = tmp_path / "exported.pth", tmp_path / f"converted{suffix}"
    main(argv=["export", str(bundle), "--to", str(exported)])
    main(argv=["convert", str(exported), "--to", str(converted)])
    assert f"{converted}: 122 tensors" in capsys.readouterr().out
    ours = load_state_dict(bundle / "model.safetensors")
    theirs = load_state_dict(converted)
    assert theirs.keys() == ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array, strict=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fetch", "vgg99"], "did you mean vgg"),
        (["fetch", "resnet18", "--weights", "v9"], "no weights 'v9'"),
        (["export", "nonsense", "--to", "x.pth"], "unknown backbone"),
        (["export", "resnet18", "--to", "x.onnx"], "a .pth or a .safetensors"),
        (["verify", "vgg99"], "did you mean vgg"),
        (["convert", "none.pth", "--to", "x.pth"], "none.pth does not exist"),
        (["convert", "none.pth", "--to", "x.onnx"], "a .pth or a .safetensors"),
    ],
)
def test_wrong_call_is_one_line_and_exit_code_2(capsys, argv, message):
    with pytest.raises(SystemExit) as exit_info:
        main(argv=argv)
    err = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert message in err and err.count("\n") == 1


def test_failed_download_exits_with_1(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as exit_info:
        main(argv=["fetch", "resnet18"])
    assert exit_info.value.code == 1
    assert "put it into" in capsys.readouterr().err


def test_readme_table_is_replaced_between_its_marks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    _update_readme(path, "new")
    assert path.read_text() == f"before\n{MARKS[0]}\nnew\n{MARKS[1]}\nafter\n"
