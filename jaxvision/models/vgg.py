"""VGG, with and without batch normalisation (torchvision.models.vgg).

Reference: Simonyan and Zisserman, 2014, arXiv:1409.1556.
"""

from functools import partial

from flax import nnx

from jaxvision import ops
from jaxvision.models.init import Init, kaiming_normal, normal, zeros
from jaxvision.models.layers import BatchNorm, Sequential, conv, flatten, max_pool
from jaxvision.models.network import Network

# convolutions in each of the five stages
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """`torchvision.models.VGG`: images `(n, h, w, 3)`, normalised, to logits.

    Any size from 32 pixels will do: the last map is pooled to 7x7.
    """

    smallest = 32

    def __init__(self, *, depths, norm=False, num_classes=1000, rngs):
        cin = 3
        layers = []
        for depth, width in zip(depths, WIDTHS, strict=True):
            for _ in range(depth):
                layers.append(conv(cin, width, 3, padding=1, bias=True, rngs=rngs))
                if norm:
                    layers.append(BatchNorm(width, rngs=rngs))
                layers.append(nnx.relu)
                cin = width
            layers.append(max_pool(2, 2))
        self.features = Sequential(layers)
        self.avgpool = partial(ops.adaptive_avg_pool, size=(7, 7))
        self.classifier = Sequential(
            [
                nnx.Linear(512 * 7 * 7, 4096, rngs=rngs),
                nnx.relu,
                nnx.Dropout(0.5, rngs=rngs),
                nnx.Linear(4096, 4096, rngs=rngs),
                nnx.relu,
                nnx.Dropout(0.5, rngs=rngs),
                nnx.Linear(4096, num_classes, rngs=rngs),
            ]
        )

    def __call__(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(flatten(x))

    def trunk(self):
        """The rectified maps, which is what comes before each pooling."""
        layers = enumerate(self.features)
        return tuple(f"features.{i}" for i, layer in layers if layer is nnx.relu)


TASK = "imagenet"
VARIANTS = {
    f"{name}{suffix}": partial(VGG, depths=depths, norm=bool(suffix))
    for name, depths in DEPTHS.items()
    for suffix in ("", "_bn")
}
ALIASES: dict[str, str] = {}
HEAD = "classifier.6"
INIT = Init(
    conv=kaiming_normal("fan_out"),
    conv_bias=zeros,
    linear=normal(0.01),
    linear_bias=zeros,
)
