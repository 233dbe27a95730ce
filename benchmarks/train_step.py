"""The whole training step beside PyTorch's: forward, backward, SGD's update.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --only resnet18 --backend jax --peers eager compile
    python -m benchmarks.train_step --backend jax --sizes 32 64 96 160 --batches 4 32

Normalised float images lie ready on both sides. All nets beside PyTorch eager take at
most ten minutes on two idle cores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from benchmarks.nets import GPU_BATCH, LOOP, NETS, OTHERWISE, Net
from benchmarks.pair import Task
from benchmarks.program import (
    Job,
    Machine,
    Options,
    measure_nets,
    run,
)

PEERS = {
    "eager": "PyTorch",
    "compile": "torch.compile",
    "autotune": "torch.compile, max-autotune",
    "loop": "ours, a call a step",
}
MODES = {"eager": None, "compile": "default", "autotune": "max-autotune"}
"""What torch.compile is asked for. Its default waits for the CPU between the kernels of
a GPU; max-autotune replays CUDA graphs, and takes minutes to compile."""


@dataclass(frozen=True)
class Config:
    """Times the whole training step beside PyTorch's."""

    backend: Literal["auto", "onednn", "jax", "xla"] = "auto"
    """Our convolutions; jax is what serves where oneDNN is absent."""
    peers: tuple[Literal["eager", "compile", "autotune", "loop"], ...] = ("eager",)
    """eager, compile and autotune, which is the fair one on a GPU: PyTorch's; loop: our
    step in a loop beside our step alone."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: ours in mixed precision, PyTorch's under autocast."""
    batches: tuple[int, ...] = ()
    """Images a step; by default the net's own, on a GPU 128."""
    sizes: tuple[int, ...] = ()
    """Pixels a side of ImageNet's nets, 32 or more; by default 224. The others have one
    size."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows.

    Raises:
      ValueError: `--only` names no net.
    """
    measure_nets("train_step", config, jobs)


def jobs(config: Config, names: Sequence[str], machine: Machine) -> Iterator[list[Job]]:
    """A group for each net and shape: ours beside PyTorch's; one more for the loop."""
    for name in names:
        for batch, size in shapes(NETS[name], config, machine):
            yield from _groups(config, machine, name=name, batch=batch, size=size)


def _groups(
    config: Config, machine: Machine, *, name: str, batch: int, size: int
) -> Iterator[list[Job]]:
    net = NETS[name]
    case = {"net": name, "batch": batch, "size": size, "dtype": config.dtype}
    alone = Task("benchmarks.ours:train_step", {**case, "loop": False})
    group = []
    for peer in (peer for peer in config.peers if peer != "loop"):
        fields = {**case, "peer": PEERS[peer], "case": "step"}
        if peer == "eager" and machine.on_cpu and not config.options.quick:
            own = (batch, size) == (net.batch, net.size)
            limits = net.limits if own else lambda backend: OTHERWISE.get(backend, {})
            fields |= limits(config.backend)
        theirs = Task("benchmarks.peers:train_step", {**case, "mode": MODES[peer]})
        group.append(Job(fields, alone, theirs, batch))
    yield group
    if "loop" in config.peers:
        fields = {**case, "peer": PEERS["loop"], "case": "step in a loop"}
        looped = Task("benchmarks.ours:train_step", {**case, "loop": True})
        yield [Job(fields | {"must": LOOP}, looped, alone, batch)]


def shapes(net: Net, config: Config, machine: Machine) -> list[tuple[int, int]]:
    """Images a step and their side in pixels, for each row."""
    imagenet = net.size == 224
    if config.options.quick:
        return [(2, 64 if imagenet else 32)]
    sizes = config.sizes if imagenet and config.sizes else (net.size,)
    own = net.batch if machine.on_cpu else GPU_BATCH
    return [(batch, size) for size in sizes for batch in config.batches or (own,)]


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.train_step")
