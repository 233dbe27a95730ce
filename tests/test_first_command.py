"""The first command without torch: weights fetched, checked, converted, fine-tuned."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from converters.to_torch import to_state_dict
from converters.torch_file import write_torch
from jaxvision import models
from jaxvision.functional import functionalize
from tests.weights_server import (  # noqa: F401  fixtures among them
    caches,
    server,
)
from tests.without import hiding

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
from dataclasses import replace
from converters import weights
from experiments import transfer
from experiments.command.options import run_cli
name, prefix, size, *argv = sys.argv[1:]
weights.TABLE = tuple(
    replace(row, sha256_prefix=prefix, mib=int(size) / 2**20)
    if row is weights.find(name)
    else row
    for row in weights.TABLE
)
sys.argv[1:] = argv
run_cli(transfer.Config, transfer.main, prog="x")
"""
"""A weights table whose hash is that of the made file."""


def tensors(name):
    """Made weights of a backbone, with torchvision's names."""
    model = models.create(name, rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    return to_state_dict(model, params, stats)


def write_zip(path, arrays):
    write_torch(path, arrays)


def write_legacy(path, arrays):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.slow
@pytest.mark.app
@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "write"), [("resnet18", write_zip), ("mobilenet_v2", write_legacy)]
)
def test_demo_fine_tunes_fetched_weights_and_needs_the_server_once(
    tmp_path, server, name, write
):
    from converters import weights

    write(tmp_path / "x.pth", tensors(name))
    body = (tmp_path / "x.pth").read_bytes()
    prefix = hashlib.sha256(body).hexdigest()[:8]
    row = replace(weights.find(name), sha256_prefix=prefix)
    size = str(len(body))
    server.bodies[row.file] = body
    argv = ["--backbone", name, "--epochs", "1", "--image-size", "32"]
    program = hiding({"torch", "torchvision"}, PROGRAM)
    for visit in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", program, name, prefix, size, *argv]
            + ["--output", str(tmp_path / "runs")],
            cwd=ROOT,
            env=dict(os.environ),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-1500:]
        said = f"{name}: ImageNet weights {row.file}, with a new last layer; demo"
        assert said in done.stdout and "random" not in done.stdout
        assert (tmp_path / f"runs/transfer/{visit}/report.html").is_file()
        assert len([r for r in server.requests if r[0] == "GET"]) == 1
        server.bodies.clear()


@pytest.mark.app
def test_an_official_file_keeps_its_own_preprocessing(tmp_path):
    """Torchvision's second weights of a ResNet are resized to 232, not 256."""
    from converters import weights
    from experiments.command.console import Console
    from experiments.training.backbones import choose_weights

    official = tmp_path / weights.find("resnet50").file
    for path, resize in ((official, 232), (tmp_path / "own.pth", 256)):
        write_torch(path, {"a": np.ones(2, np.float32)})
        chosen = choose_weights("resnet50", str(path), console=Console())
        assert chosen.preprocessing.resize == resize
