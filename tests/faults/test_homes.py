"""`~` in a path from a person is the home folder, whatever shell they have."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from converters.__main__ import main as convert_main
from experiments import (
    analyze,
    cifar10,
    compare,
    predict,
    serve,
    superres,
    transfer,
    upscale,
)
from experiments.command.options import UsageError, parse, read_yaml
from experiments.training.backbones import choose_weights
from jaxvision.files import at_home
from tests.photos import make_folder

ROOT = Path(__file__).parents[2]
WORDS = {
    transfer.Config: ["--output=~/x"],
    cifar10.Config: ["--output=~/x"],
    superres.Config: ["--init-from=~/x"],
    compare.Config: ["~/x", "--output=~/x"],
    predict.Config: ["~/x", "~/x", "--csv=~/x", "--output=~/x"],
    upscale.Config: ["~/x", "~/x", "--output=~/x"],
    analyze.Config: ["~/x"],
    serve.Config: ["~/x"],
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "home"
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("options", WORDS, ids=lambda kind: kind.__module__)
def test_paths_of_every_program(options, home):
    config = parse(options, WORDS[options], prog="x")
    text = repr(config)
    assert "~" not in text
    assert text.count(repr(home / "x")) == len(WORDS[options]), text


def test_paths_in_a_file(home):
    home.mkdir()
    (home / "c.yaml").write_text("output: ~/runs\nconfig: ~/d.yaml\n")
    for config in (
        parse(transfer.Config, ["--config=~/c.yaml"], prog="x"),
        read_yaml(transfer.Config, home / "c.yaml"),
    ):
        assert config.output == home / "runs"
    with pytest.raises(UsageError, match=f"{home}/none: there is no config.yaml"):
        parse(transfer.Config, ["--resume=~/none"], prog="x")


def test_what_is_nobodys_home_stays():
    @dataclass(frozen=True)
    class Options:
        one: Path = Path("~nobody-of-this-name/x")
        all: tuple[Path, ...] = (Path("a~"), Path("b/~"))
        text: str = "~"

    assert at_home(Options()) == Options()


def test_weights_and_the_converters(home, capsys):
    home.mkdir()
    save_file({"a": np.ones(2, np.float32)}, home / "w.safetensors")
    found = choose_weights("resnet18", "~/w.safetensors", console=None)
    assert found.arrays is not None and found.arrays["a"].tolist() == [1, 1]
    convert_main(argv=["convert", "~/w.safetensors", "--to=~/m.pth"])
    assert (home / "m.pth").is_file() and str(home / "m.pth") in capsys.readouterr().out


BACKEND = """
import os, sys
import experiments.pages
import matplotlib
from matplotlib import rcParams
print(os.environ["MPLBACKEND"])
print(rcParams._get("backend"))
"""


@pytest.mark.parametrize("backend", ["module://no.such.module", "no such", "svg"])
def test_backend_of_a_notebook_is_nothing_to_a_program(backend):
    """It stays where matplotlib has it, so that a notebook's own figures show."""
    done = subprocess.run(
        [sys.executable, "-c", BACKEND],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    environment, used = done.stdout.splitlines()
    assert environment == backend
    # What a module is named, matplotlib looks up in some of its releases alone.
    assert backend.startswith("module") or (used == backend) == (backend == "svg")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transfer", "superres", "compare"])
def test_programs_start_beside_a_backend_that_is_not_there(name):
    subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--help"],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        capture_output=True,
        check=True,
    )


def test_photos_of_a_home_folder(home):
    make_folder(home / "photos", {"a": 1})
    assert predict.find_images(
        parse(predict.Config, ["run", "~/photos"], prog="x").images
    )
