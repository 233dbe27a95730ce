"""The backbones: torchvision's names, torchvision's attribute paths.

`create(name, rngs=nnx.Rngs(0))` is a model with random weights, `abstract(name)` one
whose leaves a converter fills.
"""

from collections.abc import Callable
from difflib import get_close_matches
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxvision.models import (
    densenet,
    googlenet,
    init,
    mobilenet,
    mobilenetv3,
    resnet,
    vgg,
)
from jaxvision.models.features import features as features

FAMILIES: tuple[ModuleType, ...] = (
    vgg,
    resnet,
    densenet,
    googlenet,
    mobilenet,
    mobilenetv3,
)


class Variant(NamedTuple):
    """One architecture: how to build it, where its head is, how it is initialised."""

    name: str
    build: Callable[..., nnx.Module]
    head: str
    init: init.Init


VARIANTS: dict[str, Variant] = {
    name: Variant(name, build, family.HEAD, family.INIT)
    for family in FAMILIES
    for name, build in family.VARIANTS.items()
}
ALIASES: dict[str, str] = {
    alias: name for family in FAMILIES for alias, name in family.ALIASES.items()
}


def names() -> tuple[str, ...]:
    """All model names, as torchvision spells them."""
    return tuple(VARIANTS)


def variant(name: str) -> Variant:
    """The row of `name`, which may be an alias such as `wrn50_2`.

    Raises:
      ValueError: no such model; the message has the nearest names.
    """
    full = ALIASES.get(name, name)
    if full not in VARIANTS:
        close = get_close_matches(name, [*VARIANTS, *ALIASES], n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"unknown backbone {name!r}: {hint}There are {', '.join(VARIANTS)}"
        )
    return VARIANTS[full]


def abstract(name: str, *, num_classes: int = 1000) -> nnx.Module:
    """The model with `jax.ShapeDtypeStruct` leaves: no memory, no random numbers."""
    build = variant(name).build
    return nnx.eval_shape(lambda: build(num_classes=num_classes, rngs=nnx.Rngs(0)))


def create(name: str, *, num_classes: int = 1000, rngs: nnx.Rngs) -> nnx.Module:
    """The model with random weights, drawn by torchvision's scheme for the family.

    Args:
      name: a row of `names()` or an alias.
      num_classes: width of the last layer.
      rngs: its `params` stream seeds the draw.

    Raises:
      ValueError: no such model.
    """
    model = abstract(name, num_classes=num_classes)
    seed = np.asarray(jax.random.key_data(rngs.params()))
    init.initialize(model, variant(name).init, np.random.default_rng(seed))
    return model


def new_head(name: str, model: nnx.Module, *, rngs: nnx.Rngs) -> None:
    """Draws the last layer afresh, as `torch.nn.Linear` does, in place."""
    seed = np.asarray(jax.random.key_data(rngs.params()))
    rng = np.random.default_rng(seed)
    init.initialize(model, init.Init(), rng, below=variant(name).head)
