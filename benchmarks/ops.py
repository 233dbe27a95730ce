"""Single operations beside PyTorch's: convolutions, pooling, BatchNorm and ReLU.

    python -m benchmarks.ops --backend jax

The convolutions are what the architectures are made of, with the kinds that XLA on a
CPU is slow at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import tyro

from benchmarks.pair import Task
from benchmarks.program import Job, Options, Table, look_at_machine, measure, run


class Convolution(NamedTuple):
    """Images `(n, h, h, cin)`, `cout` channels out of a square kernel."""

    n: int
    h: int
    cin: int
    cout: int
    kernel: int
    stride: int = 1
    groups: int = 1


CONVOLUTIONS = {
    "3x3, 32 channels": Convolution(128, 32, 32, 32, 3),
    "3x3, 64 channels": Convolution(128, 16, 64, 64, 3),
    "3x3, 128 channels": Convolution(128, 8, 128, 128, 3),
    "3x3, 56 px": Convolution(16, 56, 64, 64, 3),
    "1x1": Convolution(4, 56, 256, 64, 1),
    "1x1, stride 2": Convolution(4, 56, 256, 512, 1, 2),
    "grouped": Convolution(4, 56, 128, 128, 3, 1, 32),
    "depthwise": Convolution(4, 56, 144, 144, 3, 1, 144),
    "7x7 stem": Convolution(4, 224, 3, 64, 7, 2),
    "5x5, 3 out": Convolution(1, 256, 32, 3, 5),
    "9x9, 3 in": Convolution(2, 256, 3, 64, 9),
}
OTHERS = {"2x2 max pool": "max_pool", "BatchNorm and ReLU": "norm_relu"}
SHAPE = [128, 32, 32, 32]
"""Images of the others."""


@dataclass(frozen=True)
class Config:
    """Times single operations beside PyTorch's."""

    backend: Literal["auto", "onednn", "jax", "xla"] = "auto"
    """Our convolutions; jax is what serves where oneDNN is absent."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(seconds=0.3)


def main(config: Config) -> None:
    """Measures and writes the rows.

    Raises:
      ValueError: `--only` names no operation.
    """
    names = config.options.chosen([*CONVOLUTIONS, *OTHERS])
    table = Table("ops", config.options, look_at_machine(config.options))
    # Small ones: one pair of processes serves all.
    work = [list(jobs(names, quick=config.options.quick))]
    measure(table, work, config.options, backend=config.backend)
    table.close()


def jobs(names: Sequence[str], *, quick: bool) -> Iterator[Job]:
    """Forward, and forward with all gradients, of each operation."""
    for name in names:
        if name in CONVOLUTIONS:
            row = CONVOLUTIONS[name]
            n, h = (1, 14) if quick else (row.n, row.h)
            function, arguments = "convolution", row._asdict()
            for key in ("n", "h", "cin"):
                del arguments[key]
            arguments["shape"] = [n, h, h, row.cin]
        else:
            function = OTHERS[name]
            arguments = {"shape": [2, 8, 8, 8] if quick else SHAPE}
        n, h, _, cin = arguments["shape"]
        fields = {"net": name, "peer": "PyTorch", "batch": n, "size": h}
        for both in (False, True):
            yield Job(
                fields | {"case": "with gradients" if both else "forward"},
                Task(f"benchmarks.ours:{function}", arguments | {"both": both}),
                Task(f"benchmarks.peers:{function}", arguments | {"both": both}),
            )


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.ops")
