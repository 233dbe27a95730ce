"""MobileNet-v3, large and small (torchvision.models.mobilenetv3).

Reference: Howard et al., 2019, arXiv:1905.02244.
"""

from functools import partial

from flax import nnx

from jaxvision import ops
from jaxvision.models import mobilenet
from jaxvision.models.layers import BatchNorm, Sequential, conv
from jaxvision.models.network import Network

# kernel, expanded channels, channels, squeeze and excite, activation, stride
LARGE = (
    (3, 16, 16, False, nnx.relu, 1),
    (3, 64, 24, False, nnx.relu, 2),
    (3, 72, 24, False, nnx.relu, 1),
    (5, 72, 40, True, nnx.relu, 2),
    (5, 120, 40, True, nnx.relu, 1),
    (5, 120, 40, True, nnx.relu, 1),
    (3, 240, 80, False, nnx.hard_swish, 2),
    (3, 200, 80, False, nnx.hard_swish, 1),
    (3, 184, 80, False, nnx.hard_swish, 1),
    (3, 184, 80, False, nnx.hard_swish, 1),
    (3, 480, 112, True, nnx.hard_swish, 1),
    (3, 672, 112, True, nnx.hard_swish, 1),
    (5, 672, 160, True, nnx.hard_swish, 2),
    (5, 960, 160, True, nnx.hard_swish, 1),
    (5, 960, 160, True, nnx.hard_swish, 1),
)
SMALL = (
    (3, 16, 16, True, nnx.relu, 2),
    (3, 72, 24, False, nnx.relu, 2),
    (3, 88, 24, False, nnx.relu, 1),
    (5, 96, 40, True, nnx.hard_swish, 2),
    (5, 240, 40, True, nnx.hard_swish, 1),
    (5, 240, 40, True, nnx.hard_swish, 1),
    (5, 120, 48, True, nnx.hard_swish, 1),
    (5, 144, 48, True, nnx.hard_swish, 1),
    (5, 288, 96, True, nnx.hard_swish, 2),
    (5, 576, 96, True, nnx.hard_swish, 1),
    (5, 576, 96, True, nnx.hard_swish, 1),
)


def conv_norm(
    cin, cout, size, *, stride=1, groups=1, activation=None, rngs
) -> Sequential:
    """A convolution, its norm (epsilon 1e-3, momentum 0.01) and the activation."""
    layers = [
        conv(
            cin,
            cout,
            size,
            stride=stride,
            padding=(size - 1) // 2,
            groups=groups,
            rngs=rngs,
        ),
        BatchNorm(cout, eps=1e-3, momentum=0.01, rngs=rngs),
    ]
    return Sequential(layers if activation is None else [*layers, activation])


class SqueezeExcitation(nnx.Module):
    """A factor for each channel, from the means of all (`torchvision.ops`).

    Reference: Hu et al., 2017, arXiv:1709.01507.
    """

    def __init__(self, channels, *, rngs):
        # A quarter, rounded to a multiple of 8, yet not by more than a tenth down.
        quarter = channels // 4
        squeezed = max(8, (quarter + 4) // 8 * 8)
        squeezed += 8 if squeezed < 0.9 * quarter else 0
        self.fc1 = conv(channels, squeezed, 1, bias=True, rngs=rngs)
        self.fc2 = conv(squeezed, channels, 1, bias=True, rngs=rngs)

    def __call__(self, x):
        means = ops.global_avg_pool(x)[:, None, None]
        return x * nnx.hard_sigmoid(self.fc2(nnx.relu(self.fc1(means))))


class InvertedResidual(nnx.Module):
    """Expand with 1x1, filter depthwise, weigh the channels, project with 1x1, add."""

    def __init__(self, cin, row, *, rngs):
        size, hidden, cout, excite, activation, stride = row
        block = partial(conv_norm, rngs=rngs)
        layers: list[nnx.Module] = [
            block(
                hidden,
                hidden,
                size,
                stride=stride,
                groups=hidden,
                activation=activation,
            )
        ]
        if hidden != cin:
            layers.insert(0, block(cin, hidden, 1, activation=activation))
        if excite:
            layers.append(SqueezeExcitation(hidden, rngs=rngs))
        self.block = Sequential([*layers, block(hidden, cout, 1)])
        self.is_residual = stride == 1 and cin == cout

    def __call__(self, x):
        return x + self.block(x) if self.is_residual else self.block(x)


class MobileNetV3(Network):
    """`torchvision.models.MobileNetV3`: normalised images `(n, h, w, 3)` to logits."""

    smallest = 1

    def __init__(self, *, rows, width, num_classes=1000, rngs):
        block = partial(conv_norm, activation=nnx.hard_swish, rngs=rngs)
        cin = 16
        features = Sequential([block(3, cin, 3, stride=2)])
        for row in rows:
            features.append(InvertedResidual(cin, row, rngs=rngs))
            cin = row[2]
        features.append(block(cin, 6 * cin, 1))
        self.features = features
        self.avgpool = ops.global_avg_pool
        self.classifier = Sequential(
            [
                nnx.Linear(6 * cin, width, rngs=rngs),
                nnx.hard_swish,
                nnx.Dropout(0.2, rngs=rngs),
                nnx.Linear(width, num_classes, rngs=rngs),
            ]
        )

    def __call__(self, x):
        return self.classifier(self.avgpool(self.features(x)))

    def trunk(self):
        return tuple(f"features.{i}" for i in range(len(self.features)))


TASK = "imagenet"
VARIANTS = {
    "mobilenet_v3_large": partial(MobileNetV3, rows=LARGE, width=1280),
    "mobilenet_v3_small": partial(MobileNetV3, rows=SMALL, width=1024),
}
ALIASES: dict[str, str] = {}
HEAD = "classifier.3"
INIT = mobilenet.INIT
