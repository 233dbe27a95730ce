"""A prepared set of TensorFlow Datasets is data, and is taken as no more."""

import json
import sys

import pytest

from jaxvision.data import tfds_prepare
from jaxvision.data.pieces import open_photos
from tests.photos import check_error
from tests.tiny_photos import photo, photos
from tests.tiny_photos import prepare as prepare
from tests.tiny_photos import tiny_photos as tiny_photos

OWN = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
HOSTILE = {
    "class": {"pythonClassName": "evil_module.Class"},
    "field's own name": {"python_class_name": "evil_module.Class"},
    "older": {"type": "evil_module.Class", "content": {}},
    "inside": {
        "pythonClassName": OWN,
        "featuresDict": {"features": {"x": {"pythonClassName": "evil_module.Class"}}},
    },
    "in text": {
        "pythonClassName": OWN,
        "jsonFeature": {
            "json": json.dumps({"f": {"type": "evil_module.Class", "content": {}}})
        },
    },
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("place", ["1.0.0", "blue/1.0.0"])
def test_no_module_that_a_folder_names_is_imported(
    prepare, tmp_path, case, place, monkeypatch
):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "strange_set" / place
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(HOSTILE[case]))
    (folder / "dataset_info.json").write_text('{"name": "strange_set"}')
    check_error(
        f"tfds:{'/'.join(['strange_set', *place.split('/')[:-1]])}",
        "features.json names the Python class 'evil_module.Class', which is none of",
    )
    assert "evil_module" not in sys.modules
    (folder / "features.json").write_text("{")
    check_error("tfds:strange_set", "features.json is damaged .*: remove")


def test_what_tfds_writes_passes(prepare):
    builder = prepare(train=photos(6), test=photos(3))
    assert (builder.data_path / "features.json").exists()
    tfds_prepare._check_features_files("tiny_photos:1.0.0", what="data")


def test_two_classes_of_one_name_are_an_error_at_the_start(
    prepare,
):
    builder = prepare(train=photos(6), test=photos(3))
    (path,) = builder.data_path.glob("label.labels.txt")
    path.write_text("wolf\nbee\nwolf\n")
    # With a version, tfds goes by the folder.
    check_error("tfds:tiny_photos:1.0.0", "two classes called 'wolf': rename one")


def test_super_resolution_needs_no_labels(prepare, tiny_photos, monkeypatch):
    import tensorflow_datasets as tfds

    def info(self):
        features = {"image": tfds.features.Image(), "mask": tfds.features.Image()}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def examples(self, found):
        import io

        for key, (data, _) in enumerate(found):
            yield key, {"image": io.BytesIO(data), "mask": io.BytesIO(data)}

    monkeypatch.setattr(tiny_photos, "_info", info)
    monkeypatch.setattr(tiny_photos, "_generate_examples", examples)
    prepare(train=[(photo(i, 40, 40), 0) for i in range(4)], test=photos(2, height=40))
    found = open_photos("tfds:tiny_photos", crop_size=24)
    assert found.count == 4 and len(found.val) == 2
    check_error("tfds:tiny_photos", "is no image classification set: it has image, mas")
