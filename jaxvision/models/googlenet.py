"""GoogLeNet, the first Inception network (torchvision.models.googlenet).

Reference: Szegedy et al., 2014, arXiv:1409.4842, with batch normalisation.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from jaxvision import ops
from jaxvision.models.init import Init, truncated_normal
from jaxvision.models.layers import BatchNorm, Sequential, conv, flatten, max_pool
from jaxvision.models.network import Network
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD


class ConvNormRelu(nnx.Module):
    """`BasicConv2d` of torchvision: BatchNorm has an epsilon of 1e-3."""

    def __init__(self, cin, cout, size, *, stride=1, padding=0, rngs):
        self.conv = conv(cin, cout, size, stride=stride, padding=padding, rngs=rngs)
        self.bn = BatchNorm(cout, eps=1e-3, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.bn(self.conv(x)))


class Inception(nnx.Module):
    """Four branches side by side.

    Args:
      cin: channels that come in.
      widths: of the 1x1 branch; of the 3x3 branch, reduced and full; of the "5x5"
        branch, reduced and full; of the branch after the pool.
      rngs: seeds the leaves.
    """

    def __init__(self, cin, widths, *, rngs):
        one, three_in, three, five_in, five, pool = widths
        block = partial(ConvNormRelu, rngs=rngs)
        self.branch1 = block(cin, one, 1)
        self.branch2 = Sequential(
            [block(cin, three_in, 1), block(three_in, three, 3, padding=1)]
        )
        # 3x3 in place of the paper's 5x5: the published weights have it so.
        self.branch3 = Sequential(
            [block(cin, five_in, 1), block(five_in, five, 3, padding=1)]
        )
        self.branch4 = Sequential(
            [max_pool(3, 1, padding=1, ceil_mode=True), block(cin, pool, 1)]
        )

    def __call__(self, x):
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return jnp.concatenate([branch(x) for branch in branches], -1)


class Auxiliary(nnx.Module):
    """A classifier half-way, for training alone."""

    def __init__(self, cin, num_classes, *, rngs):
        self.conv = ConvNormRelu(cin, 128, 1, rngs=rngs)
        self.fc1 = nnx.Linear(2048, 1024, rngs=rngs)
        self.fc2 = nnx.Linear(1024, num_classes, rngs=rngs)
        self.dropout = nnx.Dropout(0.7, rngs=rngs)

    def __call__(self, x):
        x = flatten(self.conv(ops.adaptive_avg_pool(x, (4, 4))))
        return self.fc2(self.dropout(nnx.relu(self.fc1(x))))


class GoogLeNet(Network):
    """`torchvision.models.GoogLeNet`: images `(n, h, w, 3)`, normalised, to logits.

    Unlike torchvision's, it has no auxiliary heads by default, and maps the input to
    [-1, 1] by default, as the ImageNet weights need it and torchvision does wherever
    it loads them. Images have 15 pixels at least.

    Args:
      num_classes: width of the last layer and of the auxiliary ones.
      aux_logits: adds the heads `aux1` and `aux2`; training then gives
        `(logits, aux2, aux1)`.
      transform_input: maps images that were normalised with ImageNet's mean and
        standard deviation to [-1, 1]. It is no part of a state_dict: weights that
        torchvision trained from scratch, by default without it, are those of
        `googlenet_untransformed`.
      rngs: seeds the leaves and dropout.
    """

    smallest = 15
    optional = ("aux1", "aux2")

    def __init__(
        self, *, num_classes=1000, aux_logits=False, transform_input=True, rngs
    ):
        block = partial(ConvNormRelu, rngs=rngs)
        self.conv1 = block(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = max_pool(3, 2, ceil_mode=True)
        self.conv2 = block(64, 64, 1)
        self.conv3 = block(64, 192, 3, padding=1)
        self.maxpool2 = max_pool(3, 2, ceil_mode=True)
        module = partial(Inception, rngs=rngs)
        self.inception3a = module(192, (64, 96, 128, 16, 32, 32))
        self.inception3b = module(256, (128, 128, 192, 32, 96, 64))
        self.inception4a = module(480, (192, 96, 208, 16, 48, 64))
        self.inception4b = module(512, (160, 112, 224, 24, 64, 64))
        self.inception4c = module(512, (128, 128, 256, 24, 64, 64))
        self.inception4d = module(512, (112, 144, 288, 32, 64, 64))
        self.inception4e = module(528, (256, 160, 320, 32, 128, 128))
        self.inception5a = module(832, (256, 160, 320, 32, 128, 128))
        self.inception5b = module(832, (384, 192, 384, 48, 128, 128))
        self.maxpool3 = max_pool(3, 2, ceil_mode=True)
        self.maxpool4 = max_pool(2, 2, ceil_mode=True)
        self.aux1 = Auxiliary(512, num_classes, rngs=rngs) if aux_logits else None
        self.aux2 = Auxiliary(528, num_classes, rngs=rngs) if aux_logits else None
        self.avgpool = ops.global_avg_pool
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.fc = nnx.Linear(1024, num_classes, rngs=rngs)
        self.transform_input = transform_input
        self.deterministic = False  # set by the mode: evaluation needs no other heads

    def __call__(self, x):
        if self.transform_input:
            mean, std = (jnp.array(c, x.dtype) for c in (IMAGENET_MEAN, IMAGENET_STD))
            scale, offset = std / 0.5, (mean - 0.5) / 0.5
            x = x * scale.reshape(1, 1, 1, 3) + offset.reshape(1, 1, 1, 3)
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        middle = self.inception4a(x)
        late = self.inception4d(self.inception4c(self.inception4b(middle)))
        x = self.maxpool4(self.inception4e(late))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(self.avgpool(x)))
        if self.deterministic or self.aux1 is None or self.aux2 is None:
            return logits
        return logits, self.aux2(late), self.aux1(middle)

    @property
    def torch_options(self):
        # In full: torchvision's defaults are not what its own weights need.
        return {
            "aux_logits": self.aux1 is not None,
            "transform_input": self.transform_input,
            "init_weights": True,
        }

    def trunk(self):
        modules = "3a 3b 4a 4b 4c 4d 4e 5a 5b".split()
        return tuple(f"inception{module}" for module in modules)


TASK = "imagenet"
VARIANTS = {
    "googlenet": GoogLeNet,
    "googlenet_untransformed": partial(GoogLeNet, transform_input=False),
}
ALIASES: dict[str, str] = {}
TORCHVISION = {"googlenet_untransformed": "googlenet"}
HEAD = "fc"
INIT = Init(conv=truncated_normal(0.01, 2), linear=truncated_normal(0.01, 2))
