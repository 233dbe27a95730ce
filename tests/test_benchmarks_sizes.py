"""The grid of sizes: what is measured, what is left, and the table."""

from pathlib import Path

import pytest

from benchmarks import results, sizes
from benchmarks.pair import Timing, WorkerError
from benchmarks.program import Machine, Options

CPU = Machine("CPU somebody's, 2 cores", peak=1e11, bandwidth=1e10)
SECONDS = {"onednn": 0.1, "peer": 0.2, "jax": 0.6}


class Fake:
    """A worker whose calls take no time, and say that they do."""

    def __init__(self, name, asked, failing=()):
        self.name, self.asked, self.failing = name, asked, failing

    def prepare(self, task, *, end):
        case = task.arguments["net"], task.arguments["batch"], task.arguments["size"]
        self.asked.append((self.name, *case))
        if (self.name, *case) in self.failing:
            raise WorkerError("it cannot")
        return {"flops": 1e9, "backend": self.name}

    def measure(self, calls, *, end):
        return Timing(SECONDS[self.name], SECONDS[self.name])

    def close(self):
        pass


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Runs the program with fakes; gives what was asked of them, and the rows."""

    def run(failing=(), **fields):
        asked = []
        monkeypatch.setattr(sizes, "look_at_machine", lambda options: CPU)
        monkeypatch.setattr(
            sizes, "Worker", lambda env: Fake(names.pop(0), asked, failing)
        )
        names = ["onednn", "jax", "peer"] * 2
        options = Options(only=("resnet18",), output=tmp_path)
        sizes.main(sizes.Config(options=options, **fields))
        (path,) = Path(tmp_path).glob("*.json")
        return asked, results.read(path)

    return run


def test_one_measurement_of_pytorch_serves_both_rows(measured):
    asked, rows = measured(sizes=(32,), batches=(4,))
    assert [name for name, *_ in asked].count("peer") == 2  # prepared, then at hand
    assert [(row["backend"], row["ratio"], row.get("must")) for row in rows] == [
        ("onednn", 0.5, None),
        ("jax", pytest.approx(3), 2.5),
    ]
    assert rows[1]["images_per_second"] == pytest.approx(4 / 0.6)


def test_the_same_command_measures_what_is_lacking(measured):
    measured(sizes=(32,), batches=(4,))
    asked, rows = measured(sizes=(32, 64), batches=(4, 32))
    assert {(batch, size) for _, _, batch, size in asked} == {
        (4, 64),
        (32, 32),
        (32, 64),
    }
    assert len(rows) == 8
    asked, _ = measured(sizes=(32, 64), batches=(4, 32))
    assert not asked
    asked, _ = measured(sizes=(32,), batches=(4,), again=True)
    assert asked


def test_what_has_too_many_pixels_is_left_out_and_the_least_comes_first():
    config = sizes.Config()
    shapes = sizes._shapes(config, "vgg16")
    assert (128, 96) in shapes and (32, 224) in shapes
    assert (128, 160) not in shapes and (128, 224) not in shapes
    work = [batch * size**2 for batch, size in shapes]
    assert work == sorted(work) and shapes[0] == (1, 32)
    assert sizes._shapes(config, "cnn") == [(1, 32), (4, 32), (32, 32), (128, 32)]


def test_a_side_that_fails_costs_its_row_and_pytorch_both(measured):
    failing = (("jax", "resnet18", 4, 32), ("peer", "resnet18", 4, 64))
    _, rows = measured(failing=failing, sizes=(32, 64), batches=(4,))
    said = {(row["size"], row["backend"]): row.get("problem") for row in rows}
    assert said == {
        (32, "onednn"): None,
        (32, "jax"): "jax: it cannot",
        (64, "onednn"): "peer: it cannot",
        (64, "jax"): "peer: it cannot",
    }


def test_a_shape_that_takes_too_long_stops_larger_ones_alone(measured):
    asked, _ = measured(sizes=(32, 64), batches=(4, 32), limit=0.0)
    assert {(batch, size) for _, _, batch, size in asked} == {(4, 32)}


def test_too_long_is_remembered(measured, monkeypatch):
    def late(self, task, *, end):
        sizes.time.sleep(0.02)
        raise WorkerError("no answer in 0 s")

    with monkeypatch.context() as patch:
        patch.setattr(Fake, "prepare", late)
        _, rows = measured(sizes=(32,), batches=(4,), limit=0.01)
    assert rows[0]["problem"] == "onednn: not done in 0 s"
    asked, _ = measured(sizes=(32, 64), batches=(4,))
    assert not asked


def test_table_has_both_ratios_by_batch(measured):
    _, rows = measured(
        failing=(("jax", "resnet18", 32, 32),), sizes=(32,), batches=(4, 32)
    )
    config = sizes.Config(batches=(4, 32, 128))
    assert sizes.markdown(rows, config, ["resnet18", "vgg16"]).splitlines() == [
        "| net | px | batch 4 | batch 32 | batch 128 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| resnet18 | 32 | 0.50 / 3.00 | 0.50 / - | - |",
    ]
