"""What the C library's allocator does with the memory of a finished step."""

import ctypes
import os
import sys

VARIABLE = "JAXVISION_MALLOC"

# glibc's <malloc.h>: one arena, never mmap, never give the heap's top back.
_SETTINGS = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
}


def keep_pages() -> bool:
    """Has the process keep freed memory where the environment asks; true if it will.

    By default glibc maps the gigabytes of a call's temporaries afresh and unmaps them
    at its end, and the kernel clears each page again: two fifths of the CPU time of a
    MobileNet step where each step is a call. `JAXVISION_MALLOC=keep` asks for this
    function's setting. It costs memory, half as much again and more, because the heap
    fragments and never shrinks; where a call takes many steps, as in
    `train.make_epoch`, it gains little, so it is off by default. It works on Linux
    with glibc alone, and only before JAX's first computation, because XLA's threads
    keep the arenas they start with.

    Raises:
      ValueError: `JAXVISION_MALLOC` is neither `keep` nor `default`.
    """
    choice = os.environ.get(VARIABLE) or "default"
    if choice not in ("keep", "default"):
        raise ValueError(f"{VARIABLE}={choice!r} is unknown; set it to keep or default")
    if choice == "default" or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(number, value) for number, value in _SETTINGS.values()])
