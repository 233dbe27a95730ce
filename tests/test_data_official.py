"""CIFAR-10 and Oxford-IIIT Pet from archives in the official layout, on 127.0.0.1."""

import io
import os
import pathlib
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from jaxvision import preprocess
from jaxvision.data import cifar10, open_dataset, pets, sources
from jaxvision.data.pieces import open_photos
from jaxvision.download import DownloadError
from tests.archives import (
    CIFAR10_NAMES,
    PET_NUMBERS,
    PETS,
    cifar_batches,
    cifar_files,
    pet_files,
    tar,
)
from tests.archives import home as home
from tests.archives import served as served
from tests.photos import SIZES, check_error

NATIVE = {"train_size": 32, "eval_resize": 32, "eval_crop": 32}
CIFAR = "cifar-10-binary.tar.gz"


def check_cifar10(data, batches=None):
    """The rows, one by one, in the order of the files' numbers."""
    batches = batches or cifar_batches()
    rows = list(batches.values())
    assert (data.name, data.classes) == ("cifar10", tuple(CIFAR10_NAMES))
    for split, expected in (
        (data.train, np.concatenate(rows[:5])),
        (data.val, rows[5]),
    ):
        np.testing.assert_array_equal(split.labels, expected[:, 0])
        pixels = expected[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(split.images, pixels)
    assert data.train.paths[17] == "cifar10/train/00017"
    assert data.val.paths[5] == "cifar10/test/00005" and not data.skipped


def failure(spec):
    """The one line in which it cannot be had, which says what to put where."""
    with pytest.raises(DownloadError) as caught:
        open_dataset(spec, **SIZES)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cifar10_is_fetched_once_and_read_in_the_archives_order(served, home):
    check_cifar10(open_dataset("cifar10", **NATIVE))
    assert served.fetched == [CIFAR] and (home / "cifar10" / CIFAR).is_file()
    served.server.bodies.clear()
    check_cifar10(open_dataset("cifar10", **NATIVE))
    assert served.fetched == [CIFAR]
    record = (home / "cifar10" / f"{CIFAR}.sha256").read_text().strip()
    assert record == cifar10.ARCHIVE.sha256


def test_cifar10_is_found_where_it_is(served, home, tmp_path):
    official = tmp_path / "official"
    for name, data in cifar_files(cifar_batches()):
        (official / name).parent.mkdir(parents=True, exist_ok=True)
        (official / name).write_bytes(data)
    copy = official / CIFAR
    copy.write_bytes(served.server.bodies[f"cifar10/{CIFAR}"])
    for spec in (copy, official, official / "cifar-10-batches-bin"):
        check_cifar10(open_dataset(str(spec), **NATIVE))
    (official / "cifar-10-batches-bin").rename(tmp_path / "batches")
    assert sources.find_kind(str(official)).open is not cifar10.open_cifar10
    (home / "cifar10").mkdir(parents=True)
    (tmp_path / "batches").rename(home / "cifar10" / "cifar-10-batches-bin")
    check_cifar10(open_dataset("cifar10", **NATIVE))
    assert served.fetched == []


def test_archives_may_be_uncompressed(served):
    served.publish(CIFAR, tar(cifar_files(cifar_batches()), mode="w"))
    check_cifar10(open_dataset("cifar10", **NATIVE))


def test_folder_of_batches_says_what_is_wrong_with_it(home, tmp_path):
    for name, data in cifar_files(cifar_batches()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    batch = tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin"
    data = batch.read_bytes()
    batch.write_bytes(data[:-1])
    check_error(str(tmp_path), f"^{batch} has not 36,876 bytes: get http")
    batch.write_bytes(data + b"1")
    check_error(str(tmp_path), f"^{batch} has more than 36,876 bytes: get http")
    batch.write_bytes(b"\x0a" + data[1:])
    check_error(str(tmp_path), f"^{batch} has the label 10, and the classes are 0 to 9")
    batch.unlink()
    check_error(str(tmp_path), "batches-bin lacks data_batch_4.bin: get http.* unpack")
    os.mkfifo(batch)  # which would be waited for
    check_error(str(tmp_path), "batches-bin lacks data_batch_4.bin: get http.* unpack")


def test_pickles_are_never_opened(home, tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for spec in (folder, tmp_path):
        check_error(
            str(spec), f"^{folder} has CIFAR-10's version for Python, whose pickles"
        )


def square(image):
    return preprocess.square_image(image, size=40)


def crop(image):
    return preprocess.eval_image(image, resize=48, crop=36)


def check_pets(data, home):
    assert (data.name, data.classes) == ("oxford_iiit_pet", pets.CLASSES)
    files = dict(pet_files()["images.tar.gz"])
    for split, names, expected in (
        (data.train, PETS["trainval"], lambda i: preprocess.square_image(i, size=40)),
        (
            data.val,
            PETS["test"],
            lambda i: preprocess.eval_image(i, resize=48, crop=36),
        ),
    ):
        assert split.paths == tuple(f"{home}/images/{name}.jpg" for name in names)
        kinds = [PET_NUMBERS[name.rsplit("_", 1)[0]] - 1 for name in names]
        assert split.labels.tolist() == kinds
        assert [name.rsplit("_", 1)[0] for name in names] == [
            pets.CLASSES[label] for label in kinds
        ]
        for name, image in zip(names, split.images, strict=True):
            photo = Image.open(io.BytesIO(files[f"images/{name}.jpg"]))
            np.testing.assert_array_equal(image, expected(photo))


def test_pets_are_fetched_and_unpacked_once(served, home):
    folder = home / "oxford_iiit_pet"
    (folder / ".images.partial").mkdir(parents=True)  # of a process that was killed
    (folder / ".images.partial" / "Bengal_9.jpg").touch()
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), folder)
    assert served.fetched == ["annotations.tar.gz", "images.tar.gz"]
    names = {f"{name}.jpg" for names in PETS.values() for name in names}
    assert set(os.listdir(folder / "images")) == names
    for file in served.fetched:  # what is unpacked needs no archive
        (folder / file).unlink()
    served.server.bodies.clear()
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), folder)
    elsewhere = folder.rename(home / "elsewhere")  # and is a folder as the authors'
    check_pets(open_dataset(str(elsewhere), **SIZES), elsewhere)
    assert len(served.fetched) == 2


def test_a_mirror_may_be_a_folder(served, home, tmp_path, monkeypatch):
    path = tmp_path / "mirror" / "cifar10" / CIFAR
    path.parent.mkdir(parents=True)
    path.write_bytes(served.server.bodies[f"cifar10/{CIFAR}"])
    monkeypatch.setenv("JAXVISION_DATA_URL", str(tmp_path / "mirror"))
    check_cifar10(open_dataset("cifar10", **NATIVE))
    assert served.fetched == [] and (home / "cifar10" / CIFAR).is_file()


def test_a_broken_download_goes_on(served, home):
    served.server.resumes, served.server.faults = True, ["short"]
    check_cifar10(open_dataset("cifar10", **NATIVE))
    assert served.fetched == [CIFAR] * 2 and served.server.ranges[0] > 0


def test_archives_put_there_by_hand_are_taken(served, home):
    for name, data in served.server.bodies.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    check_cifar10(open_dataset("cifar10", **NATIVE))
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), home / "oxford_iiit_pet")
    assert served.fetched == []


def test_pets_for_super_resolution_are_judged_on_the_test_list(served):
    found = open_photos("oxford_iiit_pet", crop_size=32, val_count=2)
    assert (found.name, found.count, len(found.val)) == ("oxford_iiit_pet", 4, 2)
    names = {whole.name.rsplit("/", 1)[-1][:-4] for whole in found.val}
    assert names < set(PETS["test"])
    files = dict(pet_files()["images.tar.gz"])
    for name, image in zip(PETS["trainval"], found.images, strict=True):
        photo = Image.open(io.BytesIO(files[f"images/{name}.jpg"]))
        np.testing.assert_array_equal(image, photo)


def test_threads_unpack_once(served, home):
    errors = []

    def fetch():
        try:
            sources.fetch_source("oxford_iiit_pet")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(served.fetched) == 2
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), home / "oxford_iiit_pet")


def test_fetching_can_be_watched(served):
    told = []
    sources.fetch_source("oxford_iiit_pet", tell=lambda *what: told.append(what))
    rows = pets.ANNOTATIONS, pets.IMAGES
    last = [(f"fetching {row.file}", row.size, row.size) for row in rows]
    assert [what for what in told if what in last] == last
    assert told[-1] == ("unpacking images.tar.gz", 7, 7)
    told.clear()
    for spec in ("oxford_iiit_pet", "demo", "nothing of the kind"):
        sources.fetch_source(spec, tell=lambda *what: told.append(what))
    assert not told


@pytest.mark.parametrize("row", [cifar10.ARCHIVE, pets.ANNOTATIONS])
def test_without_a_network_one_line_says_what_to_put_where(home, monkeypatch, row):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    message = failure(row.folder)
    assert message.startswith(f"{row.file} could not be fetched: 127.0.0.1:9: ")
    assert message.endswith(
        f"get http://127.0.0.1:9/{row.folder}/{row.file} (its SHA-256 is {row.sha256}) "
        f"and put it into {home / row.folder}"
    )
    monkeypatch.delenv("JAXVISION_DATA_URL")
    assert row.url == f"{row.site}/{row.file}" and row.site.startswith("https://")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1] + b"?", "wrong hash, what came is another file"),
        (lambda data: data[:-9], "(wrong hash|bytes)"),
        (lambda data: None, "answered 404 Not Found"),
        (lambda data: b"<!DOCTYPE html><p>Sign in", "is a web page and no archive"),
        (lambda data: b"PK\3\4" * 99, "is no tar archive"),
    ],
)
def test_what_comes_is_checked(served, home, damage, words):
    name = f"cifar10/{CIFAR}"
    served.server.bodies[name] = damage(served.server.bodies[name])
    assert re.search(words, failure("cifar10"))
    assert not (home / name).exists()


def test_what_is_there_is_checked(served, home, tmp_path):
    damaged = served.server.bodies[f"cifar10/{CIFAR}"][:-1]
    (tmp_path / CIFAR).write_bytes(damaged)
    check_error(
        str(tmp_path / CIFAR),
        rf"^{tmp_path / CIFAR} is damaged or another file \({len(damaged):,} bytes; "
        rf"{CIFAR} has {len(damaged) + 1:,} and the SHA-256 {cifar10.ARCHIVE.sha256}\)",
    )
    (home / "cifar10").mkdir(parents=True)
    (home / "cifar10" / CIFAR).write_bytes(damaged)
    with pytest.warns(UserWarning, match="is damaged; it is kept as"):
        check_cifar10(open_dataset("cifar10", **NATIVE))


PET_FAULTS = {
    "number": ("Abyssinian_1 38 1 1", "line 1: 'Abyssinian_1 38 1 1' is no new photo"),
    "zero": ("Abyssinian_1 0 1 1", "is no new photo with its class, 1 to 37"),
    "path": ("../Abyssinian_1 1 1 1", "is no new photo with its class"),
    "absolute": ("/etc/passwd_1 1 1 1", "is no new photo with its class"),
    "again": ("beagle_7 5 1 1\nbeagle_7 5 1 1", "line 2: 'beagle_7 5 1 1' is no new"),
    "words": ("not a list", "is no new photo with its class"),
    "bytes": ("Abyssinian_\xff1 1 1 1", "is no new photo with its class"),
    "nothing": ("", "annotations/trainval.txt.* is empty"),
}


@pytest.mark.parametrize("case", PET_FAULTS)
def test_list_that_is_none_is_an_error(served, home, case):
    text, words = PET_FAULTS[case]
    files = dict(pet_files()["annotations.tar.gz"])
    files["annotations/trainval.txt"] = text.encode("latin-1")
    served.publish("annotations.tar.gz", tar(files.items()))
    check_error("oxford_iiit_pet", words)
    assert not (home / "oxford_iiit_pet" / "images").exists()
    assert not (home / "oxford_iiit_pet" / "annotations" / "trainval.txt").exists()


def test_photos_that_are_missing_are_named(served, home):
    images = pet_files()["images.tar.gz"]
    kept = [one for one in images if "beagle" not in one[0]]
    folder = home / "oxford_iiit_pet"
    served.publish("images.tar.gz", tar(kept))
    check_error("oxford_iiit_pet", "images.tar.gz lacks images/beagle_1.jpg and 1 more")
    assert (
        not (folder / "images").exists() and not (folder / ".images.partial").exists()
    )
    served.publish("images.tar.gz", tar(images))
    (folder / "images.tar.gz").unlink()
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), folder)
    (folder / "images" / "Bengal_3.jpg").unlink()
    check_error(
        "oxford_iiit_pet", f"^{folder / 'images'} lacks Bengal_3.jpg: unpack images.tar"
    )
    shutil.rmtree(folder / "images")
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), folder)
    elsewhere = folder.rename(home / "elsewhere")
    shutil.rmtree(elsewhere / "images")
    check_error(str(elsewhere), f"cannot list {elsewhere / 'images'}: No such file")
    (elsewhere / "annotations" / "test.txt").unlink()
    check_error(str(elsewhere), "cannot read .*/annotations/test.txt: No such file")


def test_photo_that_is_damaged_is_left_out_and_named(served):
    files = dict(pet_files()["images.tar.gz"])
    files["images/beagle_7.jpg"] = files["images/beagle_7.jpg"][:300]
    served.publish("images.tar.gz", tar(files.items()))
    data = open_dataset("oxford_iiit_pet", **SIZES)
    (skipped,) = data.skipped
    assert "images/beagle_7.jpg: " in skipped and len(data.train) == 3


def test_full_disk_leaves_no_half_of_the_photos(served, home, monkeypatch):
    write = pathlib.Path.write_bytes

    def full(self, data):
        if self.name == "beagle_1.jpg":
            raise OSError(28, "No space left on device")
        return write(self, data)

    folder = home / "oxford_iiit_pet"
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        check_error("oxford_iiit_pet", f"^cannot unpack into {folder}: No space left")
    assert {"annotations", "images.tar.gz"} <= set(os.listdir(folder))
    assert (
        not (folder / "images").exists() and not (folder / ".images.partial").exists()
    )
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), folder)
    assert len(served.fetched) == 2


@pytest.mark.slow
@pytest.mark.data
def test_real_images_in_the_official_layout(home, tmp_path, data_folder, monkeypatch):
    monkeypatch.undo()  # batches of 10,000 images
    sheets = data_folder / "cifar10"
    labels = np.load(sheets / "labels.npz")
    expected = {}
    for split in ("train", "test"):
        parts = []
        for sheet in sorted(sheets.glob(f"{split}_*.webp")):
            grid = np.asarray(Image.open(sheet).convert("RGB"))
            rows = grid.reshape(100, 32, 100, 32, 3).swapaxes(1, 2)
            parts.append(rows.reshape(-1, 32, 32, 3))
        expected[split] = np.concatenate(parts)
        planes = expected[split].transpose(0, 3, 1, 2).reshape(-1, 3072)
        rows = np.concatenate([labels[split].astype(np.uint8)[:, None], planes], axis=1)
        for number, part in enumerate(np.split(rows, len(rows) // 10_000), 1):
            name = f"data_batch_{number}.bin" if split == "train" else "test_batch.bin"
            part.tofile(tmp_path / name)
    data = open_dataset(str(tmp_path), **NATIVE)
    for split, part in (("train", data.train), ("test", data.val)):
        np.testing.assert_array_equal(part.images, expected[split])
        np.testing.assert_array_equal(part.labels, labels[split])
    assert (len(data.train), len(data.val)) == (50_000, 10_000)
    assert data.classes[data.train.labels[0]] == "frog"  # the well-known first image


@pytest.mark.slow
@pytest.mark.data
def test_real_pets_in_the_official_layout(served, home, data_folder):
    lists, images = {}, []
    order = {name: label for label, name in enumerate(pets.CLASSES, 1)}
    for folder, split in (("train", "trainval"), ("test", "test")):
        paths = sorted((data_folder / "pets" / folder).glob("*.jpg"))
        names = [(path.stem, order[path.stem.rsplit("_", 1)[0]]) for path in paths]
        lines = [f"{name} {label} 1 1\n" for name, label in names]
        lists[f"annotations/{split}.txt"] = "".join(lines).encode()
        images += [(f"images/{path.name}", path.read_bytes()) for path in paths]
    served.publish("annotations.tar.gz", tar(lists.items()))
    served.publish("images.tar.gz", tar(images))
    data = open_dataset("oxford_iiit_pet", **SIZES)
    assert len(data.train) + len(data.val) == len(images) and not data.skipped
    assert set(data.train.labels) == set(range(37))
    for path, label in zip(data.val.paths, data.val.labels, strict=True):
        assert path.rsplit("/", 1)[-1].rsplit("_", 1)[0] == pets.CLASSES[label]
