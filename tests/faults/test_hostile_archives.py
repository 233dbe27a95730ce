"""Archives of the right hash that are hostile or damaged all the same."""

import gzip
import os
import tarfile

import numpy as np
import pytest

from jaxvision.data import archive, open_dataset
from tests.archives import cifar_batches, cifar_files, pet_files, tar
from tests.archives import home as home
from tests.archives import served as served
from tests.photos import SIZES, check_error
from tests.test_data_official import CIFAR, check_pets


def special(kind, target="../../evil"):
    info = tarfile.TarInfo()
    info.type = kind
    info.linkname = target
    return info


def swapped(name, content):
    """The official files, one of them replaced."""
    return [
        (found, content if found == name else data)
        for found, data in cifar_files(cifar_batches())
    ]


BATCH_2 = "cifar-10-batches-bin/data_batch_2.bin"
HOSTILE = {
    "parent": (
        [("../evil", b"x"), *cifar_files(cifar_batches())],
        r"holds '\.\./evil', a path that leads out of it",
    ),
    "parent within": (
        [*cifar_files(cifar_batches())[:2], ("a/../../evil", b"x")],
        "a path that leads out of it",
    ),
    "absolute": (
        [("/tmp/evil", b"x"), *cifar_files(cifar_batches())],
        "holds '/tmp/evil', a path that leads out of it",
    ),
    "symbolic link": (
        swapped(BATCH_2, special(tarfile.SYMTYPE)),
        "as a link",
    ),
    "hard link": (
        swapped(BATCH_2, special(tarfile.LNKTYPE, "cifar-10-batches-bin/x")),
        "as a link",
    ),
    "device": (swapped(BATCH_2, special(tarfile.CHRTYPE)), "as a link"),
    "pipe": (swapped(BATCH_2, special(tarfile.FIFOTYPE)), "as a link"),
    "folder": (swapped(BATCH_2, special(tarfile.DIRTYPE)), "as a link"),
    "large": (swapped(BATCH_2, bytes(36_877)), "with 36,877 bytes, more than 36,876"),
    "short": (swapped(BATCH_2, bytes(36_875)), "has not 36,876 bytes"),
    "twice": (
        [*cifar_files(cifar_batches())[:3], *cifar_files(cifar_batches())[2:]],
        "holds .* twice",
    ),
    "missing": (cifar_files(cifar_batches())[:-2], "lacks .*bin and 1 more"),
    "bomb beside": (
        [("zeros", bytes(1_000_000)), *cifar_files(cifar_batches())],
        "unpacks to more than 258,132 bytes",
    ),
    "other": ([("other", b"x")], "lacks .*bin and 5 more"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archive_of_the_right_hash_is_not_trusted(served, home, case, mode):
    files, words = HOSTILE[case]
    served.publish(CIFAR, tar(files, mode=mode))
    check_error("cifar10", words)
    kept = {CIFAR, f"{CIFAR}.sha256", f".{CIFAR}.lock"}
    assert set(os.listdir(home / "cifar10")) <= kept
    assert not (home / "evil").exists() and not (home.parent / "evil").exists()


def test_links_that_nothing_asks_for_are_not_followed(served, home, tmp_path):
    link = special(tarfile.SYMTYPE, str(tmp_path))
    links = [("images", link), ("images/out", link)]
    served.publish("images.tar.gz", tar(links + pet_files()["images.tar.gz"]))
    check_pets(open_dataset("oxford_iiit_pet", **SIZES), home / "oxford_iiit_pet")
    assert not (home / "oxford_iiit_pet" / "images").is_symlink()
    assert not list(tmp_path.glob("*.jpg"))


def test_bombs_end_early(tmp_path):
    bomb = tmp_path / "bomb.tar.gz"
    bomb.write_bytes(gzip.compress(bytes(50_000_000)))
    endless = tar([(f"{number}", b"") for number in range(2000)], mode="w")
    (tmp_path / "many.tar").write_bytes(endless)
    info = tarfile.TarInfo("a")
    info.size = 1 << 60
    (tmp_path / "huge.tar").write_bytes(info.tobuf() + bytes(1024))
    read = {"largest": 100, "most": 1_000_000}
    for path, words in (
        (bomb, "cannot be read|lacks|unpacks to more than"),
        (tmp_path / "many.tar", "unpacks to more than 1,000,000 bytes"),
        (tmp_path / "huge.tar", "holds a with 1,152,921,504,606,846,976 bytes"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            list(archive.read_members(path, ["a"], **read))
        assert "\n" not in str(caught.value)


def test_damage_anywhere_is_one_line(tmp_path):
    """Bytes changed, cut and repeated at random: an error of one line, or the truth."""
    rng = np.random.default_rng(0)
    names = ["a", "b" * 150, "c/d"]
    content = {name: rng.bytes(700) for name in names}
    path = tmp_path / "damaged"
    outcomes = set()
    for mode in ("w", "w:gz"):
        sound = tar(content.items(), mode=mode)
        for _ in range(400):
            data = bytearray(sound)
            for _ in range(rng.integers(1, 4)):
                data[rng.integers(len(data))] = rng.integers(256)
            if rng.random() < 0.3:
                del data[rng.integers(len(data)) :]
            path.write_bytes(data)
            try:
                found = dict(
                    archive.read_members(path, names, largest=1000, most=100_000)
                )
                assert found.keys() == content.keys()
                outcomes.add("read")
            except ValueError as error:
                assert "\n" not in str(error) and str(path) in str(error)
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}
