"""Which type a device computes fast in, and the loss scale that float16 needs."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvision import ops
from jaxvision.ops import onednn
from jaxvision.typing import Array, Bool

INITIAL = 65536.0
GROWTH = 2.0
BACKOFF = 0.5
INTERVAL = 2000
"""The defaults of `torch.amp.GradScaler`."""


def fast_dtype(device: Any) -> tuple[str, str]:
    """`(dtype, why)`: the type for convolutions and matrix products on a device.

    bfloat16 where the device multiplies it: NVIDIA's GPUs of compute capability 8.0 or
    more, AMD's, TPUs; else float32, since float16 needs a loss scale. A CPU computes
    in float32 unless it is told otherwise, also where bfloat16 is faster; `why` says
    where that is.

    Args:
      device: a `jax.Device`.
    """
    kind = device.device_kind
    if device.platform == "tpu":
        return "bfloat16", f"{kind} multiplies it"
    if device.platform not in ("gpu", "cuda", "rocm"):
        if ops.backend() == "onednn" and onednn.multiplies(jnp.bfloat16):
            return "float32", f"on {kind}; bfloat16 has faster convolutions here"
        return "float32", f"on {kind} it is as fast as any"
    # AMD's devices name an architecture, such as gfx90a.
    found = re.fullmatch(r"(\d+)\.(\d+)", getattr(device, "compute_capability", ""))
    if found and tuple(map(int, found.groups())) < (8, 0):
        return "float32", f"{kind} does not multiply bfloat16; float16 is faster there"
    return "bfloat16", f"{kind} multiplies it"


class LossScale(NamedTuple):
    """What a loss is multiplied by, so that small gradients do not vanish in float16.

    Attributes:
      scale: float32 scalar.
      good: int32 scalar, the steps with finite gradients since it changed.

    Reference: Micikevicius et al., 2017, arXiv:1710.03740; the rule is that of
    `torch.amp.GradScaler`.
    """

    scale: Array
    good: Array


def initial_scale() -> LossScale:
    """The scale before the first step."""
    return LossScale(jnp.float32(INITIAL), jnp.int32(0))


def next_scale(now: LossScale, finite: Bool[Array, ""]) -> LossScale:
    """The scale after a step whose gradients were finite, or were not.

    Half of it after gradients that were not, twice after `INTERVAL` steps in which all
    were, as long as that is a number.
    """
    good = now.good + 1
    grows = good == INTERVAL
    larger = now.scale * GROWTH
    grown = jnp.where(grows & jnp.isfinite(larger), larger, now.scale)
    return LossScale(
        jnp.where(finite, grown, now.scale * BACKOFF),
        jnp.where(finite & ~grows, good, 0),
    )


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether no number of `tree` is infinite or NaN."""
    flags = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(flags).all()
