"""The backbones, with torchvision's names and attribute paths, and the small nets.

`create(name, rngs=nnx.Rngs(0))` is a model with random weights, `abstract(name)` one
whose leaves a converter fills. A family is a file of this package with a table
`VARIANTS`; it says all there is to say of itself.
"""

import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxvision.models import init
from jaxvision.models.network import Network
from jaxvision.models.nodes import capture as capture
from jaxvision.models.nodes import cut as cut

FIRST = ("vgg", "resnet", "densenet", "googlenet", "mobilenet", "mobilenetv3")
"""The families that lists begin with, in this order; all others follow by name."""
MISSION = (
    "vgg16",
    "resnet18",
    "densenet161",
    "googlenet",
    "mobilenet_v2",
    "resnext50_32x4d",
    "wide_resnet50_2",
)
"""The backbones of transfer learning: one or two of each family."""


class Variant(NamedTuple):
    """One architecture: how to build it, where its head is, how it is initialised.

    Without a classifier the head is "", and `build` takes no `num_classes`. The task is
    what it is made for: "imagenet", "cifar10" or "superres". A backbone's name is
    torchvision's, unless its family's table `TORCHVISION` has another.
    """

    name: str
    build: Callable[..., Network]
    head: str
    init: init.Init
    task: str
    torchvision: str
    """Empty where torchvision has no such network."""


def _families() -> tuple[ModuleType, ...]:
    names = sorted(
        (module.name for module in pkgutil.iter_modules(__path__)),
        key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name),
    )
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return tuple(module for module in modules if "VARIANTS" in vars(module))


FAMILIES = _families()
VARIANTS: dict[str, Variant] = {
    name: Variant(
        name,
        build,
        family.HEAD,
        family.INIT,
        family.TASK,
        getattr(family, "TORCHVISION", {}).get(name, name)
        if family.TASK == "imagenet"
        else "",
    )
    for family in FAMILIES
    for name, build in family.VARIANTS.items()
}
ALIASES: dict[str, str] = {
    alias: name for family in FAMILIES for alias, name in family.ALIASES.items()
}


def names() -> tuple[str, ...]:
    """All backbones, as torchvision spells them."""
    return tuple(row.name for row in VARIANTS.values() if row.torchvision == row.name)


def twins(name: str) -> tuple[str, ...]:
    """Other models with the same name, and the same tensors, in torchvision."""
    mine = variant(name)
    return tuple(
        row.name
        for row in VARIANTS.values()
        if mine.torchvision == row.torchvision != "" and row.name != mine.name
    )


def small_names() -> tuple[str, ...]:
    """The classifiers of 32x32 images, CIFAR-10's."""
    return tuple(row.name for row in VARIANTS.values() if row.task == "cifar10")


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


def abstract(name: str, *, num_classes: int = 1000) -> Network:
    """The model with `jax.ShapeDtypeStruct` leaves: no memory, no random numbers."""
    row = variant(name)
    options = {"num_classes": num_classes} if row.head else {}
    return nnx.eval_shape(lambda: row.build(**options, rngs=nnx.Rngs(0)))


def create(name: str, *, num_classes: int = 1000, rngs: nnx.Rngs) -> Network:
    """The model with random weights, drawn by torchvision's or the paper's scheme.

    Args:
      name: a row of `VARIANTS` or an alias.
      num_classes: width of the last layer; without a meaning for `srcnn`.
      rngs: its `params` stream seeds the draw.

    Raises:
      ValueError: no such model.
    """
    model = abstract(name, num_classes=num_classes)
    seed = np.asarray(jax.random.key_data(rngs.params()))
    init.initialize(model, variant(name).init, np.random.default_rng(seed))
    return model


def new_head(name: str, model: nnx.Module, *, rngs: nnx.Rngs) -> None:
    """Draws the last layer afresh, as `torch.nn.Linear` does, in place.

    Raises:
      ValueError: no such model, or it has no classifier.
    """
    head = variant(name).head
    if not head:
        raise ValueError(f"{name} has no classifier that a new one could replace")
    seed = np.asarray(jax.random.key_data(rngs.params()))
    rng = np.random.default_rng(seed)
    init.initialize(model, init.Init(), rng, below=head)
