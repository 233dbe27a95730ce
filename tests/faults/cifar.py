"""A small net on made up images: the quickest of the real runs."""

import sys

import numpy as np


def write_images(path, *, train=64, val=16, seed=0):
    """An `.npz` of noise in two shades, one a class."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", train), ("test", val)):
        labels = np.arange(count) % 2
        noise = rng.integers(0, 100, (count, 32, 32, 3))
        arrays[f"x_{split}"] = (noise + 100 * labels[:, None, None, None]).astype("u1")
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    return path


def command(images, output, *words):
    """The command line that trains on them."""
    program = [sys.executable, "-m", "experiments.cifar10", "--model", "fcn"]
    options = ["--data", str(images), "--batch-size", "16", "--output", str(output)]
    return [*program, *options, *words]
