"""From a model's arrays to a PyTorch `state_dict`, to the bit; counters are 0."""

import numpy as np
from flax import nnx

from converters.rules import batch_norms, leaves
from jaxvision import models
from jaxvision.typing import Tree


def to_state_dict(
    model: nnx.Module, params: Tree, stats: Tree
) -> dict[str, np.ndarray]:
    """Torch's names and layouts, complete enough for `load_state_dict(strict=True)`.

    Args:
      model: the structure; its own arrays are not looked at and may be abstract.
      params: the learned arrays, as `functionalize` gives them.
      stats: BatchNorm's running statistics, likewise.
    """
    tensors = {}
    for leaf in leaves(model):
        node = stats if leaf.is_stat else params
        for part in leaf.path:
            node = node[part]
        tensors[leaf.torch_name] = leaf.layout.to_torch(np.asarray(node))
    for path in batch_norms(model):
        tensors[f"{path}.num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def torch_call(name: str, *, num_classes: int) -> str:
    """The call that builds the same network in torchvision, as Python has it.

    The tensors alone do not make it: GoogLeNet computes something else of its images,
    and has further tensors, unless it is built as ours is. Empty where torchvision has
    no such network.

    Raises:
      ValueError: nor has anybody else.
    """
    theirs = models.variant(name).torchvision
    if not theirs:
        return ""
    stated = models.abstract(name).torch_options
    options = {"num_classes": num_classes, **stated}
    words = ", ".join(f"{option}={value!r}" for option, value in options.items())
    return f"torchvision.models.{theirs}({words})"
