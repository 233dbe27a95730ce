"""ResNet, ResNeXt and Wide ResNet (torchvision.models.resnet).

References: He et al., 2015, arXiv:1512.03385, with the stride in the 3x3 convolution
("v1.5"); Xie et al., 2016, arXiv:1611.05431; Zagoruyko and Komodakis, 2016,
arXiv:1605.07146.
"""

from functools import partial

from flax import nnx

from jaxvision import ops
from jaxvision.models.init import Init, kaiming_normal
from jaxvision.models.layers import BatchNorm, Sequential, conv, max_pool
from jaxvision.models.network import Network


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, cin, width, *, stride, groups, base_width, rngs):
        if groups != 1 or base_width != 64:
            raise ValueError("BasicBlock takes groups=1 and base_width=64 alone")
        self.conv1 = conv(cin, width, 3, stride=stride, padding=1, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, padding=1, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.downsample = shortcut(cin, width, stride=stride, rngs=rngs)
        self.relu = nnx.relu

    def __call__(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (grouped or wide, and with the stride) and 1x1 around a shortcut."""

    expansion = 4

    def __init__(self, cin, width, *, stride, groups, base_width, rngs):
        inner = width * base_width // 64 * groups
        cout = width * self.expansion
        self.conv1 = conv(cin, inner, 1, rngs=rngs)
        self.bn1 = BatchNorm(inner, rngs=rngs)
        self.conv2 = conv(
            inner, inner, 3, stride=stride, padding=1, groups=groups, rngs=rngs
        )
        self.bn2 = BatchNorm(inner, rngs=rngs)
        self.conv3 = conv(inner, cout, 1, rngs=rngs)
        self.bn3 = BatchNorm(cout, rngs=rngs)
        self.downsample = shortcut(cin, cout, stride=stride, rngs=rngs)
        self.relu = nnx.relu

    def __call__(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))


def shortcut(cin: int, cout: int, *, stride: int, rngs: nnx.Rngs) -> Sequential:
    """The identity where shapes agree, else a strided 1x1 convolution with its norm."""
    if stride == 1 and cin == cout:
        return Sequential([])
    return Sequential(
        [conv(cin, cout, 1, stride=stride, rngs=rngs), BatchNorm(cout, rngs=rngs)]
    )


class ResNet(Network):
    """`torchvision.models.ResNet`: images `(n, h, w, 3)`, normalised, to logits."""

    smallest = 1

    def __init__(
        self, *, block, depths, groups=1, base_width=64, num_classes=1000, rngs
    ):
        self.conv1 = conv(3, 64, 7, stride=2, padding=3, rngs=rngs)
        self.bn1 = BatchNorm(64, rngs=rngs)
        self.relu = nnx.relu
        self.maxpool = max_pool(3, 2, padding=1)
        cin = 64
        stages = []
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            blocks = Sequential([])
            for index in range(depth):
                blocks.append(
                    block(
                        cin,
                        width,
                        stride=2 if stage > 0 and index == 0 else 1,
                        groups=groups,
                        base_width=base_width,
                        rngs=rngs,
                    )
                )
                cin = width * block.expansion
            stages.append(blocks)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = ops.global_avg_pool
        self.fc = nnx.Linear(cin, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x))

    def trunk(self):
        return ("layer1", "layer2", "layer3", "layer4")


_deep = partial(ResNet, block=Bottleneck)

TASK = "imagenet"
VARIANTS = {
    "resnet18": partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, block=BasicBlock, depths=(3, 4, 6, 3)),
    "resnet50": partial(_deep, depths=(3, 4, 6, 3)),
    "resnet101": partial(_deep, depths=(3, 4, 23, 3)),
    "resnet152": partial(_deep, depths=(3, 8, 36, 3)),
    "resnext50_32x4d": partial(_deep, depths=(3, 4, 6, 3), groups=32, base_width=4),
    "resnext101_32x8d": partial(_deep, depths=(3, 4, 23, 3), groups=32, base_width=8),
    "resnext101_64x4d": partial(_deep, depths=(3, 4, 23, 3), groups=64, base_width=4),
    "wide_resnet50_2": partial(_deep, depths=(3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": partial(_deep, depths=(3, 4, 23, 3), base_width=128),
}
ALIASES = {
    "resnext50": "resnext50_32x4d",
    "wrn50_2": "wide_resnet50_2",
    "wrn101_2": "wide_resnet101_2",
}
HEAD = "fc"
INIT = Init(conv=kaiming_normal("fan_out"))
