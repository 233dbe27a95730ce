"""The trained networks that come with the programs, and how they are judged."""

import os
import sys
from dataclasses import replace
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
    assert "light" in trained_names() and scales("light") == (2, 3, 4)
    assert open_network("light", scale=None).scale == 2
    with pytest.raises(UsageError, match="no such run, and no name of light"):
        open_network("lihgt", scale=None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_is_small_and_all_but_srcnn_are_lighter_than_it(file):
    name, scale = file.stem.rsplit("_x", 1)
    scale = int(scale)
    network = open_network(name, scale=scale)
    assert network.scale == scale and {"command", "figures"} <= said(file).keys()
    # Products a pixel of the low resolution; SRCNN's are as many a pixel of the high.
    kernels = [m.kernel for _, m in modules(network) if isinstance(m, nnx.Conv)]
    products = sum(kernel.size for kernel in kernels)
    if name == "srcnn":
        assert products == 69_152 and file.stat().st_size <= 300_000
    else:
        assert count_parameters(network) <= 60_000 and file.stat().st_size <= 250_000
        assert products < 57_184 * scale**2 / 4


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="JAXVISION_TEST_DATA is not set")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_figures_are_those_that_are_said(file):
    name, scale = file.stem.rsplit("_x", 1)
    scale, about = int(scale), said(file)
    config = judge.Config(
        photos=tuple(str(Path(DATA or "") / "sr" / one) for one in ("Set5", "Set14")),
        model=(name,),
        scale=(scale,),
        degrade=about.get("degrade", "bicubic"),
    )
    found = judge.main(config)[scale]
    for figure, value in about["figures"].items():
        near = 6e-3 if "psnr" in figure else 6e-5
        assert found[figure] == pytest.approx(value, abs=near)


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

    # Several beside each other: the first has the plain names.
    both = judge.Config(
        photos=(str(tmp_path),),
        model=("light", str(FILES[0])),
        scale=(2,),
        picture=tmp_path / "picture.png",
    )
    again = judge.main(both)[2]
    assert again[f"{name}_psnr"] == found[2][f"{name}_psnr"]
    assert again[f"{name}_psnr_{FILES[0]}"] == again[f"{name}_psnr"]
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > picture.height
    for options, message in (
        ({"photos": ()}, "name the folders"),
        ({"model": ("light", "light")}, "names one of them twice"),
        ({"scale": (2, 3), "model": ("light",)}, "--picture is of one scale"),
        ({"picture": tmp_path / "no" / "a.png"}, "--picture .*: no such folder"),
    ):
        with pytest.raises(UsageError, match=message):
            judge.main(replace(both, **options))
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
