"""A file server that fails: tried again, then the end, and never another photo."""

import errno
import io
import os
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxvision import parallel, stream
from jaxvision.data import list_dataset, storage
from jaxvision.data.decode import UnreadableImageError, is_gray_file, open_image
from jaxvision.data.file_photos import FilePhotos, Names
from jaxvision.data.image_files import find_images
from jaxvision.data.packed import TABLE, pack
from jaxvision.data.sources import find_source
from jaxvision.data.storage import StorageError, patiently
from tests.photos import SIZES, make_folder, save


@pytest.fixture
def root(tmp_path):
    counts = {"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2}
    return Path(make_folder(tmp_path / "set", counts))


class Server:
    """Opens files, of which one fails some times; nobody waits."""

    def __init__(self, monkeypatch):
        self.pauses: list[float] = []
        self.failing, self.code, self.left = "", 0, 0
        self._open = os.open
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(storage.time, "sleep", self.pauses.append)

    def fail(self, name, code, *, times=10**6):
        self.failing, self.code, self.left = str(name), code, times

    def open(self, path, *args, **kwargs):
        if self.left and os.fspath(path) == self.failing:
            self.left -= 1
            raise OSError(self.code, os.strerror(self.code), path)
        return self._open(path, *args, **kwargs)


@pytest.fixture
def server(monkeypatch):
    return Server(monkeypatch)


FAULTS = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE]


@pytest.mark.parametrize("code", FAULTS)
def test_server_that_fails_is_no_unreadable_photo(code, root, server):
    path = next((root / "train" / "a").iterdir())
    server.fail(path, code)
    with pytest.raises(StorageError) as error:
        open_image(path)
    line = f"{path}: {os.strerror(code)}, 3 times in 6 s: not the photo, but the disk"
    assert str(error.value).startswith(line) and "\n" not in str(error.value)
    assert server.pauses == [1.0, 5.0]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.ENAMETOOLONG])
def test_file_that_is_at_fault_is_unreadable_at_once(code, root, server):
    path = next((root / "train" / "a").iterdir())
    server.fail(path, code)
    with pytest.raises(UnreadableImageError, match=os.strerror(code)):
        open_image(path)
    assert server.pauses == []


def test_read_that_breaks_off_in_mid_file_is_tried_again(root, server, monkeypatch):
    path = next((root / "train" / "a").iterdir())
    whole, left = np.asarray(open_image(path)), [2]
    real = io.BufferedReader

    class Breaking(real):
        def read(self, *size):
            begun = super().read(*size)
            if self.tell() > 100 and left[0]:
                left[0] -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return begun

    def broken(path, mode, *, opener):
        return Breaking(io.FileIO(str(path), "rb", opener=opener))

    monkeypatch.setattr("builtins.open", broken)
    again = np.asarray(open_image(path))
    monkeypatch.undo()
    np.testing.assert_array_equal(again, whole)
    assert left == [0] and server.pauses == [1.0, 5.0]


HEADERS = 1000
"""Bytes, of which the failing server still gives as many at a time."""
NO_DATA = Path("/proc/self/mem")
"""A regular file of which the system says, at its begin, that it cannot be read."""


@pytest.mark.skipif(not NO_DATA.exists(), reason="there is no /proc here")
@pytest.mark.parametrize("kind", ["lzw.tif", "plain.tif", "image.jp2"])
def test_what_reads_by_itself_tells_the_fault_too(kind, tmp_path, server, monkeypatch):
    options = {"compression": "tiff_lzw"} if kind == "lzw.tif" else {}
    path = save(tmp_path / kind, **options)

    class Failing(io.BufferedReader):
        """Has the file's headers, and the system's fault instead of the pixels."""

        def read(self, *size):
            begun = super().read(*size)
            if len(begun) > HEADERS:
                os.pread(self.fileno(), 1, 0)
            return begun

        def fileno(self):
            return failing.fileno()

    def opened(path, mode, *, opener):
        return Failing(io.FileIO(str(path), "rb", opener=opener))

    with open(NO_DATA, "rb") as failing:
        monkeypatch.setattr("builtins.open", opened)
        with pytest.raises(StorageError, match="Input/output error, 3 times"):
            open_image(path)
        monkeypatch.undo()


def test_file_larger_than_any_photo_is_not_read(tmp_path):
    path = tmp_path / "film.jpg"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(UnreadableImageError, match="1099511627776 bytes, more than"):
        open_image(path)


def test_grey_file_is_asked_again(root, server):
    path = next((root / "train" / "a").iterdir())
    server.fail(path, errno.ESTALE, times=2)
    assert not is_gray_file(path)
    server.fail(path, errno.ESTALE)
    with pytest.raises(StorageError, match="3 times"):
        is_gray_file(path)


def batch(dataset):
    data = {"image": dataset.train.images, "label": dataset.train.labels}
    one = stream.Stream(data, batch_size=8, mesh=parallel.make_mesh())
    (found,) = one.take(jax.numpy.arange(8), 0, 1)
    one.close()
    return np.asarray(found["image"][0])


def test_streamed_photo_keeps_its_place_while_the_server_fails(root, server):
    streamed = list_dataset(str(root), **SIZES).stream()
    images = batch(streamed)
    path = streamed.train.images.photos[3].name
    server.fail(path, errno.ETIMEDOUT, times=2)
    np.testing.assert_array_equal(batch(streamed), images)
    server.fail(path, errno.ETIMEDOUT)
    with pytest.raises(stream.StreamError, match=r"timed out, 3 times in 6 s"):
        batch(streamed)
    assert streamed.train.images.bad == {}


def test_resident_photos_end_there_too(root, server):
    path = next((root / "train" / "a").iterdir())
    listing = list_dataset(str(root), **SIZES)
    server.fail(path, errno.ESTALE)
    with pytest.raises(StorageError, match="3 times"):
        listing.read()


@pytest.mark.skipif(
    find_spec("array_record") is None,
    reason="array_record is not installed: pip install '.[stream]'",
)
def test_packing_ends_there_too(root, server, tmp_path):
    from experiments.pack import Config, main

    packed = tmp_path / "packed"
    photo = next((root / "train" / "a").iterdir())
    server.fail(photo, errno.ESTALE)
    with pytest.raises(StorageError, match=f"^{photo}: .* 3 times"):
        main(Config(str(root), packed))
    assert not packed.exists()
    server.fail("", 0)
    pack(find_source(str(root), labelled=True), packed)
    server.fail(packed / TABLE, errno.ESTALE)
    with pytest.raises(StorageError, match=f"{TABLE}: .* 3 times"):
        find_source(str(packed), labelled=True)


def test_files_that_cannot_be_asked_are_not_called_gone(root, monkeypatch):
    names = Names.of([b"train/a/0.png", b"train/a/missing.png"])
    monkeypatch.setattr(storage, "PAUSES", (0.0,))

    def fails(path, *args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    photos = FilePhotos(root, names, labels=None)
    with monkeypatch.context() as failing:
        failing.setattr(os, "stat", fails)
        for _ in range(2):
            with pytest.raises(StorageError, match="2 times"):
                photos.facts()
    size = (root / "train/a/0.png").stat().st_size
    assert photos.facts()[:, 0].tolist() == [size, -1]


class Links:
    """Lists folders in which some names are links, which one server does not follow."""

    def __init__(self, monkeypatch):
        self.named, self.code, self.left = "", 0, 0
        self._scandir = os.scandir
        monkeypatch.setattr(os, "scandir", self.scandir)

    def fail(self, name, code, *, times=10**6):
        self.named, self.code, self.left = name, code, times

    @contextmanager
    def scandir(self, folder):
        with self._scandir(folder) as entries:
            yield map(self.entry, entries)

    def entry(self, entry):
        return SimpleNamespace(name=entry.name, is_dir=partial(self.is_dir, entry))

    def is_dir(self, entry):
        if entry.name == self.named and self.left:
            self.left -= 1
            raise OSError(self.code, os.strerror(self.code), entry.path)
        return entry.is_dir()


def test_class_behind_a_link_does_not_vanish_with_the_server(root, server, monkeypatch):
    classes = find_source(str(root / "train"), labelled=True).classes
    (root / "train" / "c").symlink_to(root / "val" / "a")
    whole = (*classes, "c")
    links = Links(monkeypatch)
    links.fail("c", errno.ESTALE, times=2)
    assert find_source(str(root / "train"), labelled=True).classes == whole
    assert server.pauses == [1.0, 5.0]
    links.fail("c", errno.ESTALE)
    with pytest.raises(StorageError, match="train: Stale file handle, 3 times"):
        find_source(str(root / "train"), labelled=True)
    links.fail("c", errno.ELOOP)  # of the link itself: no folder, at once
    assert find_source(str(root / "train"), labelled=True).classes == classes
    assert server.pauses == [1.0, 5.0] * 2


def test_folder_that_cannot_be_listed_is_tried_again(root, server, monkeypatch):
    left = [errno.ETIMEDOUT] * 2
    real = os.scandir

    def scandir(folder):
        if os.fspath(folder) == str(root / "train" / "a") and left:
            code = left.pop()
            raise OSError(code, os.strerror(code), folder)
        return real(folder)

    whole = list(find_images(root).images)
    monkeypatch.setattr(os, "scandir", scandir)
    assert find_images(root).images == whole
    assert server.pauses == [1.0, 5.0]
    left += [errno.ETIMEDOUT] * 3
    with pytest.raises(StorageError, match="a: Connection timed out, 3 times"):
        find_images(root)
    left += [errno.EACCES]
    with pytest.raises(ValueError, match="cannot list the folder .*: Permission"):
        find_images(root)
    assert server.pauses == [1.0, 5.0] * 2


def test_what_a_library_says_of_the_storage_is_seen(monkeypatch):
    monkeypatch.setattr(storage, "PAUSES", (0.0,))
    said = "INTERNAL: pread() failed: Input/output error; reading shard at byte 12"

    def fails(error):
        raise error

    with pytest.raises(StorageError, match="^shard: Input/output error, 2 times"):
        patiently("shard", lambda: fails(RuntimeError(said)))
    with pytest.raises(RuntimeError, match="DATA_LOSS"):
        patiently("shard", lambda: fails(RuntimeError("DATA_LOSS: a hash differs")))
