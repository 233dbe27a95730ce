"""The one table between torch's tensors and ours: by layer type, no rule by family."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from jaxvision.functional import modules
from jaxvision.models.layers import BatchNorm

IGNORED = "num_batches_tracked"
"""The tensors without a counterpart; torch reads them only without a momentum."""


class Layout(NamedTuple):
    """How the axes move: `ours = theirs.transpose(axes)`; no axes, no move."""

    axes: tuple[int, ...] | None = None

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """Torch's layout to ours."""
        return array if self.axes is None else np.transpose(array, self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Our layout to torch's, contiguous."""
        if self.axes is None:
            return array
        return np.ascontiguousarray(np.transpose(array, np.argsort(self.axes)))

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that torch's tensor has where ours has `shape`."""
        if self.axes is None:
            return tuple(shape)
        return tuple(shape[axis] for axis in np.argsort(self.axes))


SAME = Layout()
OIHW_TO_HWIO = Layout((2, 3, 1, 0))
TRANSPOSE = Layout((1, 0))

RULES: dict[type, dict[str, tuple[str, Layout]]] = {
    nnx.Conv: {"kernel": ("weight", OIHW_TO_HWIO), "bias": ("bias", SAME)},
    nnx.Linear: {"kernel": ("weight", TRANSPOSE), "bias": ("bias", SAME)},
    BatchNorm: {
        "scale": ("weight", SAME),
        "bias": ("bias", SAME),
        "mean": ("running_mean", SAME),
        "var": ("running_var", SAME),
    },
}


class Leaf(NamedTuple):
    """One array of a model and the torch tensor it equals."""

    path: tuple[Any, ...]
    torch_name: str
    layout: Layout
    shape: tuple[int, ...]
    is_stat: bool


def leaves(model: nnx.Module) -> Iterator[Leaf]:
    """Every learned array and statistic of `model`, concrete or abstract."""
    for path, module in modules(model):
        for name, (torch_leaf, layout) in RULES.get(type(module), {}).items():
            variable = getattr(module, name)
            if variable is not None:
                torch_name = ".".join([*map(str, path), torch_leaf])
                is_stat = isinstance(variable, nnx.BatchStat)
                yield Leaf((*path, name), torch_name, layout, variable.shape, is_stat)


def batch_norms(model: nnx.Module) -> list[str]:
    """The dotted paths of all BatchNorm layers."""
    return [
        ".".join(map(str, path))
        for path, module in modules(model)
        if isinstance(module, BatchNorm)
    ]
