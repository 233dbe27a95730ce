"""The training photos that are, to the net, most like a photo."""

from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np

from converters.bundle import Bundle
from experiments.inference.classifier import make_features
from experiments.pages.photos import jpeg
from experiments.pages.predictions import read_judged
from experiments.runs.folder import CONFIG, open_run
from jaxvision.data import cifar10, pets
from jaxvision.data.archive import data_folder
from jaxvision.data.photo import Photo, Source, labels_of
from jaxvision.data.sources import find_source
from jaxvision.data.squares import read_crops
from jaxvision.download import DownloadError

BATCH = 8
"""Photos that are looked at together: an answer waits no longer than for so many."""
MOST = 20_000
"""Training photos that are looked through; of more, as many by chance."""
SHOWN = 4
SIDE = 120
"""Most pixels a side of a small picture."""


class Known(NamedTuple):
    """A training photo: its class or labels, its file, and a small picture of it."""

    label: str
    name: str
    image: str


class NearestPhotos:
    """The training photos by the net's features, looked through meanwhile.

    Two photos are alike by the cosine between what comes before the last layer. The
    photos are looked through in an order of chance, so that those that were so far are
    of all classes; nothing of it is written anywhere.
    """

    def __init__(self, run: Path, bundle: Bundle, *, device: Lock):
        """Looks at nothing yet; `device` is held while the net computes."""
        self._run = run
        self._size = bundle.preprocessing
        self._features = make_features(bundle, batch_size=BATCH)
        self._device = device
        self._table = np.zeros((0, 0), np.float32)
        self._known: list[Known] = []
        self._done, self._total = 0, 0
        self._why_none = "The training photos are being listed."
        self._fault = ""

    @property
    def note(self) -> str:
        """What the nearest ones are found among, or why there are none."""
        if not self._total:
            return self._why_none
        if self._done < self._total:
            return (
                f"among the {self._done} of {self._total} training photos that were "
                "looked through so far"
            )
        fault = f", the others not read: {self._fault}" if self._fault else ""
        return f"among {len(self._known)} training photos{fault}"

    def look_through(self, stop: Event) -> None:
        """Computes the features of all, until `stop`; what cannot be read is none."""
        found, self._why_none = training_photos(self._run)
        self._total = len(found)
        for start in range(0, len(found), BATCH):
            if stop.is_set():
                return
            try:
                self._add(found[start : start + BATCH])
            except OSError as error:  # the storage fails, after several tries
                self._total = self._done = len(self._known)
                self._why_none = self._fault = str(error)
                return
            self._done = min(start + BATCH, self._total)

    def _add(self, photos: Sequence[tuple[Photo, str]]) -> None:
        size = self._size
        images, bad = read_crops(
            [photo for photo, _ in photos],
            resize=size.resize,
            crop=size.crop,
            fit=size.fit,
        )
        sound = [one for index, one in enumerate(photos) if index not in bad]
        if not sound:
            return
        found = self._unit(images)
        if not len(self._table):
            self._table = np.zeros((self._total, found.shape[1]), np.float32)
        count = len(self._known)
        self._table[count : count + len(sound)] = found
        # Last: who searches meanwhile counts these.
        self._known += [
            Known(label, photo.name, jpeg(image, longest=SIDE, quality=80))
            for (photo, label), image in zip(sound, images, strict=True)
        ]

    def find(self, images: np.ndarray) -> list[dict[str, Any]]:
        """The nearest to one crop, uint8 `(1, h, w, 3)`, that one first."""
        known = len(self._known)
        if not known:
            return []
        alike = self._table[:known] @ self._unit(images)[0]
        best = np.argsort(-alike, kind="stable")[:SHOWN].tolist()
        return [
            self._known[index]._asdict() | {"similarity": float(alike[index])}
            for index in best
        ]

    def _unit(self, images: np.ndarray) -> np.ndarray:
        with self._device:
            found = self._features(np.asarray(images))
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.maximum(length, 1e-12)


def training_photos(run: Path) -> tuple[list[tuple[Photo, str]], str]:
    """What a run was trained on, with the classes' names; or why it is not at hand.

    At most `MOST` of them, in an order of chance.

    Args:
      run: its folder, or a file in it.
    """
    folder = run if run.is_dir() else run.parent
    for name in (CONFIG, "predictions.csv"):
        if not (folder / name).is_file():
            return [], (
                f"The training photos are not known: there is no {name} beside the "
                "model, as in the folder of a run that has ended."
            )
    try:
        data = str(open_run(folder).config.get("data", ""))
        judged = set(read_judged(folder / "predictions.csv"))
        if not _is_here(data):
            raise ValueError(f"data {data!r} is no longer in the cache")
        source = find_source(data, labelled=True)
        found = list(islice(_drawn(source, judged), MOST))
    except (OSError, ValueError, DownloadError) as error:
        reason = " ".join(str(error).split())
        return [], f"The training photos are not at hand: {reason}"
    return found, ""


def _drawn(source: Source, judged: Container[str]) -> Iterator[tuple[Photo, str]]:
    """Training photos by chance; of a large source no other becomes an object.

    What has a line in predictions.csv was judged, all the rest trained on.
    """
    first = len(source.train)
    for place in np.random.default_rng(0).permutation(first + len(source.val)).tolist():
        photo = source.train[place] if place < first else source.val[place - first]
        if photo.name not in judged:
            names = [source.classes[label] for label in labels_of(photo)]
            yield photo, ", ".join(names) or "no label"


def _is_here(spec: str) -> bool:
    """Whether the data can be opened without a download."""
    return spec not in (cifar10.NAME, pets.NAME) or data_folder(spec).is_dir()
