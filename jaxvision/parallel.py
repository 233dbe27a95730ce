"""Data parallelism: one mesh axis, a sharded batch, replicated parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from jaxvision.typing import Batch

AXIS = "data"


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
    would compare all that it is given.
    """

    def put(leaf: Any) -> Any:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array):
            if leaf.sharding == sharding:
                return leaf
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = put(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    return jax.tree.map(put, tree)


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
