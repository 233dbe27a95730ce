"""Data sets by one word: `open_dataset("demo")`, `cifar10`, a folder, a .npz file.

A source (one module, one row of `sources.KINDS`) lists photographs, each a `Photo` that
opens when asked. `dataset` makes squares with labels of them, `pieces` what
super-resolution is trained on and judged by.
"""

from jaxvision.data.dataset import (
    Dataset,
    Listing,
    Split,
    list_dataset,
    open_dataset,
)
from jaxvision.data.demo import demo_photos
from jaxvision.data.reader import Progress
from jaxvision.data.sources import describe_kinds

__all__ = [
    "Dataset",
    "Listing",
    "Progress",
    "Split",
    "demo_photos",
    "describe_kinds",
    "list_dataset",
    "open_dataset",
]
