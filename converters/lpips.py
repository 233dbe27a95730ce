"""The learned weights of LPIPS, out of the authors' package `lpips`."""

import importlib.util
from pathlib import Path

import numpy as np

from converters.weights import load_state_dict
from jaxvision.lpips import LAYERS


def linear_weights(*, path: str | Path | None = None) -> dict[str, np.ndarray]:
    """The weights of LPIPS's linear layers over VGG16, version 0.1, layer by layer.

    Args:
      path: the package's `weights/v0.1/vgg.pth`; by default that of the package which
        is installed (`pip install lpips`). It is not imported.

    Raises:
      ValueError: the package is not installed, or the file is another one.
    """
    state = load_state_dict(_installed() if path is None else path)
    names = {f"lin{i}.model.1.weight": layer for i, layer in enumerate(LAYERS)}
    if state.keys() != names.keys():
        raise ValueError(
            f"these are no weights of LPIPS over VGG16: expected {', '.join(names)}, "
            f"got {', '.join(state)}"
        )
    return {layer: state[name].reshape(-1) for name, layer in names.items()}


def _installed():
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the weights of LPIPS come with the package lpips, which is not installed: "
            "pip install lpips, or name its weights/v0.1/vgg.pth"
        )
    return Path(spec.submodule_search_locations[0], "weights", "v0.1", "vgg.pth")
