"""Photographs decoded in threads, many at a time."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from jaxvision.data.decode import TAKEN_AS, UnreadableImageError, formats
from jaxvision.data.photo import Photo

Progress = Callable[[int, int], None]
"""Called with the photographs done and the photographs in all, in the main thread."""
Tick = Callable[[], None]
"""Called after each photograph, in the main thread."""
Guesses = dict[str, str]
"""Photographs, by name, whose pixels were taken as something that no file says."""
Result = TypeVar("Result")


def read(
    photos: Sequence[Photo],
    use: Callable[[int, Image.Image], Result],
    *,
    tick: Tick | None = None,
    guesses: Guesses | None = None,
) -> tuple[dict[int, Result], dict[int, str]]:
    """What `use` makes of each photograph, and why it could not, by index.

    Args:
      photos: opened in as many threads as the process may use processors.
      use: gets a photograph's index and its upright RGB image, in its thread; may
        raise UnreadableImageError as `Photo.open` may.
      tick: called after each photograph.
      guesses: takes those of the photographs.
    """

    def work(index: int) -> Result | UnreadableImageError:
        try:
            image = photos[index].open()
            if guesses is not None and TAKEN_AS in image.info:
                guesses[photos[index].name] = image.info[TAKEN_AS]
            return use(index, image)
        except UnreadableImageError as error:
            return error

    good, bad = {}, {}
    formats()  # here, so that no two threads load Pillow's plugins at once
    with warnings.catch_warnings(), ThreadPoolExecutor(workers()) as pool:
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


def guessed(guesses: Guesses) -> list[str]:
    """One line that says what was guessed, of how many photographs; or none."""
    if not guesses:
        return []
    words = ", ".join(
        f"{count} as of {what}" for what, count in Counter(guesses.values()).items()
    )
    return [
        f"{len(guesses)} photos do not say how many bits their pixels have, and were "
        f"taken by their largest value: {words}; such as {min(guesses)}"
    ]


def workers() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # fewer than cpu_count() in a batch job
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
