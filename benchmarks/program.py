"""What all the programs share: options, workers, bounds, progress and files."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from benchmarks import results
from benchmarks.nets import NETS
from benchmarks.pair import Pair, Plan, Task, WorkerError, environment
from benchmarks.results import Row

QUICK = Plan(pairs=2, seconds=0.0)
BOUNDS = ("flops", "bytes")
"""What a peer's facts, or a job's fields, may say of the work."""


@dataclass(frozen=True)
class Options:
    """How to measure, and where to write."""

    only: tuple[str, ...] = ()
    """Names of nets or cases; the other rows of the files stay as they are."""
    pairs: int = 5
    """Turns of each side; three are enough once they take 40 s."""
    seconds: float = 1.0
    """Least length of a turn."""
    malloc: Literal["keep", "default"] = "keep"
    """keep: glibc gives no memory back, on both sides."""
    waiting: Literal["passive", "default"] = "passive"
    """passive: OpenMP's threads sleep while they wait, on both sides."""
    quick: bool = False
    """Tiny sizes and two turns, to see that it works; writes no files."""
    output: Path = results.FOLDER
    """Folder of the files."""

    @property
    def plan(self) -> Plan:
        """How much is measured."""
        return QUICK if self.quick else Plan(self.pairs, self.seconds)

    def chosen(self, names: Iterable[str]) -> list[str]:
        """The names that `--only` leaves, in their order.

        Raises:
          ValueError: it names something else.
        """
        names = list(names)
        unknown = set(self.only) - set(names)
        if unknown:
            raise ValueError(
                f"--only {' '.join(sorted(unknown))}: use some of {' '.join(names)}"
            )
        return [name for name in names if name in self.only or not self.only]


class Job(NamedTuple):
    """One row to be measured.

    Attributes:
      fields: what the row is about, the key of `benchmarks.results`.
      ours: our case.
      peer: the peer's.
      images: how many a call works on; 0 where that has no meaning.
    """

    fields: Row
    ours: Task
    peer: Task
    images: int = 0


NetJobs = Callable[[Any, Sequence[str], "Machine"], Iterable[Sequence[Job]]]


class Machine(NamedTuple):
    """What the rows are measured on.

    Attributes:
      device: its name.
      peak: FLOPs a second, at best.
      bandwidth: bytes a second of a copy, read and written ones together.
      cache: bytes of the last cache, on a CPU.
    """

    device: str
    peak: float
    bandwidth: float
    cache: int = 0

    @property
    def on_cpu(self) -> bool:
        """Whether it is a CPU."""
        return self.device.startswith("CPU")


def variables(options: Options, *, backend: str) -> dict[str, str]:
    """The environment of both sides."""
    return environment(malloc=options.malloc, waiting=options.waiting) | {
        "JAXVISION_CONV": backend,
        # On a GPU JAX would take three quarters of the memory for itself.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",
    }


SUITED = {"cout": 128, "kernel": 3, "stride": 1, "groups": 1, "both": False}
"""A convolution of many channels on small images: faster here than a matrix product."""


def look_at_machine(options: Options, *, dtype: str = "float32") -> Machine:
    """Times a large matrix product and a large copy, with both libraries.

    On a CPU, in float32, also a convolution: the faster of them is the peak.

    Raises:
      WorkerError: one of them does not work here.
    """
    sizes, numbers, batch = {"cpu": 2048, "gpu": 8192}, 2**26, 128
    if options.quick:
        sizes, numbers, batch = dict.fromkeys(sizes, 256), 2**18, 1
    plan = options.plan
    with Pair(variables(options, backend="auto")) as pair:
        arguments = {"sizes": sizes, "dtype": dtype}
        product = pair.compare(
            Task("benchmarks.ours:peak", arguments),
            Task("benchmarks.peers:peak", arguments),
            plan=plan,
        )
        facts = product.ours_facts
        on_cpu = facts["platform"] == "cpu"
        peak = facts["flops"] / _best(product)
        if on_cpu and dtype == "float32":
            case = SUITED | {"shape": [batch, 8, 8, 128]}
            convolved = pair.compare(
                Task("benchmarks.ours:convolution", case),
                Task("benchmarks.peers:convolution", case),
                plan=plan,
            )
            peak = max(peak, convolved.peer_facts["flops"] / _best(convolved))
        copied = pair.compare(
            Task("benchmarks.ours:copy", {"size": numbers}),
            Task("benchmarks.peers:copy", {"size": numbers}),
            plan=plan,
        )
    return Machine(
        device=results.processor() if on_cpu else facts["kind"],
        peak=peak,
        bandwidth=copied.ours_facts["bytes"] / _best(copied),
        cache=results.cache_bytes() if on_cpu else 0,
    )


def _best(comparison) -> float:
    return min(timing.wall for timing in comparison.ours + comparison.peer)


class Table:
    """Rows as they come: each is printed, and the files are written anew."""

    def __init__(self, name: str, options: Options, machine: Machine):
        self._name, self._options, self._machine = name, options, machine
        self._origin = results.origin()
        self.rows: list[Row] = []
        self.path: Path | None = None
        print(
            f"{machine.device}: {machine.peak / 1e9:.0f} GFLOP/s, "
            f"{machine.bandwidth / 1e9:.1f} GB/s",
            flush=True,
        )

    def add(self, row: Row) -> None:
        """Completes, prints and writes a row."""
        how = {"malloc": self._options.malloc, "waiting": self._options.waiting}
        row = results.with_bound(
            row,
            peak=self._machine.peak,
            bandwidth=self._machine.bandwidth,
            cache=self._machine.cache,
        )
        self.rows.append(row | how | self._origin)
        print(summary(row), flush=True)
        if not self._options.quick:
            self.path = results.write(
                self._options.output, self._name, self._machine.device, self.rows
            )

    def close(self) -> None:
        """Says where the rows are."""
        if self.path is not None:
            print(f"written: {self.path} and {self.path.with_suffix('.md').name}")


def measure(
    table: Table,
    groups: Iterable[Sequence[Job]],
    options: Options,
    *,
    backend: str,
) -> None:
    """Measures groups of jobs; a group has a pair of processes to itself.

    A side that fails costs its row alone, which says why.
    """
    for group in groups:
        with Pair(variables(options, backend=backend)) as pair:
            for job in group:
                row = {"backend": backend, **job.fields}
                try:
                    found = pair.compare(job.ours, job.peer, plan=options.plan)
                except WorkerError as error:
                    table.add(row | {"problem": str(error)})
                    continue
                row |= found.row()
                row["backend"] = found.ours_facts.get("backend", backend)
                facts = found.peer_facts
                row |= {name: facts[name] for name in BOUNDS if name in facts}
                for side in ("ours", "peer"):
                    said = found.ours_facts if side == "ours" else facts
                    row |= {f"{side}_mib": said["mib"]} if "mib" in said else {}
                if job.images:
                    row["images_per_second"] = 1e3 * job.images / row["ours_ms"]
                table.add(row)


def summary(row: Row) -> str:
    """A row in a line for a person who waits."""
    about = [row["net"], row.get("case"), row["backend"], f"beside {row['peer']}"]
    text = " ".join(str(part) for part in about if part)
    if "problem" in row:
        return f"{text}: {row['problem']}"
    ratio = f"{row['ratio']:.2f}"
    if "ratio_low" in row:
        ratio += f" ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    return f"{text}: {row['ours_ms']:.4g} / {row['peer_ms']:.4g} ms, ratio {ratio}"


def measure_nets(name: str, config: Any, jobs: NetJobs) -> None:
    """Measures the nets that `--only` names, and writes the rows of a table.

    Args:
      name: of the table.
      config: a program's options, `options`, `dtype` and `backend` among them.
      jobs: `jobs(config, names, machine)`, a group for each net.

    Raises:
      ValueError: `--only` names no net.
    """
    options = config.options
    names = options.chosen(NETS)
    machine = look_at_machine(options, dtype=config.dtype)
    table = Table(name, options, machine)
    measure(table, jobs(config, names, machine), options, backend=config.backend)
    table.close()


def run(config_class: type, main, *, prog: str) -> None:
    """Parses the command line, and turns errors into one line and an exit code."""
    try:
        main(tyro.cli(config_class, prog=prog))
    except (ValueError, WorkerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        print("interrupted; the rows so far are written", file=sys.stderr)
        sys.exit(130)
