"""Files of torch's formats with random damage: right, or one line, within bounds."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converters.torch_file import read_torch
from tests.test_torch_hostile import SIZED, STORED, both, calls
from tests.torch_files import (
    archive,
    assert_same,
    dict_of,
    number,
    stream,
    tar,
    tar_storages,
    tar_tensor,
    tar_tensors,
    tensor,
)
from tests.torch_fuzz import mutate

ROOT = Path(__file__).parents[1]


def seeds(folder: Path, canary: Path) -> None:
    """Small files of every format, also such as would make `canary`, were they run."""
    folder.mkdir()
    for index, evil in enumerate(list(calls(canary).values())[:4]):
        (folder / f"evil-{index}.pth").write_bytes(both(dict_of(a=evil))[index % 2])
    value = dict_of(a=tensor(), b=tensor(size=(3,), stride=(2,)), c=number(2**40))
    for index, raw in enumerate(both(value)):
        (folder / f"{index}.pth").write_bytes(raw)
    raw = tar(tar_tensor(21), tar_storages(STORED), tar_tensors(SIZED))
    (folder / "tar.pth").write_bytes(raw)
    try:
        import torch
    except ModuleNotFoundError:
        return
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = {"model": net.state_dict(), "best": np.float64(0.5), "n": [1, (2.5, "a")]}
    state |= {"late": torch.ones(3, dtype=torch.uint16), "half": torch.ones(2).half()}
    for zipped in (True, False):
        for protocol in (2, 4):
            torch.save(
                state,
                folder / f"torch-{zipped}-{protocol}.pth",
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=zipped,
            )


def fuzz(folder: Path, *, count: int, seed: int) -> dict[str, float]:
    """What `tests.torch_fuzz` counts, in a process of its own."""
    canary = folder.parent / "ran"
    seeds(folder, canary)
    program = [sys.executable, "-m", "tests.torch_fuzz"]
    done = subprocess.run(
        [*program, str(folder), str(count), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert not canary.exists()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["read"] + found["refused"] == count
    return found


def test_mutated_files_are_read_or_refused(tmp_path):
    found = fuzz(tmp_path / "files", count=500, seed=0)
    assert found["read"] > 20 and found["refused"] > 200


@pytest.mark.slow
def test_many_mutated_files_are_read_or_refused(tmp_path):
    print(fuzz(tmp_path / "files", count=20_000, seed=1))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_what_torch_makes_of_them(tmp_path):
    torch = pytest.importorskip("torch")
    rng = random.Random(2)
    files = [archive(dict_of(a=tensor(), b=number(3))), stream(dict_of(a=tensor()))]
    path = tmp_path / "file.pth"
    agreed = 0
    for _ in range(300):
        path.write_bytes(mutate(rng.choice(files), rng))
        try:
            ours = read_torch(path)
            theirs = torch.load(path, weights_only=True)
        except Exception:
            continue
        assert_same(torch, ours, theirs)
        agreed += 1
    assert agreed > 10
