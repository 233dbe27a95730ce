"""Reads mutated files of torch's formats in a process of its own, with little memory.

`python -m tests.torch_fuzz FOLDER COUNT SEED` takes the files of FOLDER, changes each
copy at random, and reads it. Every outcome must be a value of plain types or one line
of `TorchFileError`, within ten seconds; what it prints last is a count of both.
"""

import faulthandler
import json
import pickle
import random
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from converters.torch_file import TorchFileError, read_torch
from converters.torch_file.calls import Function, Skipped, StorageType

MEMORY = 2 << 30
SECONDS = 10
PLAIN = (
    *(dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex),
    *(bool, type(None), np.ndarray, Function, Skipped, StorageType),
)
OPCODES = sorted(
    value[0]
    for name, value in vars(pickle).items()
    if name.isupper() and isinstance(value, bytes) and len(value) == 1
)
MARKS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"ustar", b"data.pkl", b"storage")


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """`raw` with one to four changes, of bits, lengths, opcodes, fields or parts."""
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        size = len(changed)
        if size < 8:
            break
        at = rng.randrange(size)
        if rng.random() < 0.4:  # near what matters
            found = changed.find(rng.choice(MARKS), rng.randrange(size))
            at = min(size - 1, max(found, 0) + rng.randrange(48))
        kind = rng.randrange(9)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.randrange(256)
        elif kind == 2:
            changed[at] = rng.choice(OPCODES)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + rng.randrange(1, 40)]
        elif kind == 5:
            changed[at:at] = bytes(rng.choice(OPCODES) for _ in range(rng.randrange(9)))
        elif kind == 6:  # a count or a position
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, size))
            changed[at : at + width] = (value % 256**width).to_bytes(width, "little")
        elif kind == 7:
            other = rng.randrange(size)
            length = rng.randrange(1, 60)
            changed[at : at + length] = changed[other : other + length]
        else:
            changed[at:at] = changed[at : at + rng.randrange(1, 200)]
    return bytes(changed)


def check_plain(value) -> None:
    """Raises AssertionError where `value` holds anything but plain types."""
    seen, todo = set(), [value]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        plain = type(item) in PLAIN or isinstance(item, np.generic | np.dtype)
        assert plain, type(item)
        if isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            todo += item
        elif isinstance(item, np.ndarray):
            assert item.nbytes <= 1 << 28
            item.sum() if item.dtype.kind in "iub" else item.tobytes()


def outcome(path: Path) -> str:
    """`read`, or the beginning of the one line of refusal."""
    try:
        value = read_torch(path)
    except TorchFileError as error:
        line = str(error)
        assert line.startswith(str(path)) and len(line) < 1000, line
        assert "\n" not in line and line.isprintable(), line
        return line[len(str(path)) :][:24]
    check_plain(value)
    return "read"


def forbid(event: str, args) -> None:
    """An audit hook: reading starts no program, compiles nothing, looks nothing up."""
    if reading and event.startswith(FORBIDDEN):
        raise SystemExit(f"reading caused {event} {args}")


reading = False
FORBIDDEN = ("os.", "subprocess.", "exec", "compile", "pickle.", "socket.", "ctypes.")


def main(folder: Path, count: int, seed: int) -> None:
    """Runs `count` mutations; ends with a traceback at the first that fails."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faulthandler.enable()
    sys.addaudithook(forbid)
    global reading
    rng = random.Random(seed)
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    path = folder.parent / f"mutated-{seed}.pth"
    found: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(count):
        path.write_bytes(mutate(rng.choice(files), rng))
        begin = time.monotonic()
        signal.alarm(SECONDS)
        reading = True
        found[outcome(path)] += 1
        reading = False
        signal.alarm(0)
        slowest = max(slowest, time.monotonic() - begin)
    path.unlink(missing_ok=True)
    # Not ru_maxrss, which a process has from the one that started it.
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    memory = int(peak.split()[0]) / 2**10
    print(
        json.dumps(
            {
                "read": found.pop("read", 0),
                "refused": found.total(),
                "slowest": round(slowest, 3),
                "MiB": round(memory),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
