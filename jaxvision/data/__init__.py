"""Data sets by one word: `open_dataset("demo")`, a folder, a .npz file, tfds's."""

import os
from pathlib import Path

from jaxvision.data.dataset import Dataset, Progress, Split
from jaxvision.data.decode import Sizes
from jaxvision.data.demo import demo_photos, open_demo
from jaxvision.data.folder import open_folder
from jaxvision.data.npz import open_npz
from jaxvision.data.tfds import open_tfds

__all__ = ["Dataset", "Progress", "Split", "demo_photos", "open_dataset"]

_SPECS = (
    "'demo', a folder (train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg), "
    "or a .npz file with x_train, y_train, x_test, y_test, or tfds:NAME, a set of "
    "TensorFlow Datasets"
)


def open_dataset(
    spec: str,
    *,
    train_size: int,
    eval_resize: int,
    eval_crop: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """The data set that `spec` names, decoded into memory.

    Args:
      spec: `demo`; a folder with `train/CLASS/*` and `val/CLASS/*`, or with `CLASS/*`,
        which is split; a `.npz` file with Keras's keys; or `tfds:NAME`, an image
        classification set of TensorFlow Datasets.
      train_size: side of the training squares, in pixels.
      eval_resize: the short side to which evaluation resizes.
      eval_crop: side of the evaluation crops.
      seed: chooses the validation images where the set is split here.
      progress: called with (done, total) after each photograph; once more from the
        start where unreadable files make a folder be split anew.

    Raises:
      ValueError: there is no such data set, or it cannot be trained on: the message
        says what is wrong, where, and what to do.
    """
    sizes = Sizes(train_size, eval_resize, eval_crop)
    path = Path(os.path.expanduser(spec))
    if spec == "demo":
        return open_demo(sizes=sizes, progress=progress)
    if spec.startswith("tfds:"):
        name = spec.removeprefix("tfds:")
        return open_tfds(name, sizes=sizes, seed=seed, progress=progress)
    if spec and os.path.isdir(path):
        return open_folder(path, sizes=sizes, seed=seed, progress=progress)
    if path.suffix.lower() == ".npz":
        return open_npz(path, sizes=sizes, progress=progress)
    if os.path.isfile(path):
        raise ValueError(f"data {spec!r} is a file; it may be {_SPECS}")
    raise ValueError(f"data {spec!r}: no such folder; it may be {_SPECS}")
