"""Transforms of whole batches: what stands between the data and a training step.

A transform is `(key or None, batch) -> batch`, where a batch is a dict of arrays with
`image` among them. A key means training; without one it is the evaluation's, in which
nothing is left to chance. Several are applied one after the other, each with a key of
its own.
"""

import jax
import jax.numpy as jnp

from jaxvision.augment.mix import MIXES
from jaxvision.augment.pipelines import make_pipeline
from jaxvision.preprocess import Preprocessing, normalize, to_float
from jaxvision.typing import Array, Batch, Transform


def photo_transform(pipeline: str, preprocessing: Preprocessing) -> Transform:
    """uint8 squares to what a classifier takes, augmented where there is a key.

    Without a key the images must have the evaluation's size already.

    Args:
      pipeline: a row of `PIPELINES`.
      preprocessing: the size of the crops, and each channel's mean and
        standard deviation.

    Raises:
      ValueError: there is no such pipeline.
    """
    augment = make_pipeline(pipeline, size=preprocessing.crop)

    def transform(key: Array | None, batch: Batch) -> Batch:
        images = to_float(batch["image"])
        if key is not None:
            images = augment(key, images)
        images = normalize(images, mean=preprocessing.mean, std=preprocessing.std)
        return batch | {"image": images}

    return transform


def mix_transform(name: str, *, alpha: float, num_classes: int) -> Transform:
    """Images mixed with each other, their shares as rows of `target`.

    Args:
      name: a row of `MIXES`.
      alpha: how far; as for that row.
      num_classes: how many there are in `label`, which may have rows of 0 and 1.
    """
    mix = MIXES[name]

    def transform(key: Array | None, batch: Batch) -> Batch:
        if key is None:
            return batch
        targets = batch["label"].astype(jnp.float32)
        if targets.ndim == 1:
            targets = jax.nn.one_hot(batch["label"], num_classes, dtype=jnp.float32)
        image, target = mix(key, batch["image"], targets, alpha=alpha)
        return batch | {"image": image, "target": target}

    return transform
