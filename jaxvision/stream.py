"""Photographs that come from the host batch by batch, by Grain, two batches ahead.

In the same order as those on the device, through the same compiled step, to the same
bits. The order is a function of the run's key and the epoch: where a stream stands is
two numbers, the epoch and the step.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.data.decode import UnreadableImageError
from jaxvision.data.lazy import LazyImages
from jaxvision.data.reader import Progress, workers
from jaxvision.parallel import AXIS
from jaxvision.typing import AnyArray, Array, Batch, Tree

INSTALL = "pip install 'jaxvision[stream]' (in a checkout: -e '.[stream]')"
AHEAD = 2
"""Batches that are on the device before they are used."""
MOST_BAD = 100
"""Photographs one after the other that cannot be read: then it is not for them."""
Images = AnyArray | LazyImages


class StreamError(ValueError):
    """Photographs can no longer be had; the message is one line."""


def is_possible() -> bool:
    """Whether Grain is installed."""
    return importlib.util.find_spec("grain") is not None


class Stream:
    """A training set whose batches are decoded while the device works.

    In place of a photograph that cannot be read comes the next one in the set that can,
    with its own label: what comes is a function of the photographs alone, the same on
    any number of processes.

    Attributes:
      waited: seconds in which the next batch was not there yet.
    """

    def __init__(self, data: Mapping[str, Any], *, batch_size: int, mesh: Mesh):
        """Nothing is decoded yet.

        Args:
          data: arrays of one length, or `LazyImages`; `image` among them.
          batch_size: over all devices.
          mesh: the devices; each process decodes what its own take.
        """
        self.waited = 0.0
        self._data = dict(data)
        # What `train.make_epoch` tells of images on the device.
        self._data["index"] = np.arange(len(data["image"]), dtype=np.int32)
        self._set_epoch(0)
        self._batch_size = batch_size
        self._sharding = NamedSharding(mesh, P(None, AXIS))
        self._order: Any = None
        self._next = -1
        self._batches: Any = None

    def __len__(self) -> int:
        return len(self._data["image"])

    def abstract(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of what `take` gives."""
        return {
            name: jax.ShapeDtypeStruct(
                (1, self._batch_size, *array.shape[1:]),
                jax.dtypes.canonicalize_dtype(array.dtype),
                sharding=self._sharding,
            )
            for name, array in self._data.items()
        }

    def zeros(self) -> Batch:
        """A batch of nothing, to compile by."""
        shapes = self.abstract()
        zeros = {n: np.zeros(one.shape[1:], one.dtype) for n, one in shapes.items()}
        rows = _own_rows(self._sharding, self._batch_size)
        own = {name: array[rows] for name, array in zeros.items()}
        return _put(own, sharding=self._sharding)

    def _set_epoch(self, epoch: int) -> None:
        self._data["epoch"] = np.broadcast_to(np.int32(epoch), len(self))

    def take(
        self, order: Array, start: int, stop: int, *, epoch: int = 0
    ) -> Iterator[Batch]:
        """The batches from `start` up to `stop` of the epoch in this order.

        Each has a first axis of one more, as `train.make_epoch` wants it. What was
        begun for batches to come goes on where the same order is asked for again.

        Args:
          order: of the photographs; `batch_size` make a batch.
          start: the first batch.
          stop: the batch after the last one.
          epoch: which it is.

        Raises:
          StreamError: `MOST_BAD` photographs in a row cannot be read, or a source can
            no longer.
        """
        if order is not self._order or start != self._next:
            self.close()
            self._set_epoch(epoch)
            self._order, self._next = order, start
            self._batches = self._begin(np.asarray(order), start)
        for _ in range(start, stop):
            begun = time.perf_counter()
            batch = next(self._batches)
            self.waited += time.perf_counter() - begun
            self._next += 1
            yield batch

    def close(self) -> None:
        """Ends what was begun for batches to come."""
        if self._batches is not None:
            self._batches.close()
        self._order, self._batches = None, None

    def _begin(self, order: np.ndarray, start: int) -> Any:
        whole = order[: len(order) // self._batch_size * self._batch_size]
        return _batches(
            whole.reshape(-1, self._batch_size)[start:],
            self._element,
            partial(_put, sharding=self._sharding),
            sharding=self._sharding,
        )

    def _element(self, index: int) -> dict[str, Any]:
        image, place = _readable(self._data["image"], index)
        others = {n: a[place] for n, a in self._data.items() if n != "image"}
        return {"image": image, **others}


def outputs(
    step: Callable[[Tree, Tree, Array], Array],
    params: Tree,
    stats: Tree,
    images: Images,
    *,
    batch_size: int,
    mesh: Mesh,
    progress: Progress | None = None,
) -> tuple[Array, np.ndarray]:
    """What a network says of images that come from the host, in their order.

    Args:
      step: as `train.make_eval_step` gives it, for `batch_size`.
      params, stats: the network's arrays.
      images: uint8 `(n, h, w, 3)`.
      batch_size: over all devices.
      mesh: the devices.
      progress: called with the images that were given to the device, and all.

    Returns:
      The outputs of those that can be read, and which of the n these are, bool `(n,)`;
      whole on each process.

    Raises:
      StreamError: none of them can be read, or a source can no longer.
    """
    sharding = NamedSharding(mesh, P(None, AXIS))
    missing = -len(images) % batch_size
    places = np.concatenate([np.arange(len(images)), np.full(missing, -1)])

    def element(index: int) -> dict[str, Any]:
        image = None
        if index >= 0:
            image = _try(images, index)
        is_there = image is not None
        filler = np.zeros(images.shape[1:], np.uint8)
        return {"image": image if is_there else filler, "there": np.bool_(is_there)}

    batches = _batches(
        places.reshape(-1, batch_size),
        element,
        partial(_put, sharding=sharding),
        sharding=sharding,
    )
    whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
    found, there = [], []
    for batch in batches:
        found.append(step(params, stats, batch["image"][0]))
        there.append(whole(batch["there"][0]))
        if progress is not None:
            progress(min(len(found) * batch_size, len(images)), len(images))
    batches.close()
    is_there = np.concatenate([np.asarray(one) for one in there])[: len(images)]
    if not is_there.any():
        raise StreamError(f"none of {len(images)} photos can be read")
    out = jax.numpy.concatenate(found)[: len(images)]
    return (out if is_there.all() else out[np.flatnonzero(is_there)]), is_there


def _batches(
    places: np.ndarray,
    element: Callable[[int], dict[str, Any]],
    put: Callable[[dict[str, np.ndarray]], Batch],
    *,
    sharding: NamedSharding,
) -> Any:
    """An iterator over batches on the devices, made in threads ahead of their use.

    Args:
      places: `(batches, batch_size)`, what `element` is asked for.
      element: makes one image of a batch, with what belongs to it.
      put: brings what this process has of a batch to its devices.
      sharding: of a batch.
    """
    grain = importlib.import_module("grain")
    experimental = importlib.import_module("grain.experimental")
    rows = _own_rows(sharding, places.shape[1])
    threads = workers()
    source = grain.MapDataset.source(places[:, rows].reshape(-1))
    ahead = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(2 * threads, len(rows))
    )
    batches = (
        source.map(lambda place: element(int(place)))
        .to_iter_dataset(ahead)
        .batch(len(rows), batch_fn=_stack)
        .map(put)
    )
    return iter(
        experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=AHEAD)
    )


def _own_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The places in a batch that this process's devices take, in rising order."""
    indices = sharding.addressable_devices_indices_map((1, batch_size))
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[at[1]] for at in indices.values() if at]))


def _put(batch: dict[str, np.ndarray], *, sharding: NamedSharding) -> Batch:
    """A batch on the devices, of which each process has those rows that are its own."""
    size = len(batch["image"]) * sharding.mesh.size // len(sharding.addressable_devices)
    rows = _own_rows(sharding, size)

    def place(array: np.ndarray) -> Array:
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)

        def part(at: Any) -> np.ndarray:
            begin, stop, _ = at[1].indices(size)
            return array[None, np.searchsorted(rows, begin) :][:, : stop - begin]

        shape = (1, size, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: place(array) for name, array in batch.items()}


def _stack(elements: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in elements]) for name in elements[0]}


def _readable(images: Images, index: int) -> tuple[np.ndarray, int]:
    """The image at `index`, or the next one that can be read, and its place."""
    count = len(images)
    for further in range(min(count, MOST_BAD)):
        place = (int(index) + further) % count
        image = _try(images, place)
        if image is not None:
            return image, place
    assert isinstance(images, LazyImages)
    name, why = images.photos[int(index)].name, images.bad[int(index)]
    raise StreamError(
        f"{min(count, MOST_BAD)} photos in a row cannot be read, from {name} on ({why})"
    )


def _try(images: Images, index: int) -> np.ndarray | None:
    try:
        return np.asarray(images[int(index)])
    except UnreadableImageError:
        return None
    except (OSError, ValueError) as error:  # of a source whose files are damaged
        raise StreamError(" ".join(str(error).split())) from error
