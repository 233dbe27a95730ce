"""One convolution function with a rule for each platform."""

import os

import jax
import jax.numpy as jnp
from jax import Array

from jaxvision.ops import conv_rules, onednn
from jaxvision.ops.geometry import LAYOUT, Geometry, plain

VARIABLE = "JAXVISION_CONV"
CHOICES = ("auto", "onednn", "jax", "xla")


def backend() -> str:
    """The convolution back end in use: `"onednn"`, `"jax"` or `"xla"`.

    On GPU and TPU it is XLA's own. On a CPU it is oneDNN where the extension loads,
    else the rules of `conv_rules`; the environment variable `JAXVISION_CONV` (`auto`,
    `onednn`, `jax`, `xla`) chooses another. It is read when a function is traced:
    what is compiled stays as it is. Only `xla` allows forward-mode differentiation.

    Raises:
      ValueError: for an unknown value.
    """
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in CHOICES:
        raise ValueError(
            f"{VARIABLE}={choice!r} is not a convolution back end; "
            f"set it to one of {', '.join(CHOICES)}"
        )
    if choice == "onednn" and not onednn.available():
        raise ValueError(f"{VARIABLE}=onednn, but {onednn.problem()}")
    if choice != "auto":
        return choice
    if _platform() != "cpu":
        return "xla"
    # XLA cannot partition a foreign call: over several devices, each would gather the
    # whole batch and convolve all of it.
    alone = jax.device_count("cpu") == 1
    return "onednn" if alone and onednn.available() else "jax"


def _platform() -> str:
    device = getattr(jax.config, "jax_default_device", None)
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    preferred_element_type=None,
    out_sharding=None,
) -> Array:
    """`jax.lax.conv_general_dilated`, computed by the platform's fastest rule.

    A 2-D convolution of NHWC images by HWIO kernels goes to the back end that
    `backend` names; any other is XLA's. The arguments are those of `jax.lax`.
    """
    chosen = backend()
    geometry = None
    known = chosen != "xla" or _platform() == "cpu"
    if known and out_sharding is None and preferred_element_type is None:
        geometry = _geometry(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
        )
    if chosen == "xla" and geometry is not None:
        return plain(lhs, rhs, geometry, precision=precision)
    if geometry is None:
        options = {} if out_sharding is None else {"out_sharding": out_sharding}
        return jax.lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
            **options,
        )
    if chosen == "onednn" and onednn.multiplies(lhs.dtype):
        return onednn.convolve(lhs, rhs, geometry)
    rule = conv_rules.choose(lhs.shape, rhs.shape, geometry)
    return rule.run(lhs, rhs, geometry, precision)


def _geometry(
    x, w, strides, padding, x_dilation, w_dilation, layout, groups, batch_groups
) -> Geometry | None:
    """The geometry where the call is one that the rules know, else nothing.

    Whatever is wrong with the arguments is left for `jax.lax` to say.
    """
    if not (x.ndim == w.ndim == 4 and x.dtype == w.dtype):
        return None
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    if jax.lax.conv_dimension_numbers(
        x.shape, w.shape, layout
    ) != jax.lax.conv_dimension_numbers(x.shape, w.shape, LAYOUT):
        return None
    if batch_groups != 1 or tuple(x_dilation or (1, 1)) != (1, 1):
        return None
    if x.shape[3] != groups * w.shape[2] or w.shape[3] % groups:
        return None
    strides, dilation = tuple(strides), tuple(w_dilation or (1, 1))
    if len(strides) != 2 or len(dilation) != 2 or min(strides + dilation) < 1:
        return None
    if isinstance(padding, str):
        extent = [(k - 1) * d + 1 for k, d in zip(w.shape[:2], dilation, strict=True)]
        padding = jax.lax.padtype_to_pads(x.shape[1:3], extent, strides, padding)
    (top, bottom), (left, right) = padding
    geometry = Geometry(strides, ((top, bottom), (left, right)), dilation, groups)
    if min(top, bottom, left, right) < 0 or 0 in x.shape + w.shape:
        return None
    return None if 0 in geometry.output(x.shape, w.shape) else geometry
