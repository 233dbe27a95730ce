"""Sets of TensorFlow Datasets: what is read, and what is said where it cannot be."""

import hashlib
import http.server
import importlib.machinery
import json
import socket
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

from jaxvision import preprocess
from jaxvision.data import open_dataset, tfds, tfds_prepare
from jaxvision.data.pieces import open_photos
from tests.archives import cifar_archive, cifar_batches, pet_archives
from tests.archives import home as home
from tests.archives import served as served
from tests.photos import SIZES, check_error
from tests.tiny_photos import photo, photos
from tests.tiny_photos import prepare as prepare
from tests.tiny_photos import tiny_photos as tiny_photos

NATIVE = {"train_size": 32, "eval_resize": 32, "eval_crop": 32}


@pytest.mark.parametrize("package", tfds_prepare.PACKAGES)
def test_missing_package_is_an_error_that_says_what_to_install(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    check_error(
        "tfds:cifar10",
        rf"^data 'tfds:cifar10' needs .*{package}.*: pip install 'jaxvision\[tfds\]'",
    )


@pytest.mark.parametrize("name", ["", "../cifar10", "cifar 10", "a/b/c", "kaggle:cat"])
def test_name_that_is_none_is_an_error(name):
    check_error(f"tfds:{name}", f"data 'tfds:{name}': give a name .* tfds:cifar10")


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers with the status that is the path."""

    def do_HEAD(self):
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *args):
        pass


def test_unreachable_names_the_servers_that_do_not_answer(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        ports = server.server_port, server.server_port, server.server_port
        ports += closed.getsockname()[1], mute.getsockname()[1]
        fine, missing, broken, refused, silent = (
            f"http://127.0.0.1:{port}/{status}"
            for port, status in zip(ports, (200, 404, 503, 200, 200), strict=True)
        )
        reasons = tfds_prepare.unreachable([fine, missing, broken, refused], timeout=9)
        start = time.monotonic()
        late = tfds_prepare.unreachable(
            [f"{silent}?{i}" for i in range(40)], timeout=0.2
        )
        assert time.monotonic() - start < 4 and len(late) == 40
    server.shutdown()
    server.server_close()
    assert set(reasons) == {broken, refused}  # and not `missing`: a server is there
    assert reasons[broken] == "HTTP status 503"
    assert reasons[refused] == "Connection refused"


def records(builder, split):
    """The images and labels of a split as tfds reads them, without our code."""
    from tensorflow_datasets import decode

    skip = {"mask": decode.SkipDecoding()}
    source = builder.as_data_source(split, decoders=skip)
    found = [source[index] for index in range(len(source))]
    return [one["image"] for one in found], [one["label"] for one in found]


def test_prepared_set_is_read_like_photos(prepare):
    wide = photos(4, start=10, width=90, encoding="jpeg")
    builder = prepare(
        train=photos(5) + wide, test=photos(6, height=70), validation=photos(3)
    )
    calls = []
    data = open_dataset(
        "tfds:tiny_photos", **SIZES, progress=lambda *done: calls.append(done)
    )
    assert (data.name, data.classes) == ("tiny_photos", ("wolf", "ant", "bee"))
    assert data.train.paths[8] == "tiny_photos/train/00008"
    assert data.val.paths[5] == "tiny_photos/test/00005"
    assert calls == [(done, 15) for done in range(1, 16)] and not data.skipped
    images, labels = records(builder, "train")
    np.testing.assert_array_equal(data.train.labels, labels)
    assert data.train.labels.dtype == np.int32 and len(data.train) == 9
    for got, image in zip(data.train.images, images, strict=True):
        expected = preprocess.square_image(Image.fromarray(image), size=40)
        np.testing.assert_array_equal(got, expected)
    images, labels = records(builder, "test")
    np.testing.assert_array_equal(data.val.labels, labels)
    for got, image in zip(data.val.images, images, strict=True):
        photo = Image.fromarray(image)
        expected = preprocess.eval_image(photo, resize=48, crop=36)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("test", [{}, {"test": [(photo(0), -1)] * 3}])
def test_validation_stands_in_for_a_test_split_that_has_no_labels(prepare, test):
    builder = prepare(train=photos(5), validation=photos(4, start=5), **test)
    data = open_dataset("tfds:tiny_photos:1.0.0", **NATIVE)
    assert data.val.paths[3] == "tiny_photos/validation/00003"
    for split, name in ((data.train, "train"), (data.val, "validation")):
        images, labels = records(builder, name)
        np.testing.assert_array_equal(split.images, images)  # 32 pixels: as they are
        np.testing.assert_array_equal(split.labels, labels)


def test_train_split_alone_is_divided_by_class_and_seed(prepare):
    builder = prepare(train=photos(30), unlabelled=photos(2))
    images, labels = records(builder, "train")
    first, again, other = (
        open_dataset("tfds:tiny_photos", **NATIVE, seed=seed) for seed in (0, 0, 1)
    )
    assert first.val.paths == again.val.paths != other.val.paths
    paths = first.train.paths + first.val.paths
    assert sorted(paths) == [f"tiny_photos/train/{index:05d}" for index in range(30)]
    np.testing.assert_array_equal(np.bincount(first.val.labels), [2, 2, 2])
    for split in (first.train, first.val):
        index = [int(path[-5:]) for path in split.paths]
        np.testing.assert_array_equal(split.images, [images[i] for i in index])
        np.testing.assert_array_equal(split.labels, [labels[i] for i in index])


def test_photos_for_super_resolution_keep_their_size(prepare):
    builder = prepare(train=photos(3, height=40, width=70), test=photos(4, height=51))
    found = open_photos("tfds:tiny_photos", crop_size=32, val_count=2)
    assert found.name == "tiny_photos" and found.count == 3
    images, _ = records(builder, "train")
    np.testing.assert_array_equal(found.images, images)
    images, _ = records(builder, "test")
    assert len(found.val) == 2 and not found.skipped
    for whole in found.val:
        index = int(whole.name.removeprefix("tiny_photos/test/"))
        np.testing.assert_array_equal(whole.image, images[index][:50])


def test_image_that_cannot_be_read_is_left_out_and_named(prepare):
    prepare(train=[*photos(5), (photo(9)[:300], 1)], test=photos(3))
    data = open_dataset("tfds:tiny_photos", **NATIVE)
    (skipped,) = data.skipped
    path, reason = skipped.split(": ", 1)
    assert path.startswith("tiny_photos/train/0000") and "truncated" in reason
    assert len(data.train) == len(data.train.images) == len(data.train.labels) == 5
    assert path not in data.train.paths
    np.testing.assert_array_equal(np.bincount(data.train.labels), [2, 2, 1])


def test_labels_cost_no_second_reading(prepare, monkeypatch):
    prepare(train=photos(6), test=photos(3))
    record, seen = tfds._Records.record, []

    def counted(self, index):
        seen.append(index)
        return record(self, index)

    monkeypatch.setattr(tfds._Records, "record", counted)
    open_dataset("tfds:tiny_photos", **NATIVE)
    # And test's first, for whether it has labels.
    assert sorted(seen) == sorted([0, *range(6), *range(3)])


def test_class_that_loses_a_side_to_damage_is_divided_anew(prepare):
    bad = [(photo(20 + i)[:300], 1) for i in range(8)]
    prepare(train=[*photos(6), *bad])
    data = open_dataset("tfds:tiny_photos", **NATIVE)
    assert len(data.skipped) == 8
    for split, counts in ((data.train, [1, 1, 1]), (data.val, [1, 1, 1])):
        assert np.bincount(split.labels, minlength=3).tolist() == counts


def test_damaged_records_are_an_error(prepare):
    builder = prepare(train=photos(40), test=photos(3))
    (path,) = builder.data_path.glob("*train*")
    data = bytearray(path.read_bytes())
    data[70000] ^= 1
    path.write_bytes(data)
    check_error(
        "tfds:tiny_photos",
        "^cannot read image .* of tiny_photos/train in .*/tiny_photos/1.0.0: "
        "Corrupted .*: remove the folder",
    )
    path.unlink()
    check_error("tfds:tiny_photos", "cannot read image .*No such file")


def test_set_that_cannot_be_trained_on_is_an_error(prepare, tiny_photos, monkeypatch):
    from tensorflow_datasets import features

    builder = prepare(test=photos(3))
    check_error("tfds:tiny_photos", "has no train split to train on, only test")
    builder.data_path.rmtree()
    builder = prepare(train=[(photo(0), -1)], test=photos(3))
    check_error("tfds:tiny_photos", "image 0 of tiny_photos/train has the label -1")
    builder.data_path.rmtree()
    builder = prepare(train=[(b"no image", 0)], test=photos(3))
    check_error("tfds:tiny_photos", "no image can be read; tiny_photos/train/00000: ")
    builder.data_path.rmtree()
    monkeypatch.setattr(tiny_photos, "names", ("cat",))
    prepare(train=[(photo(0), 0)])
    check_error("tfds:tiny_photos", "has one class only")
    deep = features.Image(shape=(8, 8, 3), dtype=np.uint16, encoding_format="png")
    monkeypatch.setattr(tiny_photos, "image", deep)
    check_error("tfds:tiny_photos", "images of uint16, and they must be uint8")


def test_set_that_is_not_prepared_says_what_to_do(prepare, monkeypatch):
    builder = prepare(train=photos(3), test=photos(3))
    info = builder.data_path / "dataset_info.json"
    found = json.loads(info.read_text())
    info.write_text(json.dumps({**found, "fileFormat": "tfrecord"}))
    for path in builder.data_path.glob("*array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    check_error("tfds:tiny_photos", "prepared as tfrecord in .*set TFDS_DATA_DIR to")
    info.unlink()
    check_error("tfds:tiny_photos", f"{builder.data_dir} is incomplete: remove it")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    check_error(
        "tfds:cifar10", "is not prepared in .*/cifar10/.* needs tensorflow: pip install"
    )


def test_unknown_set_is_an_error_with_close_names(prepare):
    check_error("tfds:cifar_10", "has no 'cifar_10'; did you mean cifar10, ")
    check_error("tfds:xyzzyxyzzy", "has no 'xyzzyxyzzy'; see its catalogue")
    check_error("tfds:cifar10:1.0.0", "tfds:cifar10:1.0.0': .*at version 1.0.0")
    check_error("tfds:cifar10/blue", "tfds:cifar10/blue': .*blue not found")
    check_error(
        "tfds:imdb_reviews",
        "is no image classification set: it has .*text.*, but no Image called image",
    )


def swap_archives(monkeypatch, name, archives):
    """tfds's checksums of a set, replaced by those of these archives."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo

    infos = tfds.builder(name).url_infos
    for url in infos:
        data = archives[url.rsplit("/", 1)[-1]]
        info = UrlInfo(len(data), hashlib.sha256(data).hexdigest(), infos[url].filename)
        monkeypatch.setitem(infos, url, info)


def test_archive_that_cannot_be_fetched_is_named(prepare, monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    found = types.ModuleType("tensorflow")
    found.__spec__ = importlib.machinery.ModuleSpec("tensorflow", None)
    monkeypatch.setitem(sys.modules, "tensorflow", found)
    monkeypatch.setenv("no_proxy", "*")
    infos = tfds.builder("cifar10").url_infos
    (info,) = infos.values()
    for url in list(infos):
        monkeypatch.delitem(infos, url)
    monkeypatch.setitem(infos, "http://127.0.0.1:9/a/cifar-10-binary.tar.gz", info)
    check_error(
        "tfds:cifar10",
        r"127.0.0.1:9 cannot be reached \(Connection refused\): put "
        r"cifar-10-binary.tar.gz \(http://127.0.0.1:9/a/cifar-10-binary.tar.gz\) into "
        f"{tmp_path}/downloads/manual",
    )


def put_archives(monkeypatch, tmp_path, name, archives):
    pytest.importorskip("tensorflow")
    swap_archives(monkeypatch, name, archives)
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for file, data in archives.items():
        (manual / file).write_bytes(data)
    return manual


def check_the_same(name, data, number_of):
    """What is read without TensorFlow is what tfds reads, example by example."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name)
    assert data.name == name
    assert data.classes == tuple(builder.info.features["label"].names)
    for split, part in (("train", data.train), ("test", data.val)):
        source = builder.as_data_source(split)
        numbers = []
        for index in range(len(source)):
            record = source[index]
            numbers.append(number_of(record, part))
            np.testing.assert_array_equal(part.images[numbers[-1]], record["image"])
            assert part.labels[numbers[-1]] == record["label"]
        assert sorted(numbers) == list(range(len(part)))


@pytest.mark.slow
def test_cifar10_is_prepared_from_its_archive(prepare, monkeypatch, tmp_path, served):
    archives = {"cifar-10-binary.tar.gz": cifar_archive(cifar_batches())}
    manual = put_archives(monkeypatch, tmp_path, "cifar10", archives)
    data = open_dataset("tfds:cifar10", **NATIVE)
    assert len(data.train) == 60 and data.val.paths[-1] == "cifar10/test/00011"
    official = open_dataset("cifar10", **NATIVE)
    check_the_same("cifar10", official, lambda record, part: int(record["id"][-5:]))
    again = open_dataset("tfds:cifar10", **NATIVE)  # prepared now: no archive needed
    np.testing.assert_array_equal(again.train.images, data.train.images)
    (tmp_path / "cifar10").rename(tmp_path / "aside")
    (manual / "cifar-10-binary.tar.gz").write_bytes(b"another file")
    check_error("tfds:cifar10", "cannot be prepared in .*cifar10/.*hecksum")


@pytest.mark.slow
def test_oxford_pets_are_prepared_from_their_archives(
    prepare, monkeypatch, tmp_path, served
):
    put_archives(monkeypatch, tmp_path, "oxford_iiit_pet", pet_archives())
    data = open_dataset("tfds:oxford_iiit_pet", **SIZES)
    assert len(data.classes) == 37 and data.name == "oxford_iiit_pet"
    # The photos are of this size already: what is compared are the pixels.
    sizes = {"train_size": 64, "eval_resize": 64, "eval_crop": 64}
    official = open_dataset("oxford_iiit_pet", **sizes)

    def number_of(record, part):
        names = [path.rsplit("/", 1)[-1] for path in part.paths]
        return names.index(record["file_name"].decode())

    check_the_same("oxford_iiit_pet", official, number_of)
