"""The resize and crop of a photograph in ONNX's own operators, with Pillow's bits.

ONNX has an antialiased Resize, but its rounding is another: with onnxruntime up to one
pixel in a hundred is a level off, which moves probabilities by a hundredth. Pillow's
two passes are products with matrices of whole numbers, which float64 computes exactly.
"""

import PIL
from onnx import TensorProto, helper

from experiments.inference.onnx_graph import FIRST, LAST, Graph
from jaxvision.resize import PRECISION

TURNED = (0, 1, 3, 2)
"""Rows for columns, where the channels come first."""
ONE = float(2**PRECISION)
"""What Pillow has for a weight of one."""


def add_crop(graph: Graph, photos: str, *, resize: int, crop: int, output: str) -> str:
    """Adds `preprocess.eval_image` for a batch of photos of one size, unknown yet.

    Args:
      graph: is added to.
      photos: uint8 `(n, height, width, 3)`.
      resize: the short side in pixels.
      crop: side of the square in its middle.
      output: the name of what comes out, uint8 `(n, crop, crop, 3)`.
    """
    height = graph.add("Shape", photos, options={"start": 1, "end": 2})
    width = graph.add("Shape", photos, options={"start": 2, "end": 3})
    short = graph.add("Min", height, width)
    rows, columns = (
        _weights(graph, side, short, resize=resize, crop=crop)
        for side in (height, width)
    )
    x = graph.transposed(photos, FIRST)
    # Columns first and rounded between, as Pillow does.
    tall = None
    if int(PIL.__version__.split(".")[0]) >= 13:
        tall = _rows_first(graph, height, width, resize=resize)
        x = _choose(graph, tall, graph.transposed(x, TURNED), x)
        rows, columns = (
            _choose(graph, tall, columns, rows),
            _choose(graph, tall, rows, columns),
        )
    across = graph.transposed(columns, (1, 0))
    x = _rounded(graph, graph.add("MatMul", _float(graph, x), across))
    x = _rounded(graph, graph.add("MatMul", rows, x))
    if tall is not None:
        x = graph.add("Where", tall, graph.transposed(x, TURNED), x)
    x = graph.add("Cast", x, options={"to": int(TensorProto.UINT8)})
    return graph.add("Transpose", x, output=output, options={"perm": list(LAST)})


def _weights(graph: Graph, side: str, short: str, *, resize: int, crop: int) -> str:
    """What each pixel of a side weighs in each of the crop's: `(crop, side)`.

    Those of `resize.interpolation_taps` in Pillow's fixed point; a row of the crop that
    is outside the resized photo has none, and comes out black.
    """
    one, two = graph.integers(1), graph.integers(2)
    # Whole numbers divide to the floor, as the rule has it.
    size = graph.add("Div", graph.add("Mul", graph.integers(resize), side), short)
    lack = graph.add("Sub", graph.integers(crop), size)
    before = graph.add("Div", graph.add("Max", lack, graph.integers(0)), two)
    spare = graph.add("Max", graph.add("Neg", lack), graph.integers(0))
    half = graph.add("Div", spare, two)
    # Half a pixel goes to the even one, as Python's round has it.
    odd = graph.add("Mul", graph.add("Mod", spare, two), graph.add("Mod", half, two))
    first = graph.add("Sub", graph.add("Add", half, odd), before)
    # One column: the places of the crop's pixels in the resized photo.
    place = graph.add(
        "Add", graph.constant([[i] for i in range(crop)], dtype="int64"), first
    )
    scale = graph.add("Div", _float(graph, side), _float(graph, size))
    stretch = graph.add("Max", scale, _number(graph, 1))
    center = graph.add(
        "Mul", graph.add("Add", _float(graph, place), _number(graph, 0.5)), scale
    )
    count = graph.add("Squeeze", side)
    zero, step = (graph.constant(value, dtype="int64") for value in (0, 1))
    pixel = _float(graph, graph.add("Range", zero, count, step))
    pixel = graph.add("Add", pixel, _number(graph, 0.5))
    distance = graph.add("Div", graph.add("Sub", pixel, center), stretch)
    weight = graph.add("Sub", _number(graph, 1), graph.add("Abs", distance))
    weight = graph.add("Max", weight, _number(graph, 0))
    total = graph.add("ReduceSum", weight, one, options={"keepdims": 1})
    inside = graph.add(
        "And",
        graph.add("GreaterOrEqual", place, graph.integers(0)),
        graph.add("Less", place, size),
    )
    weight = graph.add("Div", weight, graph.add("Max", total, _number(graph, 1e-9)))
    weight = graph.add("Mul", weight, _number(graph, ONE))
    weight = graph.add("Floor", graph.add("Add", weight, _number(graph, 0.5)))
    return graph.add("Where", inside, weight, _number(graph, 0))


def _rows_first(graph: Graph, height: str, width: str, *, resize: int) -> str:
    """Whether Pillow, from 13 on, resizes the rows before the columns.

    It does where a photo shrinks that is more than twice as tall as wide.
    """
    twice = graph.add("Mul", width, graph.integers(2))
    shrinks = graph.add("Greater", width, graph.integers(resize))
    tall = graph.add("And", graph.add("Greater", height, twice), shrinks)
    return graph.add("Squeeze", tall)


def _choose(graph: Graph, condition: str, yes: str, no: str) -> str:
    """One of two arrays, which may differ in shape."""
    branches = {}
    for name, value in (("then_branch", yes), ("else_branch", no)):
        out = f"{name}_{len(graph.nodes)}"
        node = helper.make_node("Identity", [value], [out])
        known = helper.make_empty_tensor_value_info(out)
        branches[name] = helper.make_graph([node], name, [], [known])
    return graph.add("If", condition, options=branches)


def _rounded(graph: Graph, x: str) -> str:
    """Sums of Pillow's fixed point as levels from 0 to 255, still float64."""
    x = graph.add("Add", graph.add("Div", x, _number(graph, ONE)), _number(graph, 0.5))
    return graph.add(
        "Clip", graph.add("Floor", x), _number(graph, 0), _number(graph, 255)
    )


def _float(graph: Graph, name: str) -> str:
    return graph.add("Cast", name, options={"to": int(TensorProto.DOUBLE)})


def _number(graph: Graph, value: float) -> str:
    return graph.constant(value, dtype="float64")
