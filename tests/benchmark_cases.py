"""Cases for the workers of tests/test_benchmarks.py; nothing heavy is imported."""

import os
import time

from benchmarks.worker import Case


def sleeping(*, seconds: float, name: str = "", path: str = os.devnull) -> Case:
    """Sleeps, writes its name to a file, and prints where the answers go."""
    print("not an answer", flush=True)

    def run(calls: int) -> None:
        time.sleep(seconds * calls)
        with open(path, "a") as file:
            file.write(f"{name}\n")

    return Case(run, {"pid": os.getpid(), "images": 3})


def working(*, seconds: float) -> Case:
    """Keeps one core busy."""

    def run(calls: int) -> None:
        end = time.process_time() + seconds * calls
        while time.process_time() < end:
            pass

    return Case(run, {})


def warming(*, path: str) -> Case:
    """Slow the first time, like a call that compiles; notes how many are asked for."""
    pauses = [0.3]

    def run(calls: int) -> None:
        time.sleep(pauses.pop() if pauses else 0.001 * calls)
        with open(path, "a") as file:
            file.write(f"{calls}\n")

    return Case(run, {})


def failing() -> Case:
    """Cannot be prepared."""
    raise ValueError("\n  no such thing  \nand more of it")


def dying(*, calls: int) -> Case:
    """Prepares, and ends its process at a block of more than `calls` calls."""

    def run(wanted: int) -> None:
        if wanted > calls:
            os.abort()

    return Case(run, {})
