"""Convolution, normalisation and pooling, with PyTorch's rules and each platform's."""

from jaxvision.ops.convolution import VARIABLE, backend, conv_general_dilated
from jaxvision.ops.memory import keep_pages
from jaxvision.ops.normalization import batch_norm_train
from jaxvision.ops.pooling import (
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    max_pool,
)

__all__ = [
    "VARIABLE",
    "adaptive_avg_pool",
    "avg_pool",
    "backend",
    "batch_norm_train",
    "conv_general_dilated",
    "global_avg_pool",
    "keep_pages",
    "max_pool",
]
