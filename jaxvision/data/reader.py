"""Photographs decoded in threads, many at a time."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from jaxvision.data.decode import UnreadableImageError
from jaxvision.data.photo import Photo

Progress = Callable[[int, int], None]
"""Called with the photographs done and the photographs in all, in the main thread."""
Tick = Callable[[], None]
"""Called after each photograph, in the main thread."""
Result = TypeVar("Result")


def read(
    photos: Sequence[Photo],
    use: Callable[[int, Image.Image], Result],
    *,
    tick: Tick | None = None,
) -> tuple[dict[int, Result], dict[int, str]]:
    """What `use` makes of each photograph, and why it could not, by index.

    Args:
      photos: opened in as many threads as the process may use processors.
      use: gets a photograph's index and its upright RGB image, in its thread; may
        raise UnreadableImageError as `Photo.open` may.
      tick: called after each photograph.
    """

    def work(index: int) -> Result | UnreadableImageError:
        try:
            return use(index, photos[index].open())
        except UnreadableImageError as error:
            return error

    good, bad = {}, {}
    Image.init()  # here, so that no two threads load Pillow's plugins at once
    with warnings.catch_warnings(), ThreadPoolExecutor(_workers()) as pool:
        # Pillow warns of odd metadata and large images; what fails is in `bad`.
        warnings.simplefilter("ignore")
        # Left early, by Ctrl-C, this loop drops map's iterator, which cancels the rest.
        for index, result in enumerate(pool.map(work, range(len(photos)))):
            if isinstance(result, UnreadableImageError):
                bad[index] = str(result)
            else:
                good[index] = result
            if tick is not None:
                tick()
    return good, bad


def make_tick(progress: Progress | None, *, total: int) -> Tick:
    """Counts for `progress`, over as many calls of `read` as there are."""
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick


def _workers() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than cpu_count() in a batch job
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
