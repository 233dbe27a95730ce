"""What is installed: a wheel for every Python, and the versions that are promised."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_floor_is_tested_with_the_oldest_versions_that_are_allowed():
    promised = {}
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["app"]):
        name, floor = re.match(r"([\w.-]+)>=([\d.]+)", text).groups()
        promised[normal(name)] = floor
    lines = (ROOT / "constraints-floor.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    tested = {normal(name): version for name, version in pins.items()}
    assert tested.pop("jaxlib") == tested["jax"]
    assert tested.keys() == promised.keys()
    for name, floor in promised.items():
        assert re.fullmatch(rf"{re.escape(floor)}(\.0)*", tested[name]), name


def test_each_promised_python_is_a_classifier():
    oldest = int(PROJECT["requires-python"].removeprefix(">=3."))
    named = [c.rpartition(".")[2] for c in PROJECT["classifiers"] if ":: 3." in c]
    assert [int(minor) for minor in named] == list(range(oldest, oldest + len(named)))


def test_wheel_is_the_same_for_all_platforms_and_has_what_the_programs_read(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    code = (
        "import sys; from setuptools import build_meta; "
        "print(build_meta.build_wheel(sys.argv[1]))"
    )
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    copy = tmp_path / "copy"
    for name in filter(None, tracked.stdout.split("\0")):
        source, target = ROOT / name, copy / name
        if source.is_file() and not name.startswith(("docs/", "benchmarks/results/")):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (copy / "jaxvision" / "onednn.built.so").touch()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    for folder in ("jaxvision", "converters", "experiments"):
        for path in (copy / folder).rglob("*"):
            if path.suffix in (".py", ".html", ".css", ".js", ".cc", ".typed"):
                assert path.relative_to(copy).as_posix() in names
    assert not any(name.endswith(".so") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
