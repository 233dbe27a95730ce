"""What we are compared with: torchvision's models with no tensor at its fresh value."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from converters import weights as weight_files
from converters.from_torch import convert, without_optional
from converters.rules import IGNORED
from converters.torchvision_import import import_torchvision
from jaxvision import models

ODD = 65
"""Pixels. At this size all maps are odd, and "SAME" padding is as good as torch's."""


def odd_size(name: str) -> int:
    """`ODD`, or the next such size that the model takes: a power of two, and one."""
    return max(ODD, 2 ** (models.abstract(name).smallest - 1).bit_length() + 1)


def default_sizes(name: str) -> tuple[int, ...]:
    """The smallest size, an even and an odd one, and 224 for those of `MISSION`."""
    odd = odd_size(name)
    large = [224] if name in models.MISSION else []
    return (models.abstract(name).smallest, odd - 1, odd, *large)


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Full precision of matrix products, and 64 bits where `dtype` needs them."""
    wanted = {
        "jax_enable_x64": dtype == "float64",
        "jax_default_matmul_precision": "highest",
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def random_images(batch: int, size: int, *, dtype: str) -> np.ndarray:
    """Noise, `(batch, size, size, 3)`, the same at every call."""
    rng = np.random.default_rng(size)
    return rng.standard_normal((batch, size, size, 3)).astype(dtype)


def torch_model(
    name: str, *, weights: Path | None = None, dtype: str, num_classes: int = 1000
) -> Any:
    """The model of torchvision in evaluation mode, built as our default one is.

    Args:
      name: a backbone's.
      weights: a file; else random weights, see `randomize`.
      dtype: "float32" or "float64".
      num_classes: width of the last layer; with `weights` the file decides.

    Raises:
      ValueError: the file cannot be read or has no classifier of this model.
    """
    state = None
    options = {**models.abstract(name).torch_options, "num_classes": num_classes}
    if weights is not None:
        state = weight_files.load_state_dict(weights)
        head = f"{models.variant(name).head}.weight"
        if head not in state:
            raise ValueError(f"{weights} has no {head}: these are no weights of {name}")
        options["num_classes"] = len(state[head])
        # Also the first place where unfit tensors are listed.
        model = models.abstract(name, num_classes=len(state[head]))
        state = without_optional(model, state)
        convert(model, state)
    torchvision = import_torchvision()
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: Any = torchvision.models.get_model(
            models.variant(name).torchvision, **options
        )
        hard = torch.nn.Hardsigmoid
        for module in filter(lambda module: isinstance(module, hard), net.modules()):
            # torch's own gradient has 1/6 in float32, also for float64.
            module.forward = lambda x: torch.nn.functional.relu6(x + 3) / 6
        if state is not None:
            state = {key: torch.tensor(array) for key, array in state.items()}
            net.load_state_dict(state, strict=False)  # convert has been strict
            return net.to(getattr(torch, dtype)).eval()
        return randomize(net.to(getattr(torch, dtype)), size=odd_size(name))


def randomize(net: Any, *, size: int = ODD) -> Any:
    """Gives every tensor of a torch network values of its own, in evaluation mode.

    Fresh biases, scales and offsets are zeros and ones, with which a lost or a swapped
    one would pass. The last scale of a residual branch is small, as training makes it:
    with ones, 50 blocks of BatchNorm on batch statistics raise rounding errors, in
    torch too, to 1e-8 within three steps. The running statistics are first those of
    noise images of `size` pixels a side, or the signal of a deep network would vanish
    or explode, and then moved at random.
    """
    import torch

    def noise(like):
        return torch.randn(like.shape, dtype=like.dtype)

    norms: list[Any] = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for tensor in net.parameters():
            if tensor.ndim == 1:
                tensor += 0.1 * noise(tensor)
        for block in net.modules():
            if branch_end := getattr(block, "bn3", getattr(block, "bn2", None)):
                branch_end.weight *= 0.2
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            dtype = next(net.parameters()).dtype
            net.train()(torch.randn(4, 3, size, size, dtype=dtype))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.running_mean += (
                0.2 * norm.running_var.sqrt() * noise(norm.running_mean)
            )
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.5, 1.5)
    return net.eval()


def state_arrays(net: Any) -> dict[str, np.ndarray]:
    """A copy of a torch network's tensors, without the counters of batches."""
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in net.state_dict().items()
        if not name.endswith(IGNORED)
    }


def torch_images(images: np.ndarray) -> Any:
    """NHWC numpy images as an NCHW tensor."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def our_model(name: str, net: Any) -> nnx.Module:
    """Our model with the weights of torchvision's `net`."""
    state = state_arrays(net)
    num_classes = len(state[f"{models.variant(name).head}.weight"])
    return convert(models.abstract(name, num_classes=num_classes), state)
