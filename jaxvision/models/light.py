"""A light network for super-resolution that computes at low resolution.

It sees the luma alone, as the papers do and eyes see details: six convolutions of 32
channels, one that makes all pixels of the enlargement at once (Shi et al., 2016,
arXiv:1609.05158), and what they make is added to the bicubic enlargement of all three
colours. The kernels of the body start near the identity: each is a residual block of
one convolution that has been collapsed into one kernel (Bhardwaj et al., "Collapsible
Linear Blocks for Super-Efficient Super Resolution", 2022, arXiv:2103.09404), so that
there is nothing left to collapse.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvision.image_metrics import to_luma
from jaxvision.models.init import Init, kaiming_normal, zeros
from jaxvision.models.layers import Sequential, conv, pixel_shuffle
from jaxvision.models.network import Enlarger
from jaxvision.resize import bicubic

SLOPE = 0.1
"""Of the activation for negative values."""
GAIN = 0.3
"""How large the body's kernels start beside the identity, in He's units."""


class Light(Enlarger):
    """Images `(n, h, w, 3)` in [0, 1] to `(n, scale * h, scale * w, 3)`, not clipped.

    The borders are padded with zeros, which stand for a middle grey.
    """

    smallest = 1
    takes_enlarged = False

    def __init__(self, *, scale, width=32, depth=5, rngs):
        self.first = conv(1, width, 5, padding=2, bias=True, rngs=rngs)
        self.body = Sequential(
            [
                conv(width, width, 3, padding=1, bias=True, rngs=rngs)
                for _ in range(depth)
            ]
        )
        self.last = conv(width, scale**2, 3, padding=1, bias=True, rngs=rngs)
        self.scale = scale

    def __call__(self, x):
        if x.ndim != 4 or x.shape[3] != 3:
            raise ValueError(
                f"Light takes RGB images of shape (n, h, w, 3), got {x.shape}"
            )
        _, height, width, _ = x.shape
        large = bicubic(x, size=(self.scale * height, self.scale * width))
        y = start = _activate(self.first(to_luma(jnp.asarray(x)) - 0.5))
        for layer in self.body:
            y = _activate(layer(y))
        return large + pixel_shuffle(self.last(y + start), scale=self.scale)


def _activate(x):
    return nnx.leaky_relu(x, SLOPE)


def near_identity(rng: np.random.Generator, shape, fan_in: int) -> np.ndarray:
    """A kernel that passes each channel on, and a little of He's noise."""
    kernel = GAIN * kaiming_normal("fan_in")(rng, shape, fan_in)
    middle = shape[0] // 2, shape[1] // 2
    kernel[middle] += np.eye(*shape[2:], dtype=np.float32)
    return kernel.astype(np.float32)


TASK = "superres"
VARIANTS = {f"light_x{scale}": partial(Light, scale=scale) for scale in (1, 2, 3, 4)}
ALIASES = {"light": "light_x2"}
HEAD = ""  # it has no classifier
INIT = Init(
    conv=kaiming_normal("fan_in"),
    conv_bias=zeros,
    layers={
        "body": Init(conv=near_identity, conv_bias=zeros),
        # It starts as bicubic interpolation.
        "last": Init(conv=zeros, conv_bias=zeros),
    },
)
