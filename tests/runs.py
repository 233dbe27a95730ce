"""What tests read from a run's folder, and how they stop one and go on."""

import csv
import signal
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.command.options import parse
from experiments.command.signals import Stop


def rows_of(path):
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(folder):
    """The rows of `metrics.csv`, without what hangs on the clock."""
    timing = ("seconds", "images_per_second")
    rows = rows_of(folder / "metrics.csv")
    return [{k: v for k, v in row.items() if k not in timing} for row in rows]


def check_same_run(folder, other):
    """Both runs have the same metrics and, to the bit, the same model."""
    assert metrics_of(folder) == metrics_of(other)
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


def check_close_run(folder, other):
    """The same numbers in each epoch, and the same weights, but for rounding."""
    for row, theirs in zip(metrics_of(folder), metrics_of(other), strict=True):
        for name, value in theirs.items():
            assert float(row[name]) == pytest.approx(float(value), rel=1e-4), name
    ours, weights = (load_file(path / "model.safetensors") for path in (folder, other))
    for name, array in ours.items():
        np.testing.assert_allclose(array, weights[name], atol=1e-5)


def resumed(config_class, folder, *words):
    """The configuration of `--resume FOLDER WORDS...`."""
    return parse(config_class, ["--resume", str(folder), *words], prog="x")


class StopAfter(Stop):
    """Asks to stop after so many looks."""

    def __init__(self, looks):
        self.left = looks

    def __bool__(self):
        self.left -= 1
        self.signum = signal.SIGTERM if self.left < 0 else None
        return self.left < 0


def stop_after(monkeypatch, experiment, config, *, looks):
    """Runs `experiment.main(config)`, which a signal stops after so many looks."""
    with monkeypatch.context() as patch:
        stop = nullcontext(StopAfter(looks))
        patch.setattr(experiment, "stop_on_signals", lambda: stop)
        with pytest.raises(SystemExit) as exit_info:
            experiment.main(config)
    assert exit_info.value.code == 128 + signal.SIGTERM


def check_wrong_call(call, base, words, message, monkeypatch, capsys):
    """`call` with the options `base` and, over them, `words` ends with one line.

    Args:
      call: parses `sys.argv` and runs.
      base: option -> value.
      words: options and values, one after the other.
      message: what the line must hold.
    """
    options = base | dict(zip(words[::2], words[1::2], strict=True))
    argv = [word for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["program", *argv])
    with pytest.raises(SystemExit) as exit_info:
        call()
    err = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    if "cannot be" not in message:  # a limit of an option, which the parser shows
        assert err.startswith("error: ") and err.count("\n") == 1
