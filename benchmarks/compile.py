"""Time to the first training step: compiled afresh, and from the cache on disk.

    python -m benchmarks.compile

Beside torch.compile's, with and without its own cache, and PyTorch eager, which
compiles nothing. Each figure is one process's; what is imported and built before is not
counted.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from benchmarks.nets import NETS
from benchmarks.pair import Task, Worker, WorkerError
from benchmarks.program import Options, Table, look_at_machine, run, variables
from benchmarks.results import Row
from benchmarks.train_step import MODES

EAGER, COMPILED = "PyTorch", "torch.compile"


@dataclass(frozen=True)
class Config:
    """Times the first training step, cold and with a warm cache."""

    backend: Literal["auto", "onednn", "jax", "xla"] = "auto"
    """Our convolutions; jax is what serves where oneDNN is absent."""
    peers: tuple[Literal["eager", "compile"], ...] = ("eager",)
    """compile takes minutes a net."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows.

    Raises:
      ValueError: `--only` names no net.
    """
    names = config.options.chosen(NETS)
    table = Table("compile", config.options, look_at_machine(config.options))
    for name in names:
        for row in rows(config, name):
            table.add(row)
    table.close()


def rows(config: Config, name: str) -> Sequence[Row]:
    """The rows of one net: cold and warm, beside each peer."""
    net, quick = NETS[name], config.options.quick
    case = {"net": name, "batch": net.batch, "size": net.size, "dtype": "float32"}
    if quick:
        case |= {"batch": 2, "size": 64 if net.size == 224 else 32}
    ours = Task("benchmarks.ours:first_step", case)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        times = [first_step(ours, config, folder) for _ in ("cold", "warm")]
        for peer in config.peers:
            theirs = Task("benchmarks.peers:first_step", case | {"mode": MODES[peer]})
            peer_folder = os.path.join(folder, peer)
            for temperature, mine in zip(("cold", "warm"), times, strict=True):
                other = first_step(theirs, config, peer_folder)
                fields = {"peer": COMPILED if peer == "compile" else EAGER}
                fields |= {"case": f"first step, {temperature} cache"}
                found.append({**case, **fields, **_compared(config, mine, other)})
    return found


def first_step(task: Task, config: Config, folder: str) -> Row | str:
    """The facts of a first step in a process of its own, or why there are none."""
    caches = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": folder,
    }
    worker = Worker(variables(config.options, backend=config.backend) | caches)
    try:
        return worker.prepare(task)
    except WorkerError as error:
        return str(error)
    finally:
        worker.close()


def _compared(config: Config, ours: Row | str, peer: Row | str) -> Row:
    row: Row = {"backend": config.backend}
    if not isinstance(ours, str):
        row |= {"backend": ours["backend"], "ours_ms": 1e3 * ours["seconds"]}
    if not isinstance(peer, str):
        row["peer_ms"] = 1e3 * peer["seconds"]
    for side, facts in (("ours", ours), ("peer", peer)):
        if isinstance(facts, str):
            row["problem"] = f"{side}: {facts}"
    if "problem" not in row:
        row["ratio"] = row["ours_ms"] / row["peer_ms"]
    return row


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.compile")
