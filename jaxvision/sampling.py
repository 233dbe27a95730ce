"""Orders of an epoch other than each image once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.typing import Array


def balanced_order(labels: np.ndarray) -> Callable[[Array], Array]:
    """`draw(key) -> order`, int32 `(n,)`: as many images, all classes as likely.

    Each place draws a class, of those that have images, then one of its images, both
    with replacement: `torch.utils.data.WeightedRandomSampler` with the weights
    `1 / images of the class`, in whole numbers, so that no rounding favours an image.

    Args:
      labels: the class of each image, `(n,)`.
    """
    by_class = np.argsort(labels, kind="stable").astype(np.int32)
    _, starts, counts = np.unique(
        np.asarray(labels)[by_class], return_index=True, return_counts=True
    )
    starts, counts = starts.astype(np.int32), counts.astype(np.int32)
    size = (len(by_class),)

    @jax.jit
    def draw(key: Array) -> Array:
        class_key, image_key = jax.random.split(key)
        chosen = jax.random.randint(class_key, size, 0, len(counts), jnp.int32)
        most = jnp.asarray(counts)[chosen]
        place = jax.random.randint(image_key, size, 0, most, jnp.int32)
        return jnp.asarray(by_class)[jnp.asarray(starts)[chosen] + place]

    return draw
