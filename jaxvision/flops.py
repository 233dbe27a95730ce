"""What a model costs: the multiply-adds of one image, counted without computing."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxvision import models
from jaxvision.functional import functionalize, modules


def multiply_adds(name: str, *, size: int, num_classes: int = 1000) -> int:
    """Multiply-adds of one image's evaluation, in convolutions and matrix products.

    Divided by 1e9 it is what torchvision's tables of weights call GFLOPS: one
    multiplication and its addition count as one. As there, nothing else counts: no
    BatchNorm, activation, pooling or bias.

    Args:
      name: a row of `models.VARIANTS` or an alias.
      size: side of the image in pixels.
      num_classes: width of the last layer; without a meaning for `srcnn`.

    Raises:
      ValueError: no such model, or the image is too small for it.
    """
    model = models.abstract(name, num_classes=num_classes)
    for _, module in modules(model):
        if isinstance(module, nnx.Conv):
            # The rules of `ops` hide a convolution in a foreign call, or count more.
            module.conv_general_dilated = jax.lax.conv_general_dilated
    apply, params, stats = functionalize(model)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return _count(jax.make_jaxpr(apply)(params, stats, image).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(
        _products(equation)
        + equation.params.get("length", 1) * sum(map(_count, _inner(equation)))
        for equation in jaxpr.eqns
    )


def _products(equation: Any) -> int:
    """Multiplications of one operation: those of each output, times the outputs."""
    shapes = [variable.aval.shape for variable in equation.invars]
    outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if equation.primitive.name == "conv_general_dilated":
        # The kernel has already a group's inputs alone.
        place = equation.params["dimension_numbers"].rhs_spec[0]
        return outputs * math.prod(shapes[1]) // shapes[1][place]
    if equation.primitive.name == "dot_general":
        (summed, _), _ = equation.params["dimension_numbers"]
        return outputs * math.prod(shapes[0][axis] for axis in summed)
    return 0


def _inner(equation: Any) -> Iterator[Jaxpr]:
    """The programs inside an operation, such as those of `jit` and `scan`."""
    for value in equation.params.values():
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
