"""The array types that the public functions speak of."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key, Shaped, UInt8

AnyArray = Array | np.ndarray
"""On the device or on the host."""
Tree = dict[str, Any]
"""Nested plain dict whose leaves are arrays."""
Images = Float[Array, "n h w c"]
Squares = Float[Array, "n {size} {size} c"]
"""Images with the side that the call's argument `size` names."""
Logits = Float[Array, "n classes"]
Labels = Int[Array, "n"]
PRNGKey = Key[Array, ""]
"""One typed key, as `jax.random.key` makes it."""
Batch = dict[str, Array]
Transform = Callable[[Array | None, Batch], Batch]
"""`transform(key or None, batch) -> batch`; a key means training."""
Metrics = dict[str, Array]
Apply = Callable[..., tuple[Array, Tree]]
"""`apply(params, stats, images, *, key=None) -> (out, stats)`; a key means training."""
Forward = Callable[[Any, Any], Any]
"""`forward(net, images) -> out`, in place of `net(images)`; `net` is thrown away."""
LossFn = Callable[[Array, Batch], tuple[Array, Metrics]]
"""`loss_fn(out, batch) -> (loss, metrics)`, means over the images of the batch."""


@runtime_checkable
class WeightedLoss(Protocol):
    """A loss function whose mean is weighted: that of parts is not the whole batch's.

    Any other `LossFn` gives plain means, which equal parts may average.
    """

    def __call__(self, out: Array, batch: Batch) -> tuple[Array, Metrics]: ...

    def of_part(self, whole: Batch, *, parts: int) -> LossFn:
        """That of one of `parts` equal parts: their plain mean is that of `whole`."""
        ...


__all__ = [
    "AnyArray",
    "Apply",
    "Array",
    "Batch",
    "Bool",
    "Float",
    "Forward",
    "Images",
    "Int",
    "Labels",
    "Logits",
    "LossFn",
    "Metrics",
    "PRNGKey",
    "Shaped",
    "Squares",
    "Transform",
    "Tree",
    "UInt8",
    "WeightedLoss",
]
