"""What it takes to list a large folder, and to know it again by its index.

    python -m benchmarks.listing

200,000 small files in 1,000 folders of classes, on a file system in memory.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class Config:
    """Times a listing, and counts the bytes a photo that it takes."""

    photos: int = 200_000
    """Files."""
    classes: int = 1_000
    """Folders of them."""
    place: Path = Path("/dev/shm")
    """Where they are written."""
    task: str = ""
    """Of a process that this one starts."""
    folder: Path = Path()
    """Likewise."""


def resident() -> int:
    """Bytes of the process's resident set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise ValueError("the system does not say VmRSS")


def timed(what: str, count: int, act: Callable[[], Any]) -> Any:
    """What `act` gives; prints its time and what memory it left."""
    before, begun, cpu = resident(), time.perf_counter(), time.process_time()
    found = act()
    print(
        f"{what}: {time.perf_counter() - begun:.2f} s, of CPU "
        f"{time.process_time() - cpu:.2f} s; {(resident() - before) / count:.0f} bytes "
        "of memory a photo",
        flush=True,
    )
    return found


def work(config: Config) -> None:
    """One process, whose memory is its own."""
    from jaxvision.data.decode import extensions
    from jaxvision.data.photo_index import read_index, write_index
    from jaxvision.data.sources import find_source

    extensions()  # Pillow's plugins take memory of their own, once
    folder, count = str(config.folder / "photos"), config.photos
    index = config.folder / "photos.npz"
    if config.task == "again":
        found = timed(
            "read from the index and checked",
            count,
            lambda: read_index(index, folder=folder),
        )
        assert len(found.train) == count
        return
    source = timed("listed", count, lambda: find_source(folder, labelled=True))
    timed("sizes and times", count, lambda: source.train.facts())
    timed("index written", count, lambda: write_index(index, source, folder=folder))
    print(f"index: {index.stat().st_size / count:.0f} bytes a photo")


def main(config: Config) -> None:
    """Writes the files, then starts a process for each measurement."""
    if config.task:
        work(config)
        return
    with tempfile.TemporaryDirectory(dir=config.place) as name:
        for index in range(config.photos):
            label, number = index % config.classes, index // config.classes
            place = Path(name) / "photos" / f"n{label:08d}"
            if not number:
                place.mkdir(parents=True)
            (place / f"n{label:08d}_{number:05d}.JPEG").write_bytes(b"x")
        for task in ("first", "again"):
            words = [f"--photos={config.photos}", f"--task={task}", f"--folder={name}"]
            subprocess.run(
                [sys.executable, "-m", "benchmarks.listing", *words], check=True
            )


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.listing"))
