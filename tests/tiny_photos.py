"""A small set of TensorFlow Datasets that tests write and read."""

import io
from functools import cache

import pytest
from PIL import Image

from tests.photos import noise


@pytest.fixture(scope="session")
def tiny_photos():
    """A set of tfds's whose features and examples each test gives."""
    pytest.importorskip("array_record")
    return _builder()


@cache  # tfds takes a name once
def _builder():
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyPhotos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        names = ("wolf", "ant", "bee")
        image = tfds.features.Image()
        splits = {}

        def _info(self):
            label = tfds.features.ClassLabel(names=list(self.names))
            mask = tfds.features.Image(shape=(None, None, 1))
            features = {"image": self.image, "label": label, "mask": mask}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                split: self._generate_examples(examples)
                for split, examples in self.splits.items()
            }

        def _generate_examples(self, examples):
            for key, (data, label) in enumerate(examples):
                mask = io.BytesIO(b"nothing reads the mask")
                yield key, {"image": io.BytesIO(data), "label": label, "mask": mask}

    return TinyPhotos


@pytest.fixture
def prepare(tiny_photos, monkeypatch, tmp_path):
    """`prepare(train=[...], ...)` writes tfds:tiny_photos, and gives its builder."""
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))

    def write(**splits):
        monkeypatch.setattr(tiny_photos, "splits", splits)
        builder = tiny_photos()
        builder.download_and_prepare(file_format="array_record")
        return builder

    return write


def photo(seed, height=32, width=32, channels=3, encoding="png"):
    data = io.BytesIO()
    Image.fromarray(noise(height, width, channels, seed)).save(data, encoding)
    return data.getvalue()


def photos(count, start=0, **kwargs):
    return [(photo(start + i, **kwargs), i % 3) for i in range(count)]
