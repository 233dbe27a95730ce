"""Augmentation by the full recipe beside torchvision's v2 transforms on tensors.

    python -m benchmarks.augment

Both sides take uint8 photos of 256 px to normalised float images of 224 px: crop, flip,
rotation by up to 15 degrees, jitter by 0.2. torchvision draws one set of parameters a
call, so that only "each image" and its threaded form give what ours gives; "whole
batch" turns and colours all images alike, and shows what that would save.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from benchmarks.pair import Task
from benchmarks.program import Job, Options, Table, look_at_machine, measure, run

PEERS = {
    "image": "torchvision v2, each image",
    "threads": "torchvision v2, each image, a thread a core",
    "batch": "torchvision v2, whole batch, one draw for all",
}


@dataclass(frozen=True)
class Config:
    """Times augmentation beside torchvision's."""

    batch: int = 128
    """Images a call."""
    size: int = 224
    """Pixels of the crops."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows.

    Raises:
      ValueError: `--only` names no way of `PEERS`.
    """
    ways = config.options.chosen(PEERS)
    table = Table("augment", config.options, look_at_machine(config.options))
    measure(table, jobs(config, ways), config.options, backend="auto")
    table.close()


def jobs(config: Config, ways: Sequence[str]) -> Iterator[list[Job]]:
    """A group for each of torchvision's ways."""
    quick = config.options.quick
    case = {"batch": config.batch, "size": config.size}
    if quick:
        case = {"batch": 8, "size": 56}
    # uint8 read, float32 written.
    side = case["size"] * 8 // 7
    moved = 3 * case["batch"] * (side**2 + 4 * case["size"] ** 2)
    for way in ways:
        fields = {"net": "full", **case, "peer": PEERS[way], "bytes": moved}
        if way != "batch" and not quick:
            fields["must"] = 1.0
        ours = Task("benchmarks.ours:augment", case)
        theirs = Task("benchmarks.peers:augment", {**case, "way": way})
        yield [Job(fields, ours, theirs, case["batch"])]


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.augment")
