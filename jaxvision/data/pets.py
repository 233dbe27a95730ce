"""Oxford-IIIT Pet from its authors' two archives, without TensorFlow."""

import os
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock

from jaxvision import files
from jaxvision.data.archive import Archive, Tell, data_folder, read_members
from jaxvision.data.image_files import file_photo
from jaxvision.data.photo import Photo, Source
from jaxvision.data.storage import StorageError, patiently

NAME = "oxford_iiit_pet"
SITE = "https://thor.robots.ox.ac.uk/pets"
IMAGES = Archive(
    folder=NAME,
    file="images.tar.gz",
    site=SITE,
    size=791_918_971,
    sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
)
"""Its MD5, by which torchvision knows it, is 5c4f3ee8e5d25df40f4fd59a7f44e54c."""
ANNOTATIONS = Archive(
    folder=NAME,
    file="annotations.tar.gz",
    site=SITE,
    size=19_173_078,
    sha256="52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
)
"""Its MD5 is 95a8c909bbe2e81eed6a22bccdf3f68f."""
CLASSES = tuple(
    "Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal "
    "Birman Bombay boxer British_Shorthair chihuahua Egyptian_Mau "
    "english_cocker_spaniel english_setter german_shorthaired great_pyrenees havanese "
    "japanese_chin keeshond leonberger Maine_Coon miniature_pinscher newfoundland "
    "Persian pomeranian pug Ragdoll Russian_Blue saint_bernard samoyed "
    "scottish_terrier shiba_inu Siamese Sphynx staffordshire_bull_terrier "
    "wheaten_terrier yorkshire_terrier".split()
)
"""In the order of the lists' numbers, which begin with 1."""
LISTS = ("annotations/trainval.txt", "annotations/test.txt")

_LINE = re.compile(r"([A-Za-z]+(?:_[A-Za-z]+)*_[0-9]+) ([0-9]{1,2}) [0-9]+ [0-9]+")
_LARGEST_LIST = 1 << 20
_LARGEST_PHOTO = 1 << 25
_MOST = 1 << 31
"""Bytes to which an archive may unpack."""


def is_pets(spec: str) -> bool:
    """Whether `spec` is `oxford_iiit_pet` or a folder with its unpacked files."""
    folder = Path(os.path.expanduser(spec))
    return spec == NAME or (spec != "" and os.path.isfile(folder / LISTS[0]))


def fetch_pets(spec: str, *, tell: Tell | None = None) -> None:
    """Sees to it that the photos and lists are in the cache, for the mere name.

    What archives are missing is fetched; the lists and the listed photos are unpacked
    beside them, once, whole or not at all.

    Raises:
      ValueError: an archive holds something else than it should, or the folder cannot
        be written.
      DownloadError: one cannot be had.
    """
    folder = data_folder(NAME)
    if spec != NAME or _is_unpacked(folder):
        return
    annotations = None
    if not _has_lists(folder):
        annotations = ANNOTATIONS.fetch(tell=tell)
    images = None if (folder / "images").is_dir() else IMAGES.fetch(tell=tell)
    try:
        with FileLock(folder / ".unpacking.lock"):
            if annotations is not None and not _has_lists(folder):
                _unpack_lists(annotations, folder)
            if images is not None and not (folder / "images").is_dir():
                _unpack_photos(images, folder, tell=tell)
    except OSError as error:
        raise ValueError(
            f"cannot unpack into {folder}: {error.strerror or error}; free some space "
            "(2 GB) or set JAXVISION_HOME"
        ) from error


def open_pets(spec: str, *, labelled: bool) -> Source:
    """The photos of `trainval.txt`, to train on, and of `test.txt`, in their order.

    They are the examples of TensorFlow Datasets' `train` and `test`, which knows each
    by its file's name, with the same labels and names of classes. It re-encodes twelve
    photos whose files are odd; here they are decoded as they are.

    Args:
      spec: `oxford_iiit_pet`, for what is or comes into
        `$JAXVISION_HOME/data/oxford_iiit_pet`, or a folder with `images/` and
        `annotations/`.
      labelled: whether classes are asked for.

    Raises:
      ValueError: a list or a photo is missing, or a list is not as it should be.
      DownloadError: an archive cannot be had.
    """
    fetch_pets(spec)
    folder = data_folder(NAME) if spec == NAME else Path(os.path.expanduser(spec))
    lists = [_read_list(folder / name) for name in LISTS]
    _check_present(folder, [name for found in lists for name, _ in found])
    photos = partial(_photos, folder / "images", labelled=labelled)
    train, val = map(photos, lists)
    return Source(
        name=NAME,
        place=str(folder / LISTS[0]),
        train=train,
        val=val,
        classes=CLASSES if labelled else (),
    )


def _has_lists(folder: Path) -> bool:
    return all((folder / name).is_file() for name in LISTS)


def _is_unpacked(folder: Path) -> bool:
    return _has_lists(folder) and (folder / "images").is_dir()


def _unpack_lists(archive: Path, folder: Path) -> None:
    found = dict(read_members(archive, LISTS, largest=_LARGEST_LIST, most=_MOST))
    for name in LISTS:
        parse_list(f"{name} of {archive}", found[name])
        files.write_bytes(folder / name, found[name])


def _unpack_photos(archive: Path, folder: Path, *, tell: Tell | None) -> None:
    """Writes `images`, under names that are the lists', whole or not at all."""
    names = [name for one in LISTS for name, _ in _read_list(folder / one)]
    wanted = {f"images/{name}.jpg": f"{name}.jpg" for name in names}
    temporary = folder / ".images.partial"
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        members = read_members(archive, wanted, largest=_LARGEST_PHOTO, most=_MOST)
        for done, (name, data) in enumerate(members, 1):
            (temporary / wanted[name]).write_bytes(data)
            if tell is not None:
                tell(f"unpacking {archive.name}", done, len(wanted))
        os.sync()  # before the rename, after which they count as whole
        temporary.rename(folder / "images")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_list(path: Path) -> list[tuple[str, int]]:
    try:
        return parse_list(str(path), path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; it comes with {ANNOTATIONS.url}"
        ) from error


def parse_list(name: str, data: bytes) -> list[tuple[str, int]]:
    """The photos that a list names, without `.jpg`, and their labels from 0.

    Raises:
      ValueError: a line is not as it should be.
    """
    lines = data.decode("ascii", "replace").splitlines()
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line.strip())
        label = int(match[2]) - 1 if match else -1
        if match is None or label not in range(len(CLASSES)) or match[1] in found:
            raise ValueError(
                f"{name}, line {number}: {line[:80]!r} is no new photo with its class, "
                f"1 to {len(CLASSES)}: get {ANNOTATIONS.url} again"
            )
        found[match[1]] = label
    if not found:
        raise ValueError(f"{name} is empty: get {ANNOTATIONS.url} again")
    return list(found.items())


def _check_present(folder: Path, names: Sequence[str]) -> None:
    try:
        images = os.fspath(folder / "images")
        present = set(patiently(images, partial(os.listdir, images)))
    except StorageError:
        raise
    except OSError as error:
        raise ValueError(
            f"cannot list {folder / 'images'}: {error.strerror}; the photos come with "
            f"{IMAGES.url}"
        ) from error
    missing = [name for name in names if f"{name}.jpg" not in present]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{folder / 'images'} lacks {missing[0]}.jpg{more}: unpack {IMAGES.file} "
            f"anew ({IMAGES.url})"
        )


def _photos(
    folder: Path, found: Sequence[tuple[str, int]], *, labelled: bool
) -> list[Photo]:
    return [
        file_photo(
            folder / f"{name}.jpg", root=folder, label=label if labelled else None
        )
        for name, label in found
    ]
