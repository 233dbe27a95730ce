"""Where weight files lie on this machine.

torch's own cache is looked at first and never written. Ours is
`$JAXVISION_HOME/weights`, by default `~/.cache/jaxvision/weights`: the files under
torchvision's names, and beside each the full SHA-256 seen when it was first used
(`.sha256`), what a broken download left (`.part`) and the copy that needs no torch
(`.safetensors`).
"""

import os
from contextlib import suppress
from pathlib import Path

from converters.weights import Row
from jaxvision import files


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
