"""DenseNet-BC (torchvision.models.densenet).

Reference: Huang et al., 2016, arXiv:1608.06993.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from jaxvision import ops
from jaxvision.models.init import Init, kaiming_normal, zeros
from jaxvision.models.layers import BatchNorm, conv, max_pool
from jaxvision.models.network import Network


class Named(nnx.Module):
    """Calls its children in order, as `torch.nn.Sequential` over an `OrderedDict`."""

    def __init__(self, children):
        for name, child in children.items():
            setattr(self, name, child)
        self.order = tuple(children)

    def __call__(self, x):
        for name in self.order:
            x = getattr(self, name)(x)
        return x


class DenseLayer(nnx.Module):
    """Norm, ReLU and a 1x1 convolution, the same with 3x3: `growth` new channels."""

    def __init__(self, cin, growth, *, rngs):
        inner = 4 * growth
        self.norm1 = BatchNorm(cin, rngs=rngs)
        self.relu1 = nnx.relu
        self.conv1 = conv(cin, inner, 1, rngs=rngs)
        self.norm2 = BatchNorm(inner, rngs=rngs)
        self.relu2 = nnx.relu
        self.conv2 = conv(inner, growth, 3, padding=1, rngs=rngs)

    def __call__(self, x):
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nnx.Module):
    """Layers that each see the channels of all before them."""

    def __init__(self, cin, growth, depth, *, rngs):
        self.order = tuple(f"denselayer{index + 1}" for index in range(depth))
        for index, name in enumerate(self.order):
            setattr(self, name, DenseLayer(cin + index * growth, growth, rngs=rngs))

    def __call__(self, x):
        for name in self.order:
            x = jnp.concatenate([x, getattr(self, name)(x)], -1)
        return x


def transition(cin: int, *, rngs: nnx.Rngs) -> Named:
    """Half the channels, half the height and width."""
    return Named(
        {
            "norm": BatchNorm(cin, rngs=rngs),
            "relu": nnx.relu,
            "conv": conv(cin, cin // 2, 1, rngs=rngs),
            "pool": partial(ops.avg_pool, window=2, stride=2),
        }
    )


class DenseNet(Network):
    """`torchvision.models.DenseNet`: images `(n, h, w, 3)`, normalised, to logits.

    Images have 29 pixels at least, or nothing is left after the last transition.
    """

    smallest = 29

    def __init__(self, *, growth=32, width=64, depths, num_classes=1000, rngs):
        layers = {
            "conv0": conv(3, width, 7, stride=2, padding=3, rngs=rngs),
            "norm0": BatchNorm(width, rngs=rngs),
            "relu0": nnx.relu,
            "pool0": max_pool(3, 2, padding=1),
        }
        for index, depth in enumerate(depths, 1):
            layers[f"denseblock{index}"] = DenseBlock(width, growth, depth, rngs=rngs)
            width += depth * growth
            if index < len(depths):
                layers[f"transition{index}"] = transition(width, rngs=rngs)
                width //= 2
        layers["norm5"] = BatchNorm(width, rngs=rngs)
        self.features = Named(layers)
        self.relu = nnx.relu
        self.classifier = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.relu(self.features(x))
        return self.classifier(ops.global_avg_pool(x))

    def trunk(self):
        """The blocks; the last one's map counts after its norm, rectified."""
        return (*(f"features.denseblock{i}" for i in (1, 2, 3)), "relu")


TASK = "imagenet"
VARIANTS = {
    "densenet121": partial(DenseNet, depths=(6, 12, 24, 16)),
    "densenet161": partial(DenseNet, depths=(6, 12, 36, 24), growth=48, width=96),
    "densenet169": partial(DenseNet, depths=(6, 12, 32, 32)),
    "densenet201": partial(DenseNet, depths=(6, 12, 48, 32)),
}
ALIASES: dict[str, str] = {}
HEAD = "classifier"
INIT = Init(conv=kaiming_normal("fan_in"), linear_bias=zeros)
