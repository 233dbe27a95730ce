"""Where weight files lie on this machine, what is known of them, and whose they are.

torch's own cache is looked at first and never written. Ours is
`$JAXVISION_HOME/weights`, by default `~/.cache/jaxvision/weights`: the files under
torchvision's names, and beside each the full SHA-256 seen when it was first used
(`.sha256`), what a broken download left (`.part`) and the copy that needs no torch
(`.safetensors`).
"""

import hashlib
import os
import re
import stat
import warnings
from contextlib import suppress
from pathlib import Path

from converters.weights import Row
from jaxvision import files

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""What only the owner may do to a file of ours."""


def cache_folder() -> Path:
    """Our folder of weights, which need not exist yet."""
    return files.cache_home() / "weights"


def torch_cache_folder() -> Path:
    """The folder in which torch.hub keeps its downloads, which need not exist."""
    home = os.environ.get("TORCH_HOME")
    folder = files.expanded(home) if home else files.user_cache() / "torch"
    return folder / "hub" / "checkpoints"


def folders() -> list[Path]:
    """The caches of torch and ours; without a home folder, those that are named."""
    found = []
    for where in (torch_cache_folder, cache_folder):
        with suppress(FileNotFoundError):
            found.append(where())
    return found


def cached_params_path(row: Row) -> Path:
    """Where the converted copy of `row` lives: torchvision's names and layouts."""
    return (cache_folder() / row.file).with_suffix(".safetensors")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_right(digest: str, row: Row) -> bool:
    """Whether `digest` is that of the file of `row`, as far as it is known."""
    if row.sha256:
        return digest == row.sha256
    return digest.startswith(row.sha256_prefix)


def is_intact(path: Path, row: Row) -> bool:
    """Whether `path` is the file of `row`, and the one that was first seen here."""
    try:
        digest = sha256(path)
    except OSError:
        return False
    return is_right(digest, row) and recorded(row) in (None, digest)


def record_path(row: Row) -> Path:
    """Where the full hash of the file is written when it is first used."""
    return cache_folder() / f"{row.file}.sha256"


def recorded(row: Row) -> str | None:
    """The full hash written when the file was first used."""
    try:
        text = record_path(row).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def is_trusted(path: Path) -> bool:
    """Whether nobody but this user, the system or the cache's keepers made `path`.

    A file of ours, or root's, that others cannot write; or any where not everybody can
    write to the cache's folders, whose writers one has chosen by naming it.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return False
        mine = found.st_uid in (os.getuid(), 0) and not found.st_mode & OTHERS_WRITE
        writable = (p.stat().st_mode for p in (path.parent, path.parent.parent))
        shared = any(mode & stat.S_IWOTH for mode in (found.st_mode, *writable))
    except OSError:
        return False
    return mine or not shared


def set_aside(path: Path) -> None:
    """Renames a damaged file, with a warning, so that it is looked at no more."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    warnings.warn(f"{path} is damaged; it is kept as {aside.name}", stacklevel=4)
