"""Data parallelism: one mesh axis, a sharded batch, parameters whole or in parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from jaxvision.typing import Apply, Array, Batch, Tree

AXIS = "data"
LEAST = 1 << 12
"""Numbers of an array below which it is not worth to be spread."""


def make_mesh(*, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `devices`, or all of them, with the one axis `data`."""
    devices = jax.devices() if devices is None else devices
    # The default axis type changed between releases of JAX: it is always given.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters: the whole array on each device."""
    return NamedSharding(mesh, P())


def place(tree: Any, sharding: Sharding) -> Any:
    """The arrays of `tree`, of which each process has the same, as `sharding` says.

    No process waits for another, and nothing is sent: over several, `jax.device_put`
    would compare all that it is given. What is spread over processes already is brought
    there by all of them.
    """

    def put(leaf: Any) -> Any:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array):
            if leaf.sharding == sharding:
                return leaf
            if not leaf.is_fully_replicated:
                return _moved(leaf, sharding)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = put(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    return jax.tree.map(put, tree)


@partial(jax.jit, static_argnums=1)
def _moved(array: Array, sharding: Sharding) -> Array:
    return jax.lax.with_sharding_constraint(array, sharding)


def is_spread(array: Any) -> bool:
    """Whether no process has all of an array."""
    return (
        isinstance(array, jax.Array)
        and not array.is_fully_addressable
        and not array.is_fully_replicated
    )


def on_host(tree: Any) -> Any:
    """The arrays of `tree` as numpy's, whole; all processes call it.

    One after the other, so that no device holds more than one of them whole.
    """

    def fetch(leaf: Any) -> Any:
        if is_spread(leaf):
            leaf = _moved(leaf, replicated(leaf.sharding.mesh))
        return np.asarray(leaf)

    return jax.tree.map(fetch, tree)


@dataclass(frozen=True)
class Layout:
    """Where a model's arrays are: whole on each device, or each in parts on all.

    Attributes:
      mesh: the devices.
      is_spread: whether they are in parts; on one device that is no difference.
    """

    mesh: Mesh
    is_spread: bool = False

    def of(self, array: Any) -> NamedSharding:
        """The sharding of one: along the largest axis that the devices can share."""
        shape, count = array.shape, self.mesh.size
        axes = [axis for axis, size in enumerate(shape) if size % count == 0]
        small = math.prod(shape) < LEAST
        if not self.is_spread or count == 1 or small or not axes:
            return replicated(self.mesh)
        axis = max(axes, key=lambda axis: (shape[axis], axis))
        return NamedSharding(self.mesh, P(*[None] * axis, AXIS))

    def place(self, tree: Any) -> Any:
        """The arrays of `tree`, of which each process has the same, or its parts."""
        return jax.tree.map(lambda leaf: place(leaf, self.of(leaf)), tree)

    def kept(self, tree: Any) -> Any:
        """`tree` in its place, inside a jitted function."""
        if not self.is_spread:
            return tree

        def keep(leaf: Array) -> Array:
            return jax.lax.with_sharding_constraint(leaf, self.of(leaf))

        return jax.tree.map(keep, tree)

    def gathered(self, apply: Apply) -> Apply:
        """`apply`, which is given parts and computes as if it were given the whole.

        The compiler gathers each array where it is used, and again on the way back;
        there each gradient is summed and spread at once.
        """
        if not self.is_spread or self.mesh.size == 1:
            return apply

        def run(params: Tree, stats: Tree, images: Array, key: Array | None) -> Any:
            params = jax.tree.map(lambda leaf: _whole(leaf, self.of(leaf)), params)
            return apply(params, stats, images, key=key)

        run = jax.checkpoint(run, policy=_not_gathered)

        def applied(params: Tree, stats: Tree, images: Array, *, key=None) -> Any:
            return run(params, stats, images, key)

        return applied


def _not_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """What a backward pass keeps of the forward one: all but what was gathered."""
    return primitive.name != "sharding_constraint"


def _whole(array: Array, sharding: NamedSharding) -> Array:
    """An array of parts, on each device; its gradient comes in parts again."""
    parts = jax.lax.with_sharding_constraint(array, sharding)
    return jax.lax.with_sharding_constraint(parts, replicated(sharding.mesh))


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Spreads axis 0 of each array over the devices, inside a jitted function."""
    sharding = NamedSharding(mesh, P(AXIS))
    return {
        name: jax.lax.with_sharding_constraint(array, sharding)
        for name, array in batch.items()
    }


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError where the devices cannot share a batch evenly."""
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared by {mesh.size} devices: "
            f"give a multiple of {mesh.size}"
        )
