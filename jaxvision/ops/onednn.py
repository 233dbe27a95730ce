"""oneDNN's convolutions, through XLA's foreign function interface, on the CPU.

An optional extension, which `jaxvision.ops.build` builds: `available` says whether it
loads. float32, and bfloat16 on processors that multiply it; forward, input
gradient and kernel gradient are each other's derivatives, so that any order of
reverse-mode differentiation works. Where a float32 result has few channels, XLA's
convolution is two to four times faster than oneDNN's and takes its place; bfloat16 is
not XLA's on a CPU, which widens it. The gradients of depthwise convolutions that oneDNN
computes more slowly in bfloat16 than in float32 are computed in float32, and rounded.
"""

import ctypes
import hashlib
import os
import platform
import sys
from functools import cache, partial
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap

from jaxvision.ops import conv_rules
from jaxvision.ops.geometry import Geometry, plain

RUNTIME = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"
SPIN = "1000"
"""Rounds that a waiting OpenMP thread spins before it sleeps."""
SOURCE = Path(__file__).parents[1] / "onednn.cc"
FEW = 8
"""Channels up to which oneDNN, which pads them to 16, is slower than XLA in float32."""
PER_GROUP = 4
"""Channels a group from which oneDNN's bfloat16 is the faster in all gradients."""
TARGETS = {
    "jaxvision_forward": "JaxvisionForward",
    "jaxvision_input_gradient": "JaxvisionInputGradient",
    "jaxvision_kernel_gradient": "JaxvisionKernelGradient",
}


_native = {"float32"}


@cache
def available() -> bool:
    """Whether oneDNN and the extension load here; tried once a process."""
    return not problem()


def multiplies(dtype) -> bool:
    """Whether oneDNN convolves `dtype` here by instructions made for it.

    That is float32 and, on processors with AVX512-BF16 or AMX, bfloat16.
    """
    return available() and jnp.dtype(dtype).name in _native


@cache
def problem() -> str:
    """Why the extension cannot be used, in one line; empty where it can."""
    if not is_possible():
        return "oneDNN's convolutions are for Linux on x86-64"
    library = installed(RUNTIME, LIBRARY)
    if library is None:
        return f"{LIBRARY} is missing: pip install {RUNTIME}"
    if not extension().exists():
        return "the extension is not built: python -m jaxvision.ops.build"
    try:
        _load(library, extension())
    except (OSError, AttributeError, RuntimeError, ValueError) as error:
        return f"the extension does not load: {error}"
    return ""


def is_possible() -> bool:
    """Whether there is a oneDNN for this platform."""
    return (sys.platform, platform.machine()) == ("linux", "x86_64")


def extension() -> Path:
    """Where the extension of this source and this jaxlib lies, built or not."""
    version = metadata.version("jaxlib")
    digest = hashlib.sha256(SOURCE.read_bytes() + version.encode())
    return SOURCE.with_name(f"onednn.{digest.hexdigest()[:12]}.so")


def installed(package: str, file: str) -> Path | None:
    """Where a file of an installed package lies; None where it does not."""
    try:
        files = metadata.files(package) or ()
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(one.locate())).resolve() for one in files if one.match(file))
    return next((path for path in found if path.exists()), None)


def _load(library: Path, extension: Path) -> None:
    # OpenMP's threads spin after each region and so slow XLA's own; the variable is
    # read once, when the library is loaded, and belongs to the user where it is set.
    quiet = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    if quiet:
        os.environ["GOMP_SPINCOUNT"] = SPIN
    try:
        # Found by its name from here on, wherever the environment lies.
        ctypes.CDLL(str(library), mode=os.RTLD_LOCAL)
    finally:
        if quiet:
            del os.environ["GOMP_SPINCOUNT"]
    symbols = ctypes.CDLL(str(extension), mode=os.RTLD_LOCAL)
    # Now, while there is memory: later the process would end for want of it.
    if not symbols.JaxvisionWarmUp():
        raise RuntimeError("its threads do not start; is there too little memory?")
    # A handler built for a newer jaxlib is refused here, and the rules in JAX serve;
    # had XLA's client not started yet, it would be its start that fails.
    jax.devices("cpu")
    if symbols.JaxvisionHasBfloat16():
        _native.add("bfloat16")
    for target, symbol in TARGETS.items():
        handler = jax.ffi.pycapsule(getattr(symbols, symbol))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")


def _call(target: str, shape: tuple, geometry: Geometry, a: Array, b: Array) -> Array:
    """Calls `target`; `vmap` over it is a loop of calls."""
    numbers = np.array(
        [
            *geometry.strides,
            *geometry.padding[0],
            *geometry.padding[1],
            *geometry.dilation,
            geometry.groups,
        ],
        np.int64,
    )
    call = jax.ffi.ffi_call(
        target, jax.ShapeDtypeStruct(shape, a.dtype), vmap_method="sequential"
    )
    return call(a, b, geometry=numbers)


def _folding(function, fold):
    """`function(a, b)`, whose `vmap` over `a` alone folds the axis into the batch."""
    batched = custom_vmap(function)

    @batched.def_vmap
    def rule(axis_size, in_batched, a, b):
        if fold and in_batched == [True, False]:
            out = batched(a.reshape(-1, *a.shape[2:]), b)
            return out.reshape(axis_size, -1, *out.shape[1:]), True
        mapped = jax.vmap(function, [0 if flag else None for flag in in_batched])
        return mapped(a, b), True

    return batched


def _few(dtype, channels: int, kernel: tuple, geometry: Geometry) -> bool:
    """Whether XLA is the faster for a result of so many channels."""
    simple = geometry.strides == geometry.dilation == (1, 1) and geometry.groups == 1
    few = simple and channels <= FEW and kernel[:2] != (1, 1)
    return few and dtype == jnp.float32


def _in_float32(function, a, b):
    """`function` of bfloat16 arguments, computed in float32 and rounded once."""
    return function(*(p.astype(jnp.float32) for p in (a, b))).astype(a.dtype)


# In bfloat16 oneDNN pads the channels of each group to 16 or more, where in float32 it
# has an implementation for depthwise kernels: 10 to 80 times the CPU time.


def _pads_input_gradient(dtype, kernel: tuple, geometry: Geometry) -> bool:
    """Whether float32 is the faster for the gradient of the input."""
    strided = geometry.groups > 1 and geometry.strides != (1, 1)
    return dtype == jnp.bfloat16 and strided and kernel[2] < PER_GROUP


def _pads_kernel_gradient(dtype, kernel: tuple, geometry: Geometry) -> bool:
    """Whether float32 is the faster for the gradient of the kernel."""
    few = geometry.groups > 1 and kernel[2] < PER_GROUP
    depthwise = kernel[2] == 1 and kernel[3] == geometry.groups
    small = max(kernel[:2]) <= 3 and geometry.dilation == (1, 1)
    return dtype == jnp.bfloat16 and few and not (depthwise and small)


def convolve(x: Array, w: Array, geometry: Geometry) -> Array:
    """The convolution of NHWC images by an HWIO kernel, summed in float32.

    Raises:
      ValueError: the two are not of one dtype that `multiplies` has. Shapes are
        checked when the call runs.
    """
    if x.dtype != w.dtype or not multiplies(x.dtype):
        raise ValueError(
            f"oneDNN convolves {' and '.join(sorted(_native))} here, not {x.dtype} by "
            f"{w.dtype}"
        )
    return _forward(x, w, geometry)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _forward(x, w, geometry):
    def call(x, w):
        if _few(w.dtype, w.shape[3], w.shape, geometry):
            return plain(x, w, geometry)
        shape = geometry.output(x.shape, w.shape)
        return _call("jaxvision_forward", shape, geometry, x, w)

    return _folding(call, True)(x, w)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _input_gradient(g, w, geometry, size):
    def call(g, w):
        if _pads_input_gradient(w.dtype, w.shape, geometry):
            return _in_float32(call, g, w)
        shape = (g.shape[0], *size, w.shape[2] * geometry.groups)
        if _few(w.dtype, w.shape[2], w.shape, geometry):
            return conv_rules.input_gradient(g, w, geometry, shape)
        return _call("jaxvision_input_gradient", shape, geometry, g, w)

    return _folding(call, True)(g, w)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel_gradient(x, g, geometry, size):
    def call(x, g):
        shape = (*size, x.shape[3] // geometry.groups, g.shape[3])
        if _pads_kernel_gradient(g.dtype, shape, geometry):
            return _in_float32(call, x, g)
        if _few(g.dtype, g.shape[3], shape, geometry) and shape[2] > shape[3]:
            return conv_rules.narrow_kernel_gradient(x, g, geometry, shape)
        return _call("jaxvision_kernel_gradient", shape, geometry, x, g)

    return _folding(call, False)(x, g)


# A convolution is linear in each argument, so that the three give one another's
# gradients: first arguments (x, g, x), second (w, w, g), results (g, x, w).


def _forward_vjp(geometry, saved, g):
    x, w = saved
    return (
        _input_gradient(g, w, geometry, x.shape[1:3]),
        _kernel_gradient(x, g, geometry, w.shape[:2]),
    )


def _input_gradient_vjp(geometry, size, saved, x):
    del size
    g, w = saved
    return (
        _forward(x, w, geometry),
        _kernel_gradient(x, g, geometry, w.shape[:2]),
    )


def _kernel_gradient_vjp(geometry, size, saved, w):
    del size
    x, g = saved
    return (
        _input_gradient(g, w, geometry, x.shape[1:3]),
        _forward(x, w, geometry),
    )


_forward.defvjp(lambda x, w, *rest: (_forward(x, w, *rest), (x, w)), _forward_vjp)
_input_gradient.defvjp(
    lambda g, w, *rest: (_input_gradient(g, w, *rest), (g, w)), _input_gradient_vjp
)
_kernel_gradient.defvjp(
    lambda x, g, *rest: (_kernel_gradient(x, g, *rest), (x, g)), _kernel_gradient_vjp
)
