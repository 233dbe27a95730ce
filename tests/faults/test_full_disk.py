"""A full disk, or a limit of a file's size: one line, what is kept, how to go on."""

import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments.command.console import Console
from experiments.command.options import RunError
from experiments.command.options import run_cli as run_cli
from experiments.command.signals import Stop
from experiments.inference.classifier import MODEL
from experiments.training import loop, saved
from jaxvision import checkpoint
from jaxvision.files import write_bytes
from tests.faults.plans import fit, make_plan, start

ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


def fill(folder, *, limited_after):
    """Trains a state of 4 MB; files above 100 kB fail from a step on."""
    state = replace(start(), params={"w": jnp.zeros(1_000_000)})

    def keep(state, folder):
        write_bytes(folder / MODEL, bytes(10))

    def evaluate(state):
        if int(state.step) >= limited_after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return {"val_accuracy": int(state.step) / 100}

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    plan = make_plan(keep_best=keep, evaluate=evaluate)
    try:
        loop.fit(state, plan, folder, console=Console(), stop=Stop())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@dataclass(frozen=True)
class Config:
    """A program."""

    limited_after: int = 0
    folder: str = ""


def main(config):
    fill(Path(config.folder), limited_after=config.limited_after)


@pytest.mark.parametrize(("after", "kept"), [(1, []), (5, [3, 6])])
def test_disk_that_fills_up_is_one_line(tmp_path, after, kept):
    code = (
        "from tests.faults.test_full_disk import Config, main, run_cli\n"
        "run_cli(Config, main, prog='program')"
    )
    words = ["--limited-after", str(after), "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: step ") and "too large" in done.stderr
    # The save of the second epoch may still run when the disk fills up.
    assert checkpoint.steps(tmp_path / "checkpoints") in (kept, kept[:1])
    if kept:
        assert "the last checkpoint is kept" in done.stderr
        assert f"--resume {tmp_path}" in done.stderr
    else:
        assert f"nothing of the run in {tmp_path} is kept yet" in done.stderr


def test_full_disk_of_the_model_or_a_table_is_one_line(tmp_path):
    def full(state, folder):
        raise OSError(28, "No space left on device", str(folder / MODEL))

    fit(tmp_path, make_plan((0.5,)))
    (tmp_path / MODEL).unlink()
    with pytest.raises(RunError, match="^No space left on device .*model.*--resume"):
        fit(tmp_path, make_plan((0.5,), keep_best=full))


def test_room_is_looked_for_before_the_training_begins(tmp_path, monkeypatch):
    at = saved.Place(start(), {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 90, 10))
    with pytest.raises(RunError, match="has room for 0.0 MB, and the run needs") as e:
        saved.check_room(at, make_plan(), tmp_path)
    assert "\n" not in str(e.value) and "4 checkpoints" in str(e.value)
    with pytest.raises(RunError, match="has room for"):
        fit(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_limit_of_a_file_is_looked_at_before_the_training_begins(tmp_path):
    with pytest.raises(RunError, match=r"no file may have more than .*ulimit -f"):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            fill(tmp_path, limited_after=10**9)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
