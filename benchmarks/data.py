"""Decoding a folder of JPEGs beside Pillow, simplejpeg, OpenCV; PyTorch's DataLoader.

    python -m benchmarks.data

The photos are cut from the demo's: of 256 px, which is what training squares are, and
of 500 px, which have to be resized to them. Streamed are those of 500 px, as squares of
224 px in batches of 32, in another order each time.
"""

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.decoders import BATCH, STREAMED, write_photos
from benchmarks.pair import Task
from benchmarks.program import Job, Options, Table, look_at_machine, measure, run
from jaxvision.stream import is_possible

SQUARE = 256
PHOTOS = (256, 500)
PEERS = {
    "pillow-loop": ("Pillow, one thread", "pillow", False),
    "pillow": ("Pillow, a thread a core", "pillow", True),
    "simplejpeg": ("simplejpeg, a thread a core", "simplejpeg", True),
    "opencv": ("OpenCV, a thread a core", "opencv", True),
}
LOADER = "dataloader"
MODULES = {
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "opencv": "cv2",
    LOADER: "torchvision",
}


@dataclass(frozen=True)
class Config:
    """Times decoding and streaming beside others, where these are installed."""

    photos: int = 256
    """Photos of a folder that is decoded."""
    streamed: int = 1024
    """Photos of a folder that is streamed."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures and writes the rows.

    Raises:
      ValueError: `--only` names no peer.
    """
    peers = [
        peer for peer in config.options.chosen([*PEERS, LOADER]) if installed(peer)
    ]
    table = Table("data", config.options, look_at_machine(config.options))
    count = 16 if config.options.quick else config.photos
    with tempfile.TemporaryDirectory() as folder:
        for size in PHOTOS:
            (Path(folder) / str(size)).mkdir()
            write_photos(Path(folder) / str(size), count=count, size=size)
        decoders = [peer for peer in peers if peer != LOADER]
        work = jobs(Path(folder), decoders, count=count)
        measure(table, work, config.options, backend="")
        if LOADER in peers and is_possible():
            count = 64 if config.options.quick else config.streamed
            place = Path(folder) / "streamed" / "class"
            place.mkdir(parents=True)
            write_photos(place, count=count, size=PHOTOS[-1])
            work = [[stream_job(place.parent, count=count)]]
            measure(table, work, config.options, backend="")
    table.close()


def installed(peer: str) -> bool:
    """Whether a peer can be imported; says so where it cannot."""
    module = MODULES[PEERS[peer][1] if peer in PEERS else peer]
    if importlib.util.find_spec(module) is None:
        print(f"{peer} is left out: {module} is not installed")
        return False
    return True


def jobs(folder: Path, peers: Sequence[str], *, count: int) -> Iterator[list[Job]]:
    """A group for each size of photo and each peer."""
    for size in PHOTOS:
        case = {"folder": str(folder / str(size)), "size": SQUARE}
        fields = {"net": f"JPEG of {size} px", "batch": count, "size": SQUARE}
        # Ours is Pillow in threads: its case is the same in every row.
        ours = Task("benchmarks.decoders:ours", case)
        for peer in peers:
            title, function, threads = PEERS[peer]
            theirs = Task(
                f"benchmarks.decoders:{function}", case | {"threads": threads}
            )
            yield [Job(fields | {"peer": title}, ours, theirs, count)]


def stream_job(folder: Path, *, count: int) -> Job:
    """A stream beside PyTorch's, each by as many threads or processes as cores."""
    case = {"folder": str(folder)}
    size = STREAMED["crop"]
    fields = {"net": f"stream of JPEG of {PHOTOS[-1]} px", "batch": BATCH, "size": size}
    ours, theirs = (Task(f"benchmarks.decoders:{n}", case) for n in ("stream", LOADER))
    peer = {"peer": "PyTorch's DataLoader, a process a core"}
    return Job(fields | peer, ours, theirs, count)


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.data")
