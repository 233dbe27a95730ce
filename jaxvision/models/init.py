"""Random initialisation as torchvision does it, drawn leaf by leaf with numpy.

Numpy draws the 69 million numbers of a Wide ResNet-50-2 in a second, where one compiled
program a leaf takes most of a minute, and the numbers are the same on every platform.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from jaxvision.functional import has_prefix, modules
from jaxvision.models.layers import BatchNorm

Draw = Callable[[np.random.Generator, tuple[int, ...], int], np.ndarray]
"""`draw(generator, shape, fan_in)`; kernels come as HWIO or (in, out)."""


def kaiming_normal(mode: str) -> Draw:
    """He initialisation for ReLU, `kaiming_normal_` with `fan_in` or `fan_out`."""

    def draw(rng, shape, fan_in):
        # torch counts a grouped convolution's fan-out over all output channels.
        fan = fan_in if mode == "fan_in" else int(np.prod(shape[:-2])) * shape[-1]
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan))

    return draw


def normal(std: float) -> Draw:
    """A normal distribution around zero."""
    return lambda rng, shape, _: (
        rng.standard_normal(shape, np.float32) * np.float32(std)
    )


def truncated_normal(std: float, bound: float) -> Draw:
    """A normal distribution cut at `bound` on either side, by drawing again."""

    def draw(rng, shape, _):
        values = rng.standard_normal(shape, np.float32) * np.float32(std)
        while (outside := np.abs(values) > bound).any():
            values[outside] = rng.standard_normal(outside.sum(), np.float32) * std
        return values

    return draw


def torch_default(rng: np.random.Generator, shape, fan_in: int) -> np.ndarray:
    """`nn.Linear`'s and `nn.Conv2d`'s own: uniform in +-1/sqrt(fan_in)."""
    bound = np.float32(1 / np.sqrt(fan_in))
    return rng.random(shape, np.float32) * (2 * bound) - bound


def zeros(_rng, shape, _fan_in) -> np.ndarray:
    """All zero."""
    return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Init:
    """How a family draws each kind of leaf; BatchNorm starts at one and zero."""

    conv: Draw = torch_default
    conv_bias: Draw = torch_default
    linear: Draw = torch_default
    linear_bias: Draw = torch_default
    layers: Mapping[str, "Init"] = field(default_factory=dict)
    """What the modules at or under a dotted path have instead."""


def initialize(
    model: nnx.Module, init: Init, rng: np.random.Generator, *, below: str = ""
) -> None:
    """Fills the learned leaves and statistics of `model` in place.

    Args:
      model: its leaves may be abstract.
      init: the draw for each kind of leaf.
      rng: numpy's generator; leaves are drawn in the order of their paths.
      below: only modules whose dotted path is this one or lies under it.
    """
    leaves = {}
    for path, module in modules(model):
        names = tuple(map(str, path))
        if not has_prefix(names, (below,)):
            continue
        own = (other for at, other in init.layers.items() if has_prefix(names, (at,)))
        chosen = next(own, init)
        if isinstance(module, BatchNorm):
            values = {"scale": 1, "bias": 0, "mean": 0, "var": 1}
            for leaf, value in values.items():
                leaves[*path, leaf] = np.full(module.scale.shape, value, np.float32)
        elif isinstance(module, nnx.Conv | nnx.Linear):
            draws = (
                (chosen.conv, chosen.conv_bias)
                if isinstance(module, nnx.Conv)
                else (chosen.linear, chosen.linear_bias)
            )
            shape = module.kernel.shape
            fan_in = int(np.prod(shape[:-1]))
            leaves[*path, "kernel"] = draws[0](rng, shape, fan_in)
            if module.bias is not None:
                leaves[*path, "bias"] = draws[1](rng, module.bias.shape, fan_in)
    fill(model, leaves)


def fill(model: nnx.Module, leaves: dict[tuple, np.ndarray]) -> None:
    """Puts copies of `leaves`, keyed by path, into `model`, concrete or abstract."""
    arrays = {path: jnp.array(value) for path, value in leaves.items()}
    nnx.update(model, traverse_util.unflatten_dict(arrays))
