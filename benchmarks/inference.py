"""The forward pass in evaluation mode beside PyTorch's, for 1 and 16 images.

    python -m benchmarks.inference

All nets take at most ten minutes on two idle cores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from benchmarks.nets import INFERENCE, NETS, Net
from benchmarks.pair import Task
from benchmarks.program import (
    Job,
    Machine,
    Options,
    measure_nets,
    run,
)
from benchmarks.train_step import MODES, PEERS


@dataclass(frozen=True)
class Config:
    """Times the forward pass in evaluation mode beside PyTorch's."""

    backend: Literal["auto", "onednn", "jax", "xla"] = "auto"
    """Our convolutions; jax is what serves where oneDNN is absent."""
    peers: tuple[Literal["eager", "compile", "autotune"], ...] = ("eager",)
    """PyTorch eager, torch.compile, and its mode max-autotune."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: ours in mixed precision, PyTorch's under autocast."""
    batches: tuple[int, ...] = (1, 16)
    """Images a call."""
    sizes: tuple[int, ...] = ()
    """Pixels a side of ImageNet's nets, 32 or more; by default 224. The others have one
    size."""
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
        net, group = NETS[name], []
        for batch, size in shapes(net, config):
            case = {"net": name, "batch": batch, "size": size, "dtype": config.dtype}
            ours = Task("benchmarks.ours:forward", case)
            for peer in config.peers:
                fields = {**case, "peer": PEERS[peer]}
                own = size == net.size
                if machine.on_cpu and not quick and peer == "eager" and own:
                    limit = INFERENCE.get(config.backend, INFERENCE["onednn"])
                    fields["must"] = limit
                theirs = Task("benchmarks.peers:forward", {**case, "mode": MODES[peer]})
                group.append(Job(fields, ours, theirs, batch))
        yield group


def shapes(net: Net, config: Config) -> list[tuple[int, int]]:
    """Images a call and their side in pixels, for each row."""
    imagenet = net.size == 224
    if config.options.quick:
        return [(1, 64 if imagenet else 32)]
    sizes = config.sizes if imagenet and config.sizes else (net.size,)
    return [(batch, size) for size in sizes for batch in config.batches]


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.inference")
