"""What builds the oneDNN extension, and what the programs say where it cannot."""

import ctypes
import shutil
import tomllib
from pathlib import Path

import jax
import pytest

from jaxvision.ops import onednn
from jaxvision.ops.build import HEADERS, build

ROOT = Path(__file__).parents[1]
possible = pytest.mark.skipif(
    not onednn.is_possible(), reason="oneDNN is for Linux on x86-64"
)


@pytest.fixture
def target(tmp_path, monkeypatch):
    """Where the extension is to come, and is not yet."""
    path = tmp_path / "onednn.so"
    monkeypatch.setattr(onednn, "extension", lambda: path)
    yield path
    # What the tests found out is no answer for others.
    onednn.problem.cache_clear()
    onednn.available.cache_clear()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Both packages, as if they were installed."""
    monkeypatch.setattr(
        onednn, "installed", lambda package, file: tmp_path / "x" / file
    )


def test_installation_needs_nothing_that_may_be_missing():
    """No header, no jaxlib: these have no wheels for every Python and platform."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (only,) = project["build-system"]["requires"]
    assert only.startswith("setuptools")
    assert not (ROOT / "setup.py").exists()


@possible
@pytest.mark.parametrize("missing", [onednn.RUNTIME, HEADERS])
def test_missing_package_is_one_line_with_its_cure(target, monkeypatch, missing):
    monkeypatch.setattr(
        onednn, "installed", lambda package, _: None if package == missing else target
    )
    said = build()
    assert said.startswith(f"{missing} is not installed: pip install 'jaxvision[cpu]'")
    assert "\n" not in said and not target.exists()


@possible
@pytest.mark.usefixtures("packages")
def test_missing_compiler_is_one_line_with_its_cure(target, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    assert build() == (
        "there is no C++ compiler no-such-compiler: install g++, or set CXX to one"
    )
    assert not list(target.parent.iterdir())


@possible
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'In file x:'; echo 'x.cc:1: error: no room'; exit 1", "error: no room"),
        ("exit 3", "exit code 3"),
    ],
)
def test_failed_build_is_one_line_and_leaves_no_file(
    target, monkeypatch, tmp_path, script, said
):
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{{ {script}; }} >&2\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    found = build()
    assert found.startswith("the oneDNN extension cannot be built: ") and said in found
    assert "\n" not in found
    assert list(tmp_path.iterdir()) == [compiler]


@possible
@pytest.mark.usefixtures("packages")
def test_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(onednn, "extension", lambda: tmp_path / "file" / "onednn.so")
    monkeypatch.setenv("CXX", "true")
    assert build().startswith("the oneDNN extension cannot be built: ")


@possible
def test_source_and_jaxlib_decide_which_file_it_is(tmp_path, monkeypatch):
    source = tmp_path / "onednn.cc"
    monkeypatch.setattr(onednn, "SOURCE", source)
    names = set()
    for text, version in (("a", "1"), ("b", "1"), ("a", "2")):
        source.write_text(text)
        monkeypatch.setattr("importlib.metadata.version", lambda _, v=version: v)
        names.add(onednn.extension().name)
    assert len(names) == 3


@possible
@pytest.mark.slow
def test_build_writes_a_library_with_the_three_functions(target):
    if onednn.installed(HEADERS, "include/dnnl.hpp") is None or not shutil.which("c++"):
        pytest.skip(f"{HEADERS} or a compiler is not installed")
    assert (
        onednn.problem() == "the extension is not built: python -m jaxvision.ops.build"
    )
    assert build() == "" and target.is_file()
    library = onednn.installed(onednn.RUNTIME, onednn.LIBRARY)
    ctypes.CDLL(str(library))
    built = ctypes.CDLL(str(target))
    assert all(getattr(built, symbol) for symbol in onednn.TARGETS.values())
    written = target.stat().st_mtime_ns
    assert build() == "" and target.stat().st_mtime_ns == written


@possible
@pytest.mark.parametrize(
    ("choice", "devices", "platform", "lines"),
    [
        ("auto", 1, "cpu", 1),
        ("jax", 1, "cpu", 0),
        ("auto", 8, "cpu", 0),
        ("auto", 1, "gpu", 0),
    ],
)
def test_program_says_in_one_line_what_is_missing_and_what_it_costs(
    monkeypatch, capsys, choice, devices, platform, lines
):
    from experiments.command import options

    monkeypatch.setenv("JAXVISION_CONV", choice)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(options, "build", lambda: "it lacks: install it")
    options.prepare_convolutions()
    said = capsys.readouterr().out
    assert said.count("\n") == lines
    assert not lines or ("2.2 times" in said and "it lacks: install it" in said)
