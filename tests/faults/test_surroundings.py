"""A device that is not there and a home folder that is not: one line, no traceback."""

import os
import pwd
import sys

import pytest

from converters import cache, download, weights
from converters.__main__ import main
from experiments.command import options
from experiments.transfer import Config
from jaxvision import compilation


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize\nbackend 'cuda'")]
)
def test_a_device_that_is_missing_is_one_line(monkeypatch, capsys, error):
    def refuse():
        raise error

    monkeypatch.setattr(compilation.jax, "devices", refuse)
    calls = {
        "a program": lambda: options.run_cli(Config, lambda config: None, prog="x"),
        "verify": lambda: main(argv=["verify", "resnet18"]),
        "export": lambda: main(argv=["export", "resnet18", "--to", "x.pth"]),
    }
    monkeypatch.setattr(sys, "argv", ["x"])
    for call in calls.values():
        with pytest.raises(SystemExit) as caught:
            call()
        said = capsys.readouterr().err
        assert caught.value.code == 2
        assert "JAX_PLATFORMS=" in said and "no such device here" in said
        assert said.count("\n") == 1


@pytest.fixture
def nobody(monkeypatch):
    """A process without a home folder, as in a container under a foreign user id."""
    for name in ("HOME", "JAXVISION_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert os.path.expanduser("~") == "~"


def test_without_a_home_folder_the_list_is_shown(nobody, capsys):
    main(argv=["list"])
    assert "wide_resnet50_2" in capsys.readouterr().out
    assert cache.folders() == []
    assert download.read_params(weights.TABLE[0]) is None
    assert compilation.use_cache() is None or "JAX_COMPILATION_CACHE_DIR" in os.environ


def test_without_a_home_folder_fetch_says_what_to_set(nobody, capsys, monkeypatch):
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as caught:
        main(argv=["fetch", "resnet18"])
    assert caught.value.code == 1
    assert "no home folder; set HOME, or JAXVISION_HOME" in capsys.readouterr().err


def test_without_a_home_folder_a_named_one_serves(nobody, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path))
    assert cache.folders() == [tmp_path / "weights"]
