"""The trained networks that come with the programs, and those of runs."""

import os
from pathlib import Path

from experiments.command.options import UsageError
from experiments.inference.enlarger import load_model
from jaxvision.models.network import Enlarger

FOLDER = Path(__file__).parent / "weights"
"""`NAME_xSCALE.safetensors`, and beside each how it was trained."""


def trained_names() -> tuple[str, ...]:
    """What comes with the programs, without the scale."""
    files = sorted(FOLDER.glob("*.safetensors"))
    return tuple(dict.fromkeys(file.stem.rpartition("_x")[0] for file in files))


def scales(model: str) -> tuple[int, ...]:
    """The scales for which `--model` comes, or the one of a run.

    Raises:
      UsageError: there is no such model.
    """
    if model in trained_names():
        files = sorted(FOLDER.glob(f"{model}_x?.safetensors"))
        return tuple(int(file.stem.rpartition("_x")[2]) for file in files)
    return (open_network(model, scale=None).scale,)


def trained_file(model: str, *, scale: int) -> Path | None:
    """The file of a network that comes with the programs; none, of another name.

    For a scale that it does not come for, that of the smallest it does.
    """
    if model not in trained_names():
        return None
    best = scale if scale in scales(model) else scales(model)[0]
    return FOLDER / f"{model}_x{best}.safetensors"


def open_network(model: str, *, scale: int | None) -> Enlarger:
    """The network that `--model` and `--scale` name.

    Args:
      model: one of `trained_names()`, a run's folder, or its `model.safetensors`.
      scale: none: 2, or what a run was trained for.

    Raises:
      UsageError: there is none, or it is for another scale.
    """
    if model not in trained_names():
        path = Path(os.path.expanduser(model))
        if not path.exists():
            names = ", ".join(trained_names())
            raise UsageError(f"--model {model}: no such run, and no name of {names}")
        network = load_model(path)
        if scale not in (None, network.scale):
            raise UsageError(
                f"--scale {scale}: {model} was trained for --scale {network.scale}"
            )
        return network
    file = FOLDER / f"{model}_x{scale or 2}.safetensors"
    if not file.is_file():
        raise UsageError(f"--model {model} does not come for --scale {scale}")
    return load_model(file)
