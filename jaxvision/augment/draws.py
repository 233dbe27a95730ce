"""What the random augmentations draw from, and the checks of their ranges."""

import jax
import jax.numpy as jnp

from jaxvision.typing import Array, Float, PRNGKey


def uniform(
    key: PRNGKey, n: int, *ranges: tuple[float, ...]
) -> Float[Array, "ranges n"]:
    """A uniform number from each range for each of `n` samples.

    One call for all the ranges: each call adds its generator to the program.
    """
    low, high = jnp.array(ranges, jnp.float32).T
    unit = jax.random.uniform(key, (n, len(ranges)), jnp.float32)
    return (low[None] + (high - low)[None] * unit).T


def symmetric(bounds: float | tuple[float, ...]) -> tuple[float, ...]:
    """The range `-bounds .. bounds` of a number; a range comes back as it is."""
    return (-bounds, bounds) if isinstance(bounds, int | float) else bounds


def check_range(name: str, bounds: tuple[float, float]) -> None:
    """Raises ValueError unless the bounds are positive and increasing."""
    if not 0 < bounds[0] <= bounds[1]:
        raise ValueError(f"{name} must be positive and increasing, got {bounds}")
