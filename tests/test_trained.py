"""The trained networks that come with the programs, and how they are judged."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax import nnx
from PIL import Image

from experiments import judge, upscale
from experiments.command.options import UsageError, run_cli
from experiments.inference.trained import FOLDER, open_network, scales, trained_names
from experiments.training.training import count_parameters
from jaxvision.functional import modules
from tests.test_superres import texture

FILES = sorted(FOLDER.glob("*.safetensors"))
DATA = os.environ.get("JAXVISION_TEST_DATA")


def said(file):
    """How a trained network was made, and its figures."""
    return yaml.safe_load(file.with_suffix(".yaml").read_text())


def test_the_light_network_comes_for_every_scale():
    assert trained_names() == ("light",) and scales("light") == (2, 3, 4)
    assert open_network("light", scale=None).scale == 2
    with pytest.raises(UsageError, match="no such run, and no name of light"):
        open_network("lihgt", scale=None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_is_small_and_lighter_than_srcnn(file):
    scale = int(file.stem[-1])
    network = open_network("light", scale=scale)
    assert network.scale == scale
    assert count_parameters(network) <= 60_000 and file.stat().st_size <= 250_000
    # Products a pixel of the low resolution: SRCNN's 57,184 a pixel of the high one.
    kernels = [m.kernel for _, m in modules(network) if isinstance(m, nnx.Conv)]
    assert sum(kernel.size for kernel in kernels) < 57_184 * scale**2 / 4
    assert {"command", "figures"} <= said(file).keys()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="JAXVISION_TEST_DATA is not set")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_figures_are_those_that_are_said(file):
    scale = int(file.stem[-1])
    folders = tuple(str(Path(DATA or "") / "sr" / name) for name in ("Set5", "Set14"))
    found = judge.main(judge.Config(photos=folders, scale=(scale,)))[scale]
    for name, value in said(file)["figures"].items():
        assert found[name] == pytest.approx(value, abs=6e-3 if "psnr" in name else 6e-5)


def test_judge_reports_every_scale_beside_bicubic(tmp_path, capsys):
    for index in range(2):
        texture(48, 61, index).save(tmp_path / f"{index}.png")
    found = judge.main(judge.Config(photos=(str(tmp_path),), scale=(2, 3)))
    name = tmp_path.name
    assert found.keys() == {2, 3}
    for figures in found.values():
        assert {f"{name}_psnr", f"{name}_psnr_bicubic"} <= figures.keys()
    assert found[2][f"{name}_psnr_bicubic"] > found[3][f"{name}_psnr_bicubic"]
    out = capsys.readouterr().out
    assert "light, 3 times the size; luma (Y of BT.601), 3 pixels of border" in out
    with pytest.raises(UsageError, match="name the folders"):
        judge.main(judge.Config())
    with pytest.raises(UsageError, match="FOLDER: '/no/such' is neither"):
        judge.main(judge.Config(photos=("/no/such",)))


@pytest.mark.parametrize("scale", [2, 4])
def test_a_folder_alone_is_enlarged_by_the_light_network(monkeypatch, tmp_path, scale):
    low = Image.new("RGB", (24, 20), (200, 30, 60))
    low.paste((20, 90, 200), (0, 0, 12, 20))
    (tmp_path / "photos").mkdir()
    low.save(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    words = [] if scale == 2 else ["--scale", str(scale)]
    monkeypatch.setattr(sys, "argv", ["upscale", "photos", *words])
    run_cli(upscale.Config, upscale.main, prog="upscale")
    with Image.open(tmp_path / "enlarged" / f"a_x{scale}.png") as image:
        made = np.asarray(image).astype(int)
    assert made.shape == (20 * scale, 24 * scale, 3)
    # Away from the edge the colours are the same.
    assert np.abs(made[:, : 8 * scale] - (20, 90, 200)).max() <= 3
    assert np.abs(made[:, 16 * scale :] - (200, 30, 60)).max() <= 3
