"""The forward pass in evaluation mode beside PyTorch's, for 1 and 16 images.

    python -m benchmarks.inference

All nets take at most ten minutes on two idle cores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from benchmarks.nets import INFERENCE, NETS
from benchmarks.pair import Task
from benchmarks.program import (
    Job,
    Machine,
    Options,
    measure_nets,
    run,
)
from benchmarks.train_step import PEERS


@dataclass(frozen=True)
class Config:
    """Times the forward pass in evaluation mode beside PyTorch's."""

    backend: Literal["auto", "onednn", "jax", "xla"] = "auto"
    """Our convolutions; jax is what serves where oneDNN is absent."""
    peers: tuple[Literal["eager", "compile"], ...] = ("eager",)
    """PyTorch eager, and torch.compile."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: ours in mixed precision, PyTorch's under autocast."""
    batches: tuple[int, ...] = (1, 16)
    """Images a call."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows.

    Raises:
      ValueError: `--only` names no net.
    """
    measure_nets("inference", config, jobs)


def jobs(config: Config, names: Sequence[str], machine: Machine) -> Iterator[list[Job]]:
    """A group for each net, a job for each batch and peer."""
    quick = config.options.quick
    for name in names:
        net = NETS[name]
        size = net.size if not quick else 64 if net.size == 224 else 32
        group = []
        for batch in (1,) if quick else config.batches:
            case = {"net": name, "batch": batch, "size": size, "dtype": config.dtype}
            ours = Task("benchmarks.ours:forward", case)
            for peer in config.peers:
                fields = {**case, "peer": PEERS[peer]}
                if machine.on_cpu and not quick and peer == "eager":
                    limit = INFERENCE.get(config.backend, INFERENCE["onednn"])
                    fields["must"] = limit
                compiled = {**case, "compiled": peer == "compile"}
                theirs = Task("benchmarks.peers:forward", compiled)
                group.append(Job(fields, ours, theirs, batch))
        yield group


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.inference")
