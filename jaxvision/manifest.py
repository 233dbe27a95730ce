"""The manifest of a checkpoint's folder: size and sha256 of every file in it."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from jaxvision.files import sha256, write_text

MANIFEST = "manifest.json"
METADATA = "metadata.json"


def seal(path: Path) -> None:
    """Brings a folder to the disk, and lists in it what each byte of it is."""
    for file in path.rglob("*"):
        sync(file)
    write_text(path / MANIFEST, json.dumps(_digests(path), indent=1))


def find_fault(path: Path) -> str | None:
    """What is wrong with a step's folder, or None where every byte is as written."""
    try:
        if not any(path.iterdir()):
            return "the folder is empty"
        listed = json.loads((path / MANIFEST).read_text("utf-8"))
        if METADATA not in listed:
            return f"{MANIFEST} does not list {METADATA}"
        found = _digests(path)
        for name, (size, sha256) in listed.items():
            if name not in found:
                return f"{name} is missing"
            if found[name][0] != size:
                return f"{name} has {found[name][0]} bytes instead of {size}"
            if found[name][1] != sha256:
                return f"{name} is damaged (its sha256 differs)"
    except FileNotFoundError:
        return f"there is no {MANIFEST}"
    except (ValueError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is damaged ({error})"
    except OSError as error:
        return f"it cannot be read ({error})"
    return None


def _digests(path: Path) -> dict[str, list[Any]]:
    """Size and sha256 of every file below `path`."""
    digests = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix()
        digests[name] = [file.stat().st_size, sha256(file)]
    return digests


def remove(staging: Path) -> None:
    """Deletes a step that failed, into which Orbax's threads may still write."""
    for _ in range(20):
        shutil.rmtree(staging, ignore_errors=True)
        if not staging.exists():
            return
        time.sleep(0.05)


def sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
