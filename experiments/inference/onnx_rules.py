"""A network as an ONNX graph: its jaxpr, translated primitive by primitive.

Only what classifiers are made of has a rule; whatever else is met is an error that
names it. What does not hang on the images is computed here and becomes a constant.
Arrays of four dimensions stand in the graph as ONNX has images, channels first, so that
no transposition is left between two layers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from onnx import helper

from experiments.inference.onnx_graph import FIRST, LAST, Graph

CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call")
SAME = ("optimization_barrier", "stop_gradient", "copy", "copy_p")
ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "div": "Div",
    "eq": "Equal",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
REDUCTIONS = {
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_sum": "ReduceSum",
}
BACKWARD = -(2**31)
"""Before the first element: where a slice ends that goes backwards."""

Operand = str | np.ndarray
"""The name of what hangs on the images; else the array itself, in our layout."""


class UntranslatableError(ValueError):
    """A network holds something that has no rule."""


def translate(graph: Graph, closed: core.ClosedJaxpr, images: str) -> str:
    """Adds a network to a graph.

    Args:
      graph: is added to.
      closed: takes one batch of images and gives one array of two dimensions.
      images: what the graph calls that batch, channels first.

    Returns:
      What the graph calls the result.

    Raises:
      UntranslatableError: the network holds what has no rule.
    """
    (result,) = _run(graph, closed.jaxpr, closed.consts, [images])
    if not isinstance(result, str):
        raise UntranslatableError("what the network gives does not hang on its images")
    return result


def _run(graph: Graph, jaxpr: Any, consts: Sequence[Any], given: Sequence[Operand]):
    """What a jaxpr gives, of operands."""
    known: dict[Any, Operand] = {
        variable: np.asarray(value)
        for variable, value in zip(jaxpr.constvars, consts, strict=True)
    }
    known |= dict(zip(jaxpr.invars, given, strict=True))

    def read(atom) -> Operand:
        return np.asarray(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        found = _apply(graph, equation, [read(atom) for atom in equation.invars])
        known |= dict(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(graph: Graph, equation: Any, operands: list[Operand]) -> Sequence[Operand]:
    name, params = equation.primitive.name, equation.params
    if name in SAME:
        return operands
    if name == "custom_vjp_call" and (pool := _pool(equation)):
        return [graph.add("MaxPool", _text(operands[0]), options=pool)]
    if name in CALLS or name == "custom_vjp_call":
        inner = params["call_jaxpr" if "call_jaxpr" in params else "jaxpr"]
        return _run(graph, inner.jaxpr, inner.consts, operands)
    if name == "broadcast_in_dim" and isinstance(operands[0], np.ndarray):
        return [_broadcast_constant(equation, operands[0])]
    arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
    if len(arrays) == len(operands):
        found = equation.primitive.bind(*arrays, **params)
        found = found if equation.primitive.multiple_results else [found]
        return [np.asarray(one) for one in found]
    if name in ELEMENTWISE:
        return [graph.add(ELEMENTWISE[name], *_texts(graph, operands))]
    if name not in RULES:
        raise UntranslatableError(f"ONNX: there is no rule for JAX's {name}")
    return [RULES[name](graph, equation, operands)]


def _texts(graph: Graph, operands: Sequence[Operand]) -> list[str]:
    """Their names; an array becomes a constant, an image's with its channels first."""
    return [
        operand
        if isinstance(operand, str)
        else graph.constant(operand.transpose(FIRST) if operand.ndim == 4 else operand)
        for operand in operands
    ]


def _text(operand: Operand) -> str:
    if not isinstance(operand, str):
        raise UntranslatableError("ONNX: a constant stands where images are expected")
    return operand


def _place(axis: int, rank: int) -> int:
    """Where the graph has an axis of ours."""
    return LAST[axis] if rank == 4 else axis


def _stored(values: Sequence[Any]) -> list[Any]:
    """One value an axis of ours, in the order of the graph's axes."""
    return [values[axis] for axis in FIRST] if len(values) == 4 else list(values)


def _ours(graph: Graph, name: str, rank: int) -> str:
    return graph.transposed(name, LAST) if rank == 4 else name


def _theirs(graph: Graph, name: str, rank: int) -> str:
    return graph.transposed(name, FIRST) if rank == 4 else name


def _sizes(shape: Sequence[Any]) -> list[int]:
    """A shape as Reshape takes it: -1 is the number of images, which is a symbol."""
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) > 1:
        raise UntranslatableError(f"ONNX: the shape {shape} has two unknown sizes")
    return sizes


def _broadcast_constant(equation: Any, array: np.ndarray) -> np.ndarray:
    """A constant with axes of one element where the number of images is a symbol."""
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    narrow = [1] * len(shape)
    for axis, size in zip(axes, array.shape, strict=True):
        narrow[axis] = size
    wide = [
        n if not isinstance(s, int) else s for n, s in zip(narrow, shape, strict=True)
    ]
    return np.broadcast_to(array.reshape(narrow), wide)


def _broadcast(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    before = equation.invars[0].aval.shape
    narrow: list[Any] = [1] * len(shape)
    for axis, size in zip(axes, before, strict=True):
        narrow[axis] = size
    name = _ours(graph, _text(operands[0]), len(before))
    name = graph.add("Reshape", name, graph.integers(*_sizes(narrow)))
    if list(narrow) != list(shape):
        wide = [1 if n == s else s for n, s in zip(narrow, shape, strict=True)]
        if -1 in _sizes(wide):
            raise UntranslatableError("ONNX: a value is repeated once an image")
        name = graph.add("Expand", name, graph.integers(*wide))
    return _theirs(graph, name, len(shape))


def _reshape(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    shape = equation.outvars[0].aval.shape
    name = _ours(graph, _text(operands[0]), len(equation.invars[0].aval.shape))
    name = graph.add("Reshape", name, graph.integers(*_sizes(shape)))
    return _theirs(graph, name, len(shape))


def _transpose(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    axes = equation.params["permutation"]
    order = [_place(axis, len(axes)) for axis in axes]
    return graph.transposed(_text(operands[0]), _stored(order))


def _concatenate(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    rank = len(equation.outvars[0].aval.shape)
    axis = _place(equation.params["dimension"], rank)
    return graph.add("Concat", *_texts(graph, operands), options={"axis": axis})


def _slice(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    shape, params = equation.invars[0].aval.shape, equation.params
    steps = params["strides"] or (1,) * len(shape)
    rows = [
        (start, stop, _place(axis, len(shape)), step)
        for axis, (start, stop, step) in enumerate(
            zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        )
        if (start, stop, step) != (0, shape[axis], 1)
    ]
    if any(not isinstance(value, int) for row in rows for value in row):
        raise UntranslatableError("ONNX: a part of the images is taken")
    columns = [graph.integers(*column) for column in zip(*rows, strict=True)]
    name = _text(operands[0])
    return graph.add("Slice", name, *columns) if rows else name


def _reverse(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    rank, axes = len(equation.outvars[0].aval.shape), equation.params["dimensions"]
    rows = [(-1, BACKWARD, _place(axis, rank), -1) for axis in axes]
    columns = [graph.integers(*column) for column in zip(*rows, strict=True)]
    return graph.add("Slice", _text(operands[0]), *columns)


def _pad(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    rows = _stored(equation.params["padding_config"])
    if any(inner for _, _, inner in rows):
        raise UntranslatableError("ONNX: there is no rule for padding between pixels")
    pads = [int(low) for low, _, _ in rows] + [int(high) for _, high, _ in rows]
    (value,) = _texts(graph, operands[1:])
    return graph.add("Pad", _text(operands[0]), graph.integers(*pads), value)


def _reduce(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    axes, rank = equation.params["axes"], len(equation.invars[0].aval.shape)
    places = sorted(_place(axis, rank) for axis in axes)
    name = graph.add(
        REDUCTIONS[equation.primitive.name],
        _text(operands[0]),
        graph.integers(*places),
        options={"keepdims": 0},
    )
    left = [axis for axis in _stored(range(rank)) if axis not in axes]
    name = graph.transposed(name, [left.index(axis) for axis in sorted(left)])
    return _theirs(graph, name, len(left))


def _window_sum(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    params = equation.params
    window, strides = _stored(params["window_dimensions"]), params["window_strides"]
    plain = all(
        value in (0, 1, (0, 0))
        for name in ("padding", "base_dilation", "window_dilation")
        for value in params[name]
    )
    if len(window) != 4 or window[:2] != [1, 1] or not plain:
        raise UntranslatableError("ONNX: there is no rule for such windows")
    mean = graph.add(
        "AveragePool",
        _text(operands[0]),
        options={"kernel_shape": window[2:], "strides": _stored(strides)[2:]},
    )
    dtype = equation.outvars[0].aval.dtype
    return graph.add("Mul", mean, graph.constant(np.prod(window), dtype=dtype))


def _convolution(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    params, kernel = equation.params, operands[1]
    layout = params["dimension_numbers"]
    images_last = layout.lhs_spec == layout.out_spec == FIRST
    plain = set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1
    if not (images_last and plain and isinstance(kernel, np.ndarray)):
        raise UntranslatableError("ONNX: there is no rule for such a convolution")
    weights = graph.constant(kernel.transpose(layout.rhs_spec))
    (top, bottom), (left, right) = params["padding"]
    return graph.add(
        "Conv",
        _text(operands[0]),
        weights,
        options={
            "kernel_shape": [kernel.shape[axis] for axis in layout.rhs_spec[2:]],
            "strides": list(params["window_strides"]),
            "pads": [top, left, bottom, right],
            "dilations": list(params["rhs_dilation"]),
            "group": params["feature_group_count"],
        },
    )


def _product(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    (ours, theirs), batch = equation.params["dimension_numbers"]
    weights = operands[1]
    plain = isinstance(weights, np.ndarray) and weights.ndim == 2
    if not plain or any(batch) or tuple(ours) != (1,) or len(theirs) != 1:
        raise UntranslatableError("ONNX: there is no rule for such a product")
    weights = weights if theirs[0] == 0 else np.transpose(weights)
    return graph.add("MatMul", _text(operands[0]), graph.constant(weights))


def _cast(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return graph.add("Cast", _text(operands[0]), options={"to": to})


def _rsqrt(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    return graph.add("Reciprocal", graph.add("Sqrt", _text(operands[0])))


def _integer_pow(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    power = graph.constant(equation.params["y"], dtype=np.float32)
    return graph.add("Pow", _text(operands[0]), power)


def _square(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    return graph.add("Mul", _text(operands[0]), _text(operands[0]))


def _clamp(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    low, name, high = _texts(graph, operands)
    return graph.add("Min", graph.add("Max", name, low), high)


def _select(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    which, no, yes = _texts(graph, operands)
    return graph.add("Where", which, yes, no)


def _is_finite(graph: Graph, equation: Any, operands: list[Operand]) -> str:
    name = _text(operands[0])
    either = graph.add("Or", graph.add("IsInf", name), graph.add("IsNaN", name))
    return graph.add("Not", either)


RULES: dict[str, Callable[[Graph, Any, list[Operand]], str]] = {
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _product,
    "expand_dims": _reshape,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "pad": _pad,
    "reduce_window_sum": _window_sum,
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "square": _square,
    "squeeze": _reshape,
    "transpose": _transpose,
    **dict.fromkeys(REDUCTIONS, _reduce),
}


def _pool(equation: Any) -> dict[str, Any] | None:
    """What `ops.max_pool` is to ONNX; nothing where the call is another.

    It is the maximum over one strided view of the padded images a place of the window.
    """
    parts = list(_flat(equation.params["call_jaxpr"].jaxpr))
    names = [part.primitive.name for part in parts]
    if set(names) - {"pad", "slice", "max", "convert_element_type"}:
        return None
    slices = [part.params for part in parts if part.primitive.name == "slice"]
    if names.count("pad") != 1 or not slices:
        return None
    pads = parts[names.index("pad")].params["padding_config"]
    window = [1 + max(one["start_indices"][axis] for one in slices) for axis in (1, 2)]
    return {
        "kernel_shape": window,
        "strides": list(slices[0]["strides"] or (1,) * 4)[1:3],
        "pads": [int(pads[axis][side]) for side in (0, 1) for axis in (1, 2)],
    }


def _flat(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in CALLS:
            yield from _flat(equation.params["jaxpr"].jaxpr)
        else:
            yield equation


def trace(network: Callable[[Any], Any], *, crop: int) -> core.ClosedJaxpr:
    """The jaxpr of a network for any number of uint8 images of one size."""
    (count,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((count, crop, crop, 3), np.uint8)
    return jax.make_jaxpr(network)(shape)
