"""What streaming a large folder adds to the memory of an idle process.

    python -m benchmarks.memory
    python -m benchmarks.memory --trained

The folder has 20,000 JPEGs of 500 px, which are links to 1,000 made ones. Idle is the
process with JAX started, before it lists the folder; of a training, with the program's
modules loaded, too.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from benchmarks.decoders import write_photos
from jaxvision.data import list_dataset
from jaxvision.parallel import make_mesh
from jaxvision.stream import Stream

MIB = 2**20
CLASSES = 10


@dataclass(frozen=True)
class Config:
    """Streams a folder once, and prints what the resident set came to."""

    photos: int = 20_000
    """Photos of the folder."""
    made: int = 1_000
    """Different ones among them."""
    batch_size: int = 64
    """Photos a batch."""
    trained: bool = False
    """Has experiments.cifar10 train its smallest net on the folder for an epoch, and
    measures that program, from the listing to the report."""


def resident(name: str = "VmRSS", process: int | str = "self") -> float:
    """MiB of a process's resident set; of `VmHWM` the most that it was."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"the system does not say {name}")


def write_links(folder: Path, *, photos: int, made: int) -> None:
    """Writes `made` photos and links to them, `photos` in classes of `folder`."""
    source = folder / "made"
    source.mkdir()
    write_photos(source, count=made, size=500)
    files = sorted(source.iterdir())
    for index in range(photos):
        place = folder / "photos" / f"class{index % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(files[index % made], place / f"{index:06d}.jpg")


IDLE = """
import jax
import experiments.cifar10
from benchmarks.memory import resident
jax.block_until_ready(jax.numpy.zeros(3) + 1)
print(resident())
"""


def train(config: Config, folder: Path) -> dict[str, float]:
    """The memory of a training from its begin to its end: the most, and the mean."""
    idle = float(subprocess.check_output([sys.executable, "-c", IDLE], text=True))
    words = ["--data", folder / "photos", "--output", folder / "runs", "--epochs", 1]
    words += ["--model", "fcn_baseline", "--batch-size", config.batch_size]
    words += ["--input", "stream"]
    command = [sys.executable, "-m", "experiments.cifar10", *map(str, words)]
    begun, most, sums, looks = time.perf_counter(), 0.0, 0.0, 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(0.25)
            try:
                most, now = (
                    resident("VmHWM", process.pid),
                    resident("VmRSS", process.pid),
                )
            except (OSError, ValueError):  # it has just ended
                continue
            sums, looks = sums + now, looks + 1
    if process.returncode:
        raise RuntimeError(f"the training ended with {process.returncode}")
    return {
        "photos": config.photos,
        "idle MiB": idle,
        "mean MiB above idle": sums / looks - idle,
        "most MiB above idle": most - idle,
        "seconds": time.perf_counter() - begun,
    }


def main(config: Config) -> dict[str, float]:
    """Measures, and prints what was found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_links(folder, photos=config.photos, made=config.made)
        found = (train if config.trained else stream)(config, folder)
    for what, value in found.items():
        print(f"{what}: {value:,.1f}")
    return found


def stream(config: Config, folder: Path) -> dict[str, float]:
    """The memory of a stream over all photos, and nothing else."""
    mesh = make_mesh()
    jax.block_until_ready(jax.numpy.zeros(3) + 1)
    idle = resident()
    listing = list_dataset(
        str(folder / "photos"), train_size=256, eval_resize=256, eval_crop=224
    )
    data = listing.stream().train
    listed = resident()
    stream = Stream(
        {"image": data.images, "label": data.labels},
        batch_size=config.batch_size,
        mesh=mesh,
    )
    order = jax.random.permutation(jax.random.key(0), len(data))
    begun, most = time.perf_counter(), 0.0
    for batch in stream.take(order, 0, len(data) // config.batch_size):
        jax.block_until_ready(batch)
        most = max(most, resident())
    seconds = time.perf_counter() - begun
    stream.close()
    return {
        "photos": len(data),
        "decoded MiB": listing.nbytes / MIB,
        "idle MiB": idle,
        "listed MiB above idle": listed - idle,
        "streamed MiB above idle": most - idle,
        "most MiB above idle": resident("VmHWM") - idle,
        "photos a second": len(data) / seconds,
    }


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.memory"))
