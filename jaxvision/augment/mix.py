"""Pairs of images mixed, and their targets with them.

Every image is paired with the one before it in the batch, the first with the last, as
in torchvision: the batch must come in random order. torchvision draws one share (and
one box) for the batch, these functions draw for every image.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxvision.augment.draws import uniform
from jaxvision.augment.erase import box_mask
from jaxvision.typing import Array, Float, Images, Int, PRNGKey

Targets = Float[Array, "n classes"]
Shares = Float[Array, "n"]
Centers = Int[Array, "n 2"]
Mixed = tuple[Images, Targets]


def mixup_with(images: Images, targets: Targets, share: Shares) -> Mixed:
    """Images and targets times `share`, plus their neighbours times the rest.

    Equal to `torchvision.transforms.v2.MixUp` where it draws this share.

    Raises:
      ValueError: the targets are not one row of floats for each image.
    """
    _check_targets(images, targets)
    return _blend(images, share), _blend(targets, share)


def cutmix_with(
    images: Images, targets: Targets, share: Shares, centers: Centers
) -> Mixed:
    """Images with a box of their neighbours pasted in; targets mixed by its area.

    The box has the image's shape and `1 - share` of its area, is centred on a pixel
    (row, column) and cut off at the border, which leaves a larger share for the
    targets. Equal to `torchvision.transforms.v2.CutMix` where it draws these.

    Raises:
      ValueError: the targets are not one row of floats for each image.
    """
    _check_targets(images, targets)
    sides = jnp.array(images.shape[1:3], jnp.int32)[None]
    half = (0.5 * jnp.sqrt(1 - share)[:, None] * sides).astype(jnp.int32)
    first = jnp.maximum(centers - half, 0)
    end = jnp.minimum(centers + half, sides)
    pixels = images.shape[1] * images.shape[2]
    kept = 1 - jnp.prod(end - first, axis=1).astype(share.dtype) / pixels
    pasted = jnp.where(box_mask(images, first, end), jnp.roll(images, 1, 0), images)
    return pasted, _blend(targets, kept)


@partial(jax.jit, static_argnames="alpha")
def mixup(key: PRNGKey, images: Images, targets: Targets, *, alpha: float) -> Mixed:
    """Each image and its target blended with its neighbour's.

    Args:
      key: draws a share for each image.
      images: the batch, in random order.
      targets: one row a sample that sums to one, such as one-hot labels.
      alpha: of the shares' distribution Beta(alpha, alpha), above 0: small leaves most
        pairs nearly unmixed, 1 is uniform.

    Raises:
      ValueError: alpha is not positive, or the targets are not one row of floats for
        each image.

    Reference: Zhang et al., 2017, arXiv:1710.09412.
    """
    return mixup_with(images, targets, _shares(key, images, alpha))


@partial(jax.jit, static_argnames="alpha")
def cutmix(key: PRNGKey, images: Images, targets: Targets, *, alpha: float) -> Mixed:
    """A box of each image replaced by its neighbour's, the targets by its area.

    Args:
      key: draws a share and a centre for each image.
      images: the batch, in random order.
      targets: one row a sample that sums to one, such as one-hot labels.
      alpha: of the shares' distribution Beta(alpha, alpha), above 0; 1 is uniform, the
        paper's choice.

    Raises:
      ValueError: alpha is not positive, or the targets are not one row of floats for
        each image.

    Reference: Yun et al., 2019, arXiv:1905.04899.
    """
    share_key, center_key = jax.random.split(key)
    n, height, width, _ = images.shape
    centers = uniform(center_key, n, (0, height), (0, width)).astype(jnp.int32).T
    return cutmix_with(images, targets, _shares(share_key, images, alpha), centers)


MIXES: dict[str, Callable[..., Mixed]] = {"mixup": mixup, "cutmix": cutmix}
"""`fn(key, images, targets, alpha=alpha) -> (images, targets)`."""


def _shares(key, images, alpha):
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    # Beta is gamma / (gamma + gamma), here of their logarithms. `jax.random.beta` holds
    # the generator twice, and that takes seconds to compile.
    pair = jax.random.loggamma(key, alpha, (2, len(images)), jnp.float32)
    return jax.nn.sigmoid(pair[0] - pair[1])


def _blend(x, share):
    share = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return jnp.roll(x, 1, 0) * (1 - share) + x * share


def _check_targets(images, targets):
    rows = targets.ndim == 2 and len(targets) == len(images)
    if not rows or not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError(
            f"expected floating targets of shape ({len(images)}, classes), got "
            f"{targets.dtype} of shape {targets.shape}: use jax.nn.one_hot on labels"
        )
