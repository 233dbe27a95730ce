"""Models with random weights that tell random photographs apart."""

import jax
import numpy as np
from flax import nnx

from converters.bundle import Bundle
from jaxvision import models
from jaxvision.calibration import Certainty
from jaxvision.functional import functionalize, replace_arrays
from jaxvision.preprocess import Preprocessing, normalize, to_float

CLASSES = ("a", "b/c", "d", "e", "ü")
VIEWS = ({}, {"mirror": True}, {"mirror": True, "shift": 1}, {"fit": "pad"})
"""What of a preprocessing is in the network itself, and what is before it."""


def random_photos(count, *, height, width):
    """Each of a colour of its own, with noise: uint8 `(count, height, width, 3)`."""
    rng = np.random.default_rng(height)
    colours = rng.integers(0, 200, (count, 1, 1, 3))
    noise = rng.integers(0, 56, (count, height, width, 3))
    return (colours + noise).astype(np.uint8)


def bundle_of(name, *, views=None):
    """A model for its smallest photos, BatchNorm's statistics taken from such."""
    model = models.create(name, num_classes=len(CLASSES), rngs=nnx.Rngs(0))
    crop = max(getattr(model, "smallest", 32), 32)
    apply, params, stats = functionalize(model)
    images = normalize(to_float(random_photos(16, height=crop, width=crop)))
    zeros = jax.tree.map(np.zeros_like, stats)
    _, share = jax.jit(apply)(params, zeros, images, key=jax.random.key(0))
    # A step takes that share of the batch's statistics into the running ones.
    momentum = 0.01 if name.startswith("mobilenet_v3") else 0.1
    replace_arrays(model, params, jax.tree.map(lambda x: x / momentum, share))
    preprocessing = Preprocessing(crop + 5, crop, **(views or {}))
    return Bundle(name, model, CLASSES, preprocessing)


def with_labels(bundle):
    """The same model as one that gives a photo any number of labels."""
    limits = (0.5, 0.4, 0.3, 0.6, 0.7)
    return bundle._replace(certainty=Certainty(label_thresholds=limits))
