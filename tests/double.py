"""Double precision for a block, in every version of JAX."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def x64(on: bool = True) -> Iterator[None]:
    """JAX computes in 64 bits, or does not; then it is as it was before."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", on)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
