"""Runs of several seeds in one program, beside the same one after the other.

    python -m benchmarks.repeats
    python -m benchmarks.repeats --only cnn_small --seeds 16

An epoch of the preset original_cnn of `experiments.cifar10`, on made images, since
their content does not matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from benchmarks.pair import Task
from benchmarks.program import Job, Options, Table, look_at_machine, measure, run

BATCH = 128
NETS = {"fcn": 40, "cnn_small": 4, "cnn": 2}
"""Batches an epoch, on a CPU; on a GPU a hundred times as many."""


@dataclass(frozen=True)
class Config:
    """Times an epoch of several seeds."""

    backend: Literal["auto", "onednn", "jax", "xla"] = "auto"
    """Our convolutions; jax is what serves where oneDNN is absent."""
    seeds: tuple[int, ...] = (4,)
    """How many runs."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows."""
    names = config.options.chosen(NETS)
    machine = look_at_machine(config.options)
    table = Table("repeats", config.options, machine)
    jobs_ = jobs(config, names, on_cpu=machine.on_cpu)
    measure(table, jobs_, config.options, backend=config.backend)
    table.close()


def jobs(config: Config, names: list[str], *, on_cpu: bool) -> Iterator[list[Job]]:
    """A pair of processes for each net and number of seeds."""
    for name in names:
        for seeds in config.seeds:
            batches = NETS[name] if on_cpu else 100 * NETS[name]
            images = BATCH * (1 if config.options.quick else batches)
            fields = {
                "net": name,
                "peer": "one after the other",
                "case": f"{seeds} seeds, an epoch of {images} images",
                "batch": BATCH,
                "size": 32,
                "dtype": "float32" if on_cpu else "auto",
            }
            both = {"net": name, "images": images, "seeds": seeds}
            ours, peer = (
                Task("benchmarks.cifar10_ours:repeats", {**both, "together": together})
                for together in (True, False)
            )
            yield [Job(fields, ours, peer, images * seeds)]


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.repeats")
