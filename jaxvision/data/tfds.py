"""Image classification sets of TensorFlow Datasets: `tfds:cifar10` and its like."""

import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jaxvision.data.dataset import Dataset, Progress, Split
from jaxvision.data.decode import Sizes, UnreadableImageError, decode_pair
from jaxvision.data.folder import split_samples
from jaxvision.data.tfds_prepare import find_builder, one_line, prepare

VAL_SPLITS = ("test", "validation")


def open_tfds(
    name: str, *, sizes: Sizes, seed: int = 0, progress: Progress | None = None
) -> Dataset:
    """The image classification set that TensorFlow Datasets calls `name`.

    Read from prepared array_record files, without TensorFlow; prepared first where it
    is not, which needs TensorFlow and, unless the archives are at hand, a download.

    The validation images are those of `test`, or of `validation` where there is no test
    split or its labels are withheld. Where there is neither, a fifth of each class is
    set aside, as of a folder without one. Images that have the size asked for are taken
    as they are; others are resized like photographs. Each is called by its number in
    tfds's order: `cifar10/test/00017`.

    Args:
      name: `NAME` or `NAME/CONFIG`, either with `:VERSION`.
      sizes: of the training squares and the evaluation crops.
      seed: chooses the validation images where tfds has none.
      progress: called after each image.

    Raises:
      ValueError: a package is missing; there is no such set; it has no feature `image`,
        uint8, or no class called `label`; it is neither prepared nor can it be; or its
        files are damaged.
    """
    what = f"data 'tfds:{name}'"
    builder = find_builder(name, what=what)
    check_features(builder, what=what)
    prepare(builder, what=what)
    config = builder.builder_config
    title = f"{builder.name}/{config.name}" if config else builder.name
    classes = tuple(builder.info.features["label"].names)
    if len(classes) < 2:
        raise ValueError(f"{what} has one class only, and training needs two")
    train, val = open_splits(builder, title, len(classes), what=what)
    if not val:
        train, val = _set_aside(train, classes, seed=seed)
    images, bad = decode_pair(train, val, open_image, sizes=sizes, progress=progress)
    return Dataset(
        name=title,
        classes=classes,
        train=_split(images[0], train, bad[0], what=what),
        val=_split(images[1], val, bad[1], what=what),
        skipped=tuple(
            f"{samples[index].path}: {reason}"
            for samples, reasons in ((train, bad[0]), (val, bad[1]))
            for index, reason in reasons.items()
        ),
    )


class _Records:
    """The records of one split: `image`, an encoded file, and `label`, a number."""

    def __init__(self, name: str, source: Sequence[Any], classes: int, folder: str):
        self.name = name
        self.labels = np.full(len(source), -1, np.int32)  # as far as they are read
        self._source = source
        self._classes = classes
        self._folder = folder

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self._source[index]
        except Exception as error:  # of array_record, protobuf or tfds
            raise ValueError(
                f"cannot read image {index} of {self.name} in {self._folder}: "
                f"{one_line(error)}: remove the folder, and the set is prepared anew"
            ) from error

    def read(self, index: int) -> bytes:
        """The encoded image; its label is noted in `labels`."""
        record = self[index]
        label = int(record["label"])
        if not 0 <= label < self._classes:
            raise ValueError(
                f"image {index} of {self.name} has the label {label}, and the classes "
                f"are 0 to {self._classes - 1}: it cannot be trained on"
            )
        self.labels[index] = label
        return record["image"]


class _Sample(NamedTuple):
    records: _Records
    index: int

    @property
    def path(self) -> str:
        return f"{self.records.name}/{self.index:05d}"


def check_features(builder: Any, *, what: str) -> None:
    """Raises ValueError unless the set is one of images with one label each."""
    kinds = importlib.import_module("tensorflow_datasets").features
    features = builder.info.features
    names = list(features) if isinstance(features, kinds.FeaturesDict) else []
    for name, kind in {"image": kinds.Image, "label": kinds.ClassLabel}.items():
        if name not in names or not isinstance(features[name], kind):
            raise ValueError(
                f"{what} is no image classification set: it has {', '.join(names)}, "
                f"but no {kind.__name__} called {name}"
            )
    dtype = np.dtype(features["image"].np_dtype)
    if dtype != np.uint8:
        raise ValueError(f"{what} has images of {dtype}, and they must be uint8")


def open_splits(
    builder: Any, title: str, classes: int, *, what: str
) -> tuple[list[_Sample], list[_Sample]]:
    """Training and validation samples; the latter none where tfds has none."""
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

    def samples(split: str) -> list[_Sample]:
        try:
            source = builder.as_data_source(split, decoders=encoded)
        except NotImplementedError:  # tfds's message is about TFRECORD and misleads
            raise ValueError(
                f"{what} is prepared as {builder.info.file_format.value} in "
                f"{builder.data_dir}, and only array_record can be read: remove that "
                "folder or set TFDS_DATA_DIR to another, and the set is prepared anew"
            ) from None
        records = _Records(f"{title}/{split}", source, classes, builder.data_dir)
        return [_Sample(records, index) for index in range(len(records))]

    train = samples("train")
    for name in VAL_SPLITS:
        if counts.get(name):
            val = samples(name)
            # The labels of some test splits are secret, and then -1.
            if val[0].records[0]["label"] >= 0:
                return train, val
    return train, []


def _set_aside(
    samples: list[_Sample], classes: tuple[str, ...], *, seed: int
) -> tuple[list[_Sample], list[_Sample]]:
    """Training and validation samples, divided class by class as of a folder."""
    records = samples[0].records
    for index in range(len(records)):
        records.read(index)
    known = {sample.path: sample for sample in samples}
    labelled = list(zip(known, records.labels.tolist(), strict=True))
    train, val = split_samples(labelled, classes, root=Path(records.name), seed=seed)
    return [known[path] for path, _ in train], [known[path] for path, _ in val]


def open_image(sample: _Sample) -> Image.Image:
    """One image as RGB, upright."""
    encoded = io.BytesIO(sample.records.read(sample.index))
    try:
        with Image.open(encoded) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise UnreadableImageError(one_line(error)) from error


def _split(
    images: np.ndarray, samples: list[_Sample], bad: dict[int, str], *, what: str
) -> Split:
    kept = [sample for index, sample in enumerate(samples) if index not in bad]
    if not kept:
        raise ValueError(f"{what}: no image can be read; {samples[0].path}: {bad[0]}")
    return Split(
        images=images,
        labels=np.array([s.records.labels[s.index] for s in kept], np.int32),
        paths=tuple(sample.path for sample in kept),
    )
