"""The layers all families share, with torch's semantics and torch's names."""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxvision import ops


class Sequential(nnx.List):
    """Calls its children in order; child `i` has the path `<name>.i`, as in torch.

    Plain functions may stand among the modules and keep the numbering.
    """

    def __call__(self, x):
        for child in self:
            x = child(x)
        return x


class BatchNorm(nnx.Module):
    """`torch.nn.BatchNorm2d`, channels last.

    Unlike `nnx.BatchNorm`: momentum in torch's sense (the weight of the new value), a
    two-pass variance, a running variance that is unbiased, statistics in float32 also
    where the input is bfloat16. Under a sharded batch the statistics are those of the
    whole batch. Reference: Ioffe and Szegedy, 2015, arXiv:1502.03167.
    """

    def __init__(self, features: int, *, eps=1e-5, momentum=0.1, rngs: nnx.Rngs):
        del rngs
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.eps = eps
        self.momentum = momentum
        self.use_running_average = False

    def __call__(self, x):
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(self.var[...] + self.eps)
            offset = bias - self.mean[...] * factor
            shape = (1,) * (x.ndim - 1) + (-1,)
            y = x.astype(jnp.promote_types(x.dtype, factor.dtype)) * factor.reshape(
                shape
            )
            return (y + offset.reshape(shape)).astype(x.dtype)
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(
                f"BatchNorm in training needs more than one value per channel, got "
                f"shape {x.shape}: use a larger batch or larger images"
            )
        y, mean, var = ops.batch_norm_train(x, scale, bias, eps=self.eps)
        unbiased = var * (count / (count - 1))
        self.mean[...] += self.momentum * (mean - self.mean[...])
        self.var[...] += self.momentum * (unbiased - self.var[...])
        return y


def conv(
    cin: int,
    cout: int,
    size: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    bias: bool = False,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """`torch.nn.Conv2d` with symmetric padding, NHWC and HWIO."""
    size = (size, size) if isinstance(size, int) else size
    high, wide = (padding, padding) if isinstance(padding, int) else padding
    return nnx.Conv(
        cin,
        cout,
        size,
        strides=(stride, stride),
        padding=((high, high), (wide, wide)),
        feature_group_count=groups,
        use_bias=bias,
        conv_general_dilated=ops.conv_general_dilated,
        rngs=rngs,
    )


def pixel_shuffle(x, *, scale: int):
    """`torch.nn.PixelShuffle`, depth to space: `scale ** 2` channels become one.

    Reference: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an
    Efficient Sub-Pixel Convolutional Neural Network", 2016, arXiv:1609.05158.
    """
    return rearrange(x, "n h w (c i j) -> n (h i) (w j) c", i=scale, j=scale)


def flatten(x):
    """`torch.nn.Flatten` of a map, channels first, as torch's weights are ordered."""
    return rearrange(x, "n h w c -> n (c h w)")


def max_pool(window: int, stride: int, *, padding: int = 0, ceil_mode: bool = False):
    """`torch.nn.MaxPool2d` as a function that can stand in a `Sequential`."""
    return partial(
        ops.max_pool,
        window=window,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
    )
