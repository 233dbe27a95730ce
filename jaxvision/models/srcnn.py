"""SRCNN: three convolutions that sharpen an image scaled up by bicubic interpolation.

Reference: Dong et al., "Image Super-Resolution Using Deep Convolutional Networks",
2014, arXiv:1501.00092.
"""

from functools import partial

from flax import nnx

from jaxvision.models.init import Init, kaiming_normal, normal, zeros
from jaxvision.models.layers import conv
from jaxvision.models.network import Enlarger


class SRCNN(Enlarger):
    """Images `(n, h, w, 3)` in [0, 1], already of the final size, to better ones.

    The borders are padded with zeros, so that the output is as large as the input. It
    is not clipped. With `residual` the layers compute what is added to the input, of
    which they see how far it is from a middle grey: of brightness alone the first steps
    of a training would move all its filters alike, until none gives anything.
    """

    smallest = 1
    takes_enlarged = True

    def __init__(self, *, sizes, scale=2, residual=False, rngs):
        first, second, third = sizes
        self.conv1 = conv(3, 64, first, padding=first // 2, bias=True, rngs=rngs)
        self.conv2 = conv(64, 32, second, padding=second // 2, bias=True, rngs=rngs)
        self.conv3 = conv(32, 3, third, padding=third // 2, bias=True, rngs=rngs)
        self.scale = scale
        self.residual = residual
        self.revision = 2 if residual else 1  # its input was not centred at first

    def __call__(self, x):
        if x.ndim != 4 or x.shape[3] != 3:
            raise ValueError(
                f"SRCNN takes RGB images of shape (n, h, w, 3), got {x.shape}"
            )
        seen = x - 0.5 if self.residual else x
        y = self.conv3(nnx.relu(self.conv2(nnx.relu(self.conv1(seen)))))
        return x + y if self.residual else y


TASK = "superres"
VARIANTS = {
    f"srcnn_{''.join(map(str, sizes))}{suffix}{size}": partial(
        SRCNN, sizes=sizes, scale=scale, residual=bool(suffix)
    )
    for size, scale in (("", 2), ("_x3", 3), ("_x4", 4))
    for suffix in ("", "_residual")
    for sizes in ((9, 5, 5), (9, 1, 5))
}
ALIASES = {"srcnn": "srcnn_955"}
HEAD = ""  # it has no classifier
INIT = Init(
    conv=kaiming_normal("fan_in"),
    conv_bias=zeros,
    # The paper draws all three so; deeper layers would then start with hardly a signal.
    layers={"conv3": Init(conv=normal(1e-3), conv_bias=zeros)},
)
