"""CIFAR-10's and the pets' archives in the official layout, at a small size."""

import hashlib
import io
import tarfile
import threading

import numpy as np
import pytest

from jaxvision.data import cifar10, pets
from tests.tiny_photos import photo
from tests.weights_server import Server

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
ARCHIVES = {
    "cifar-10-binary.tar.gz": (cifar10, "ARCHIVE"),
    "images.tar.gz": (pets, "IMAGES"),
    "annotations.tar.gz": (pets, "ANNOTATIONS"),
}
"""The module and the name of the row by which each is known."""
COUNT = 12
"""Images of a batch of CIFAR-10."""


def tar(files, mode="w:gz"):
    """An archive of files by name; a TarInfo in place of a file's content is itself."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in files:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def cifar_batch(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8)[:, None] % 10
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return np.concatenate([labels, pixels], axis=1)


def cifar_batches(count=COUNT):
    """Rows of a label and 3072 pixels, by the file that holds them."""
    numbers = {f"data_batch_{number}.bin": number for number in range(1, 6)}
    return {
        file: cifar_batch(count, seed)
        for file, seed in (numbers | {"test_batch.bin": 0}).items()
    }


def cifar_files(batches):
    folder = "cifar-10-batches-bin"
    files = [(f"{folder}/{file}", rows.tobytes()) for file, rows in batches.items()]
    # As in the official archive, the order is not that of the numbers.
    files = files[3:] + files[:3]
    names = "\n".join(CIFAR10_NAMES).encode()
    return [(f"{folder}/batches.meta.txt", names), *files]


def cifar_archive(batches):
    return tar(cifar_files(batches))


PETS = {
    "trainval": "Abyssinian_1 beagle_7 yorkshire_terrier_20 Abyssinian_100".split(),
    "test": "Bengal_3 Maine_Coon_2 beagle_1".split(),
}
PET_NUMBERS = {
    "Abyssinian": 1,
    "beagle": 5,
    "Bengal": 6,
    "Maine_Coon": 21,
    "yorkshire_terrier": 37,
}


def pet_files():
    """What is in the two archives, beside what is there for nothing."""
    images, masks, lists = [("images/readme.mat", b"not a photo")], [], {}
    for split, names in PETS.items():
        lines = []
        for name in names:
            seed = len(images)
            number = PET_NUMBERS[name.rsplit("_", 1)[0]]
            lines.append(f"{name} {number} 1 1\n")
            data = photo(seed, 64, 64, encoding="jpeg")
            images.append((f"images/{name}.jpg", data))
            mask = photo(seed, 64, 64, channels=0)
            masks.append((f"annotations/trimaps/{name}.png", mask))
        lists[f"annotations/{split}.txt"] = "".join(lines).encode()
    return {
        "images.tar.gz": images[::-1],
        "annotations.tar.gz": [*lists.items(), *masks],
    }


def pet_archives():
    return {file: tar(files) for file, files in pet_files().items()}


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty cache, and no server."""
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JAXVISION_DATA_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(cifar10, "BATCH", COUNT * 3073)
    return tmp_path / "home" / "data"


class Publisher:
    """Serves archives, and has their checksums in the place of the official ones."""

    def __init__(self, server, monkeypatch):
        self.server = server
        self._monkeypatch = monkeypatch

    def publish(self, file, data):
        module, name = ARCHIVES[file]
        digest = hashlib.sha256(data).hexdigest()
        row = getattr(module, name)._replace(size=len(data), sha256=digest)
        self._monkeypatch.setattr(module, name, row)
        self.server.bodies[f"{row.folder}/{file}"] = data

    @property
    def fetched(self):
        return [path.rsplit("/", 1)[-1] for _, path in self.server.requests]


@pytest.fixture
def served(home, monkeypatch):
    """All three archives, served from 127.0.0.1; gives the Publisher."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("JAXVISION_DATA_URL", server.url)
        publisher = Publisher(server, monkeypatch)
        batches = cifar_archive(cifar_batches())
        for file, data in (
            {"cifar-10-binary.tar.gz": batches} | pet_archives()
        ).items():
            publisher.publish(file, data)
        yield publisher
        server.shutdown()
        thread.join()
