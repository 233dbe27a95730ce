"""Image classification sets of TensorFlow Datasets: `tfds:cifar10` and its like."""

import importlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from jaxvision.data.decode import open_image
from jaxvision.data.photo import Photo, Source
from jaxvision.data.reader import workers
from jaxvision.data.storage import StorageError, patiently
from jaxvision.data.tfds_prepare import find_builder, one_line, prepare

VAL_SPLITS = ("test", "validation")


def open_tfds(spec: str, *, labelled: bool) -> Source:
    """The image classification set that TensorFlow Datasets calls `NAME`.

    Read from prepared array_record files, without TensorFlow; prepared first where it
    is not, which needs TensorFlow and, unless the archives are at hand, a download.

    The validation images are those of `test`, or of `validation` where there is no test
    split or its labels are withheld; there may be none. Each is called by its number in
    tfds's order: `cifar10/test/00017`.

    Args:
      spec: `tfds:NAME` or `tfds:NAME/CONFIG`, either with `:VERSION`.
      labelled: whether its classes are asked for; it has to have them then.

    Raises:
      ValueError: a package is missing; there is no such set; it has no feature `image`,
        uint8, or no class called `label`; or it is neither prepared nor can it be. Its
        photographs raise it too where its files are damaged.
    """
    what = f"data {spec!r}"
    builder = find_builder(spec.removeprefix("tfds:"), what=what)
    kinds = {"image": "Image"} | ({"label": "ClassLabel"} if labelled else {})
    _check_features(builder, kinds, what=what)
    prepare(builder, what=what)
    config = builder.builder_config
    title = f"{builder.name}/{config.name}" if config else builder.name
    classes = tuple(builder.info.features["label"].names) if labelled else ()
    if labelled and len(classes) < 2:
        raise ValueError(f"{what} has one class only, and training needs two")
    train, val = _open_splits(builder, title, len(classes), what=what)
    return Source(
        name=title,
        place=f"{title}/train",
        train=train,
        val=val,
        classes=classes,
    )


class _Records(Sequence[Photo]):
    """The photographs of one split: records with `image`, a file, and `label`.

    Of no classes, the labels are not looked at.
    """

    def __init__(self, name: str, source: Sequence[Any], classes: int, folder: str):
        self._name = name
        self._labels = np.full(len(source), -1, np.int32)  # as far as they are read
        self._source = source
        self._classes = classes
        self._folder = folder

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Photo:
        if index >= len(self):
            raise IndexError(index)
        return Photo(
            name=f"{self._name}/{index:05d}",
            key=f"{index:05d}",
            open=partial(self._open, index),
            label=partial(self._label, index),
        )

    def labels(self) -> np.ndarray:
        """Their labels; see `photo.label_array`. Each record is read for its own."""
        with ThreadPoolExecutor(workers()) as pool:
            list(pool.map(self._label, range(len(self))))
        return self._labels.copy()

    def record(self, index: int) -> dict[str, Any]:
        try:
            return patiently(self._folder, lambda: self._source[index])
        except StorageError:
            raise
        except Exception as error:  # of array_record, protobuf or tfds
            raise ValueError(
                f"cannot read image {index} of {self._name} in {self._folder}: "
                f"{one_line(error)}: remove the folder, and the set is prepared anew"
            ) from error

    def _open(self, index: int) -> Image.Image:
        return open_image(io.BytesIO(self._read(index)))

    def _label(self, index: int) -> int | None:
        if not self._classes:
            return None
        if self._labels[index] < 0:
            self._read(index)
        return int(self._labels[index])

    def _read(self, index: int) -> bytes:
        """The encoded image; its label is noted."""
        record = self.record(index)
        if not self._classes:
            return record["image"]
        label = int(record["label"])
        if not 0 <= label < self._classes:
            raise ValueError(
                f"image {index} of {self._name} has the label {label}, and the classes "
                f"are 0 to {self._classes - 1}: it cannot be trained on"
            )
        self._labels[index] = label
        return record["image"]


def _check_features(builder: Any, needed: dict[str, str], *, what: str) -> None:
    """Raises ValueError unless the set has these features, with uint8 images."""
    kinds = importlib.import_module("tensorflow_datasets").features
    features = builder.info.features
    names = list(features) if isinstance(features, kinds.FeaturesDict) else []
    for name, kind in needed.items():
        if name not in names or not isinstance(features[name], getattr(kinds, kind)):
            is_of = "image classification set" if "label" in needed else "set of images"
            raise ValueError(
                f"{what} is no {is_of}: it has {', '.join(names)}, but no "
                f"{kind} called {name}"
            )
    dtype = np.dtype(features["image"].np_dtype)
    if dtype != np.uint8:
        raise ValueError(f"{what} has images of {dtype}, and they must be uint8")


def _open_splits(
    builder: Any, title: str, classes: int, *, what: str
) -> tuple[_Records, Sequence[Photo]]:
    """Training and validation photographs; the latter none where tfds has none."""
    tfds = importlib.import_module("tensorflow_datasets")
    counts = {name: info.num_examples for name, info in builder.info.splits.items()}
    if not counts.get("train"):
        found = ", ".join(name for name, count in counts.items() if count) or "nothing"
        raise ValueError(f"{what} has no train split to train on, only {found}")
    # Images stay encoded: in threads they decode faster, and masks are not needed.
    encoded = {
        name: tfds.decode.SkipDecoding()
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }

    def photos(split: str) -> _Records:
        try:
            source = builder.as_data_source(split, decoders=encoded)
        except NotImplementedError:  # tfds's message is about TFRECORD and misleads
            raise ValueError(
                f"{what} is prepared as {builder.info.file_format.value} in "
                f"{builder.data_dir}, and only array_record can be read: remove that "
                "folder or set TFDS_DATA_DIR to another, and the set is prepared anew"
            ) from None
        return _Records(f"{title}/{split}", source, classes, builder.data_dir)

    train = photos("train")
    for name in VAL_SPLITS:
        if counts.get(name):
            val = photos(name)
            # The labels of some test splits are secret, and then -1.
            if not classes or val.record(0)["label"] >= 0:
                return train, val
    return train, ()
