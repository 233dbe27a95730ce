"""Batch normalisation in training mode."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x, scale, bias, eps):
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps):
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(axes, keepdims=True)
    var = jnp.square(wide - mean).mean(axes, keepdims=True)
    rstd = jax.lax.rsqrt(var + eps)
    y = (wide - mean) * (rstd * scale.reshape(mean.shape)) + bias.reshape(mean.shape)
    out = y.astype(x.dtype), mean.reshape(-1), var.reshape(-1)
    return out, (x, scale, bias, mean, rstd)


def _backward(eps, saved, gradients):
    x, scale, bias, mean, rstd = saved
    axes = tuple(range(x.ndim - 1))
    g = gradients[0].astype(mean.dtype)
    count = x.size // x.shape[-1]
    unit = (x.astype(mean.dtype) - mean) * rstd
    bias_gradient = g.sum(axes, keepdims=True)
    scale_gradient = (g * unit).sum(axes, keepdims=True)
    slope = rstd * scale.reshape(mean.shape)
    gradient = slope * (g - (bias_gradient + unit * scale_gradient) / count)
    return (
        gradient.astype(x.dtype),
        scale_gradient.reshape(-1).astype(scale.dtype),
        bias_gradient.reshape(-1).astype(bias.dtype),
    )


_normalize.defvjp(_forward, _backward)


def batch_norm_train(
    x: Array, scale: Array, bias: Array, *, eps: float
) -> tuple[Array, Array, Array]:
    """Normalises `x` over all its axes but the last by the batch's own statistics.

    Two passes, in float32 at least: the mean of squares less the squared mean loses
    digits. The gradient is the closed form, two sums where autodiff takes many more.

    Args:
      x: any rank, channels last.
      scale: one factor a channel.
      bias: one summand a channel.
      eps: added to the variance.

    Returns:
      The output in the dtype of `x`, then the mean and the biased variance, which
      carry no gradient.

    Reference: Ioffe and Szegedy, https://arxiv.org/abs/1502.03167; agrees with
    `torch.nn.functional.batch_norm(training=True)` (tests/test_ops.py).
    """
    return _normalize(x, scale, bias, eps)
