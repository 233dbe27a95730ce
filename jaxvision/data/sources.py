"""Every kind of data that `--data` may name: one row, for both tasks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from jaxvision.data.archive import Tell
from jaxvision.data.cifar10 import fetch_cifar10, is_cifar10, open_cifar10
from jaxvision.data.demo import open_demo
from jaxvision.data.folder import open_folder
from jaxvision.data.npz import open_npz
from jaxvision.data.packed import is_packed, open_packed
from jaxvision.data.pets import fetch_pets, is_pets, open_pets
from jaxvision.data.photo import Source
from jaxvision.data.photo_list import is_list, open_list
from jaxvision.data.tfds import open_tfds


class OpenSource(Protocol):
    """Lists the photographs that `spec` names.

    `labelled` asks for classes, as classification does; without it any photographs
    will do. Raises ValueError where there are none such.
    """

    def __call__(self, spec: str, *, labelled: bool) -> Source: ...


class FetchSource(Protocol):
    """Downloads what `spec` needs and is not here; as a rule nothing.

    `tell` is called meanwhile. Raises DownloadError where it cannot be had.
    """

    def __call__(self, spec: str, *, tell: Tell | None = None) -> None: ...


def _fetch_nothing(spec: str, *, tell: Tell | None = None) -> None:
    pass


class Kind(NamedTuple):
    """A kind of source.

    Attributes:
      matches: whether a spec is of this kind; the first row that matches counts.
      open: lists the photographs.
      words: what to give, for help and errors.
      unlabelled: the same where photographs need no classes; None where it is no other.
      fetch: what `open` does first, so that it can be watched.
    """

    matches: Callable[[str], bool]
    open: OpenSource
    words: str
    unlabelled: str | None = None
    fetch: FetchSource = _fetch_nothing


KINDS = (
    Kind(lambda spec: spec == "demo", open_demo, "'demo'"),
    Kind(
        is_cifar10,
        open_cifar10,
        "'cifar10' (fetched once; or a folder with its .bin files)",
        fetch=fetch_cifar10,
    ),
    Kind(
        is_pets,
        open_pets,
        "'oxford_iiit_pet' (fetched once; or a folder with its images and annotations)",
        fetch=fetch_pets,
    ),
    Kind(
        is_packed,
        open_packed,
        "a folder that experiments.pack wrote",
    ),
    Kind(
        lambda spec: spec != "" and os.path.isdir(os.path.expanduser(spec)),
        open_folder,
        "a folder (train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg)",
        "a folder of images",
    ),
    Kind(
        lambda spec: spec.startswith("tfds:"),
        open_tfds,
        "tfds:NAME (a set of TensorFlow Datasets)",
    ),
    Kind(
        is_list,
        open_list,
        "a .csv or .jsonl list of paths and labels",
        "a .csv or .jsonl list of paths",
    ),
    Kind(
        lambda spec: Path(spec).suffix.lower() == ".npz",
        open_npz,
        "a .npz file with x_train, y_train, x_test, y_test",
        "a .npz file with x_train, x_test",
    ),
)


def find_source(spec: str, *, labelled: bool) -> Source:
    """The photographs that `spec` names, listed and not decoded.

    Raises:
      ValueError: it names nothing, or what it names cannot be used: the message says
        what is wrong, where, and what to do.
    """
    kind = find_kind(spec)
    if kind is None:
        is_file = os.path.isfile(os.path.expanduser(spec))
        what = " is a file" if is_file else ": no such folder"
        raise ValueError(
            f"data {spec!r}{what}; it may be {describe_kinds(labelled=labelled)}"
        )
    return kind.open(spec, labelled=labelled)


def fetch_source(spec: str, *, tell: Tell | None = None) -> None:
    """Downloads what `spec` needs and is not here, as `find_source` would.

    Args:
      spec: as for `find_source`; for most kinds there is nothing to do.
      tell: called with what goes on, how much of it is done, and of how much.

    Raises:
      DownloadError: something cannot be had; one line says what to put where.
      ValueError: what came, or was there, is not what it should be.
    """
    kind = find_kind(spec)
    if kind is not None:
        kind.fetch(spec, tell=tell)


def find_kind(spec: str) -> Kind | None:
    """The row of `KINDS` that `spec` is of, if any."""
    return next((kind for kind in KINDS if kind.matches(spec)), None)


def describe_kinds(*, labelled: bool) -> str:
    """All that a spec may be, in words."""
    *words, last = [
        kind.words if labelled or kind.unlabelled is None else kind.unlabelled
        for kind in KINDS
    ]
    return f"{', '.join(words)}, or {last}"
