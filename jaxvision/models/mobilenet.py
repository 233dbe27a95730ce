"""MobileNet-v2 (torchvision.models.mobilenetv2).

Reference: Sandler et al., 2018, arXiv:1801.04381.
"""

from flax import nnx

from jaxvision import ops
from jaxvision.models.init import Init, kaiming_normal, normal, zeros
from jaxvision.models.layers import BatchNorm, Sequential, conv
from jaxvision.models.network import Network

# expansion, channels, repeats, first stride
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_norm_relu6(cin, cout, size, *, stride=1, groups=1, rngs) -> Sequential:
    """`torchvision.ops.Conv2dNormActivation` with ReLU6."""
    return Sequential(
        [
            conv(
                cin,
                cout,
                size,
                stride=stride,
                padding=(size - 1) // 2,
                groups=groups,
                rngs=rngs,
            ),
            BatchNorm(cout, rngs=rngs),
            nnx.relu6,
        ]
    )


class InvertedResidual(nnx.Module):
    """Expand with 1x1, filter depthwise, project with 1x1, add where shapes agree."""

    def __init__(self, cin, cout, *, stride, expansion, rngs):
        hidden = cin * expansion
        layers = [
            conv_norm_relu6(hidden, hidden, 3, stride=stride, groups=hidden, rngs=rngs),
            conv(hidden, cout, 1, rngs=rngs),
            BatchNorm(cout, rngs=rngs),
        ]
        if expansion != 1:
            layers.insert(0, conv_norm_relu6(cin, hidden, 1, rngs=rngs))
        self.conv = Sequential(layers)
        self.is_residual = stride == 1 and cin == cout

    def __call__(self, x):
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNetV2(Network):
    """`torchvision.models.MobileNetV2`: normalised images `(n, h, w, 3)` to logits."""

    smallest = 1

    def __init__(self, *, num_classes=1000, rngs):
        cin = 32
        features = Sequential([conv_norm_relu6(3, cin, 3, stride=2, rngs=rngs)])
        for expansion, channels, repeats, first_stride in STAGES:
            for index in range(repeats):
                features.append(
                    InvertedResidual(
                        cin,
                        channels,
                        stride=first_stride if index == 0 else 1,
                        expansion=expansion,
                        rngs=rngs,
                    )
                )
                cin = channels
        features.append(conv_norm_relu6(cin, 1280, 1, rngs=rngs))
        self.features = features
        self.classifier = Sequential(
            [nnx.Dropout(0.2, rngs=rngs), nnx.Linear(1280, num_classes, rngs=rngs)]
        )

    def __call__(self, x):
        return self.classifier(ops.global_avg_pool(self.features(x)))

    def trunk(self):
        return tuple(f"features.{i}" for i in range(len(self.features)))


TASK = "imagenet"
VARIANTS = {"mobilenet_v2": MobileNetV2}
ALIASES = {"mobilenet": "mobilenet_v2"}
HEAD = "classifier.1"
INIT = Init(
    conv=kaiming_normal("fan_out"),
    conv_bias=zeros,
    linear=normal(0.01),
    linear_bias=zeros,
)
