"""What a few minutes of a GPU tell, the most important first.

    python -m benchmarks.gpu --minutes 6 --data cifar10.npz

Seconds of the preset `speed` of `experiments.cifar10` and what it reaches; training
steps in bfloat16 beside PyTorch's, ours inside the epoch's loop; and where their time
goes. Each row is written as it is measured. What would not end in time is left out, and
what does not is broken off.
"""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from benchmarks.nets import GPU_BATCH, NETS
from benchmarks.pair import Task, Worker, WorkerError
from benchmarks.program import Job, Options, Table, look_at_machine, measure, run
from benchmarks.program import variables as environment
from benchmarks.results import Row
from benchmarks.train_step import MODES, PEERS

RECORD = {"peer": "airbench94_muon, published, A100", "peer_ms": 2590.0}
"""https://github.com/KellerJordan/cifar10-airbench: 94.01 % on average."""


class Part(NamedTuple):
    """Something to measure.

    Attributes:
      kind: `record`, `step` or `profile`.
      net: which.
      seconds: about how long it takes on an H200, compilation included.
      peer: of a step, a key of `MODES`.
    """

    kind: str
    net: str
    seconds: float
    peer: str = ""


PARTS = (
    Part("record", "cnn_fast", 100),
    Part("step", "wide_resnet50_2", 90, "eager"),
    Part("step", "resnet18", 70, "eager"),
    Part("profile", "wide_resnet50_2", 40),
    Part("step", "resnet18", 120, "autotune"),
    Part("step", "cnn", 80, "eager"),
    Part("step", "wide_resnet50_2", 180, "autotune"),
    Part("step", "mobilenet_v2", 150, "eager"),
    Part("profile", "mobilenet_v2", 40),
    Part("step", "mobilenet_v2", 180, "autotune"),
    Part("step", "resnext50_32x4d", 90, "eager"),
    Part("step", "vgg16", 90, "eager"),
)
"""What is measured, in this order."""


class OutOfTimeError(Exception):
    """The minutes are over."""


@dataclass(frozen=True)
class Config:
    """Measures what counts most on a GPU within so many minutes."""

    minutes: float = 6.0
    """How long, everything counted."""
    data: str = ""
    """CIFAR-10, as experiments.cifar10 takes it; without it no record is run."""
    seeds: int = 20
    """Runs of the record."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows, until the time is over.

    Raises:
      ValueError: `--only` names no net.
    """
    end = time.monotonic() + 60 * config.minutes
    names = config.options.chosen(dict.fromkeys(part.net for part in PARTS))
    with tempfile.TemporaryDirectory() as folder:
        # What two parts compile is compiled once.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        try:
            with _alarm(end):
                machine = look_at_machine(config.options, dtype="bfloat16")
                table = Table("gpu", config.options, machine)
                for part in PARTS:
                    if part.net in names:
                        _measure(part, config, table, end, Path(folder))
        except OutOfTimeError:
            print("the time is over; the rows so far are written", flush=True)
    table.close()


@contextmanager
def _alarm(end: float) -> Iterator[None]:
    """Raises OutOfTimeError inside at `end`, by the monotonic clock."""

    def over(number, frame):
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, end - time.monotonic()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _measure(part: Part, config: Config, table: Table, end: float, folder: Path):
    """Adds a part's rows, or says why there are none."""
    quick = config.options.quick
    left = end - time.monotonic()
    title = " ".join(filter(None, (part.kind, part.net, part.peer)))
    if part.seconds > left and not quick:
        print(f"{title}: left out, it takes {part.seconds:.0f} s and {left:.0f} s are")
        return
    if part.kind == "record" and not config.data and not quick:
        print(f"{title}: left out, no --data")
        return
    if part.kind == "step":
        measure(table, [[_step(part, quick)]], config.options, backend="auto")
        return
    about = {"net": part.net, "dtype": "bfloat16", "backend": "auto"}
    ask = _record if part.kind == "record" else _profile
    worker = Worker(environment(config.options, backend="auto"))
    try:
        for row in ask(worker, part, config, folder):
            table.add(about | row)
    except WorkerError as error:
        table.add(about | {"peer": part.kind, "problem": str(error)})
    finally:
        worker.close()


def _case(net: str, quick: bool) -> Row:
    size = NETS[net].size
    if quick:
        return {"net": net, "batch": 2, "size": min(size, 64), "dtype": "float32"}
    return {"net": net, "batch": GPU_BATCH, "size": size, "dtype": "bfloat16"}


def _step(part: Part, quick: bool) -> Job:
    case = _case(part.net, quick)
    ours = Task("benchmarks.ours:train_step", case | {"loop": True})
    theirs = Task("benchmarks.peers:train_step", case | {"mode": MODES[part.peer]})
    fields = {**case, "peer": PEERS[part.peer], "case": "step in a loop"}
    return Job(fields, ours, theirs, case["batch"])


def _profile(worker: Worker, part: Part, config: Config, _: Path) -> Iterator[Row]:
    """A row for each category: its time a step beside that of the whole step."""
    case = _case(part.net, config.options.quick)
    facts = worker.prepare(Task("benchmarks.ours:profile", case))
    whole = sum(facts["ms"].values())
    for name, ms in facts["ms"].items():
        numbers = {"ours_ms": ms, "peer_ms": whole, "ratio": ms / whole}
        yield case | {"case": f"profile: {name}", "peer": "the step"} | numbers


def _record(worker: Worker, part: Part, config: Config, folder: Path) -> Iterator[Row]:
    """What the preset reaches, and in how many seconds."""
    data, argv, seeds = config.data, [], config.seeds
    if config.options.quick:
        data, seeds = str(folder / "made.npz"), 2
        argv = ["--batch-size", "16", "--epochs", "1", "--model", "cnn_lean"]
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (48, 32, 32, 3), np.uint8), np.arange(48)
        names = ("x_train", "y_train", "x_test", "y_test")
        np.savez(data, **dict(zip(names, [images, labels % 10] * 2, strict=True)))
    arguments = {"data": data, "argv": argv, "seeds": seeds}
    facts = worker.prepare(Task("benchmarks.cifar10_ours:record", arguments))
    ms = 1e3 * mean(facts["seconds"])
    numbers = {"ours_ms": ms, "ratio": ms / RECORD["peer_ms"]}
    yield (
        RECORD
        | numbers
        | {
            "case": "--preset speed, whitening and six views counted",
            "accuracy": f"{mean(facts['accuracy']):.2%}",
            "seeds": seeds,
            "all_seconds": facts["seconds"],
            "all_accuracies": facts["accuracy"],
            "batch": facts["batch"],
            "size": 32,
            "dtype": facts["dtype"],
            "backend": facts["backend"],
        }
    )


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.gpu")
