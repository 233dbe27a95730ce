"""The one place that imports torchvision, also where its binary part does not fit.

torchvision's wheels on the package index are built against a CUDA build of torch. With
a CPU build their extension does not load, and the import fails for want of two
schemas of detection operators, which no classifier uses. Declaring them is enough.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept_alive = []


def import_torchvision() -> ModuleType:
    """torchvision, with its detection operators declared where they cannot be loaded.

    Raises:
      ModuleNotFoundError: torch or torchvision is not installed; the message names the
        extra to install.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError(
            "torch and torchvision are needed here: pip install 'jaxvision[torch]'"
        )
    import torch

    libraries = sorted(Path(spec.origin).parent.glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            fragment.define(f"{name}{_NMS}")
        _kept_alive.append(fragment)
    return importlib.import_module("torchvision")
