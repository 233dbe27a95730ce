"""VGG16's parameters for a perceptual loss, from whatever checkpoint holds them."""

from collections.abc import Iterable, Mapping

import numpy as np

from converters.from_torch import convert
from converters.rules import leaves
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.perceptual import node
from jaxvision.typing import Tree


def vgg16_params(
    state_dict: Mapping[str, np.ndarray], *, layers: Iterable[str]
) -> Tree:
    """What `make_perceptual` and `make_lpips` need for `layers`, and nothing else.

    Args:
      state_dict: VGG16's tensors by torchvision's names, of the whole network or of its
        first layers alone.
      layers: names that `make_perceptual` knows, such as `relu2_2`.

    Raises:
      ConversionError: a tensor that a layer needs is missing or mis-shaped, or one is
        none of VGG16's.
      ValueError: there is no such layer.
    """
    nodes = list(dict.fromkeys(map(node, layers)))
    part = models.cut(models.abstract("vgg16"), layers=nodes)
    needed = {leaf.torch_name for leaf in leaves(part)}
    further = {leaf.torch_name for leaf in leaves(models.abstract("vgg16"))} - needed
    kept = {name: x for name, x in state_dict.items() if name not in further}
    return functionalize(convert(part, kept))[1]
