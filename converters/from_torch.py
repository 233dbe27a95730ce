"""From a PyTorch `state_dict` into a model: each tensor exactly once, or not at all."""

from collections.abc import Mapping

import numpy as np
from flax import nnx

from converters.rules import IGNORED, leaves
from jaxvision.models.init import fill
from jaxvision.models.network import Network


class ConversionError(ValueError):
    """The tensors and the model do not fit; the message lists every misfit."""


def convert(model: nnx.Module, state_dict: Mapping[str, np.ndarray]) -> nnx.Module:
    """Fills `model` with the tensors of `state_dict`, in place, and returns it.

    Args:
      model: one of `jaxvision.models`, concrete or abstract.
      state_dict: torch's names and layouts, as numpy arrays; float16 and bfloat16
        become float32, float64 stays.

    Raises:
      ConversionError: a tensor is missing, left over or has another shape, or holds NaN
        or infinity.
    """
    tensors = {
        name: array
        for name, array in without_optional(model, state_dict).items()
        if not name.endswith(IGNORED)
    }
    missing, misshapen, filled = [], [], {}
    for leaf in leaves(model):
        array = tensors.pop(leaf.torch_name, None)
        expected = leaf.layout.torch_shape(leaf.shape)
        if array is None:
            missing.append(leaf.torch_name)
        elif array.shape != expected:
            misshapen.append(f"{leaf.torch_name} is {array.shape}, not {expected}")
        else:
            wide = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
            filled[leaf.path] = leaf.layout.from_torch(wide)
    faults = {"missing": missing, "unexpected": list(tensors), "mis-shaped": misshapen}
    if any(faults.values()):
        raise ConversionError(
            f"the tensors do not fit {type(model).__name__}: "
            + "; ".join(
                f"{len(names)} {kind} ({_listed(names)})"
                for kind, names in faults.items()
                if names
            )
        )
    _check_finite({leaf.torch_name: filled[leaf.path] for leaf in leaves(model)})
    fill(model, filled)
    return model


def _check_finite(tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ConversionError with what no training and no answer can come of."""
    faults = [
        f"{name} holds {'NaN' if np.isnan(array).any() else 'infinity'}"
        for name, array in tensors.items()
        if not np.isfinite(array).all()
    ]
    if faults:
        raise ConversionError(f"the weights are not finite: {_listed(faults)}")


def without_optional(
    model: nnx.Module, state_dict: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`state_dict` less the tensors of `optional` children that `model` is without."""
    optional = model.optional if isinstance(model, Network) else ()
    absent = tuple(f"{child}." for child in optional if getattr(model, child) is None)
    return {
        name: array for name, array in state_dict.items() if not name.startswith(absent)
    }


def _listed(names: list[str], limit: int = 8) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
