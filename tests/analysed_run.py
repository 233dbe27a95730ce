"""One small run whose photos hold planted problems, for the tests that read a run."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from experiments import transfer
from experiments.transfer import Config
from jaxvision.optim import Optim

COLOURS = {"blue": 2, "green": 1, "red": 0}
"""Class -> the channel that is bright; scarlet looks like red."""


class Run(NamedTuple):
    """A finished run.

    Attributes:
      folder: the run's.
      photos: the data's, with `train/CLASS/*` and `val/CLASS/*`.
      numbers: what the run returned.
    """

    folder: Path
    photos: Path
    numbers: dict[str, float]


_made: list[Run] = []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run; the modules that ask for it share one."""
    if not _made:
        photos = tmp_path_factory.mktemp("planted")
        plant(photos)
        output = tmp_path_factory.mktemp("runs")
        numbers = transfer.main(
            Config(
                backbone=("resnet18",),
                data=str(photos),
                weights="random",
                epochs=6,
                batch_size=8,
                image_size=32,
                optim=Optim(lr=0.02),
                augment=("none",),
                output=output,
            )
        )
        _made.append(Run(output / "transfer" / "1", photos, numbers))
    return _made[0]


def colour(rng, name):
    """A noisy photo of one colour."""
    pixels = rng.integers(0, 120, (40, 48, 3))
    pixels[..., COLOURS[name]] += 120
    return Image.fromarray(pixels.astype(np.uint8))


def plant(photos):
    """Two swapped labels, a leaked duplicate, and a class that cannot be learned."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for name in (*COLOURS, "scarlet"):
            (photos / split / name).mkdir(parents=True)
        for name in COLOURS:
            for index in range(count):
                colour(rng, name).save(photos / split / name / f"{index}.png")
        for index in range(2):
            colour(rng, "red").save(photos / split / "scarlet" / f"{index}.png")
    colour(rng, "red").save(photos / "val" / "green" / "swapped.png")
    colour(rng, "green").save(photos / "val" / "blue" / "swapped.png")
    with Image.open(photos / "train" / "blue" / "7.png") as image:
        image.resize((96, 80)).save(photos / "val" / "blue" / "leaked.jpg", quality=80)
