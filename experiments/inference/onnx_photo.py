"""How a photograph becomes a square, in ONNX's own operators, with Pillow's bits.

ONNX has an antialiased Resize, but its rounding is another: with onnxruntime up to one
pixel in a hundred is a level off, which moves probabilities by a hundredth. Pillow's
two passes are products with matrices of whole numbers, which float64 computes exactly.
"""

from typing import NamedTuple

import numpy as np
import PIL
from onnx import TensorProto, helper

from experiments.inference.onnx_graph import FIRST, LAST, Graph
from jaxvision.preprocess import MEAN_COLOUR, Preprocessing
from jaxvision.resize import PRECISION

TURNED = (0, 1, 3, 2)
"""Rows for columns, where the channels come first."""
ONE = float(2**PRECISION)
"""What Pillow has for a weight of one."""


class _Side(NamedTuple):
    """A side of the square: the pixels of the resized photo, whole numbers `(1,)`.

    Attributes:
      size: how many there are.
      first: which of them the square begins with; below 0 there is something before.
    """

    size: str
    first: str


def add_square(graph: Graph, photos: str, size: Preprocessing, *, output: str) -> str:
    """Adds `preprocess.eval_image` for a batch of photos of one size, unknown yet.

    Args:
      graph: is added to.
      photos: uint8 `(n, height, width, 3)`.
      size: how a photo becomes a square.
      output: the name of what comes out, uint8 `(n, crop, crop, 3)`.
    """
    shape = [
        graph.add("Shape", photos, options={"start": axis, "end": axis + 1})
        for axis in (1, 2)
    ]
    sides = _SIDES[size.fit](graph, shape, size)
    masks = [_inside(graph, side, size.crop) for side in sides]
    rows, columns = (
        _weights(graph, length, side, inside, size.crop)
        for length, side, inside in zip(shape, sides, masks, strict=True)
    )
    x = graph.transposed(photos, FIRST)
    # Columns first and rounded between, as Pillow does.
    tall = None
    if int(PIL.__version__.split(".")[0]) >= 13:
        tall = _rows_first(graph, shape, sides)
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
    if size.fit == "pad":
        seen = graph.add("And", masks[0], graph.transposed(masks[1], (1, 0)))
        colour = np.reshape(MEAN_COLOUR, (1, 3, 1, 1))
        x = graph.add("Where", seen, x, graph.constant(colour, dtype="float64"))
    x = graph.add("Cast", x, options={"to": int(TensorProto.UINT8)})
    return graph.add("Transpose", x, output=output, options={"perm": list(LAST)})


def _cropped(graph: Graph, shape: list[str], size: Preprocessing) -> list[_Side]:
    """The middle of a photo whose short side is `size.resize`, as torchvision's."""
    zero, two = graph.integers(0), graph.integers(2)
    short = graph.add("Min", *shape)
    sides = []
    for length in shape:
        # Whole numbers divide to the floor, as the rule has it.
        grown = graph.add("Mul", graph.integers(size.resize), length)
        resized = graph.add("Div", grown, short)
        lack = graph.add("Sub", graph.integers(size.crop), resized)
        before = graph.add("Div", graph.add("Max", lack, zero), two)
        spare = graph.add("Max", graph.add("Neg", lack), zero)
        half = graph.add("Div", spare, two)
        # Half a pixel goes to the even one, as Python's round has it.
        odd = graph.add(
            "Mul", graph.add("Mod", spare, two), graph.add("Mod", half, two)
        )
        first = graph.add("Sub", graph.add("Add", half, odd), before)
        sides.append(_Side(resized, first))
    return sides


def _padded(graph: Graph, shape: list[str], size: Preprocessing) -> list[_Side]:
    """All of a photo whose long side is `size.crop`, as `ImageOps.pad`."""
    long = _float(graph, graph.add("Max", *shape))
    sides = []
    for length in shape:
        share = graph.add("Div", _float(graph, length), long)
        count = graph.add("Mul", share, _number(graph, size.crop))
        count = graph.add("Max", graph.add("Round", count), _number(graph, 1))
        lack = graph.add("Sub", _number(graph, size.crop), count)
        before = graph.add("Round", graph.add("Mul", lack, _number(graph, 0.5)))
        first = graph.add("Neg", before)
        sides.append(_Side(_whole(graph, count), _whole(graph, first)))
    return sides


def _stretched(graph: Graph, shape: list[str], size: Preprocessing) -> list[_Side]:
    """All of a photo, out of shape."""
    return [_Side(graph.integers(size.crop), graph.integers(0)) for _ in shape]


_SIDES = {"crop": _cropped, "pad": _padded, "stretch": _stretched}


def _places(graph: Graph, side: _Side, crop: int) -> str:
    """Where in the resized photo the square's pixels are: one column."""
    column = graph.constant([[i] for i in range(crop)], dtype="int64")
    return graph.add("Add", column, side.first)


def _inside(graph: Graph, side: _Side, crop: int) -> str:
    """Which of the square's pixels are of the photo: `(crop, 1)`."""
    place = _places(graph, side, crop)
    return graph.add(
        "And",
        graph.add("GreaterOrEqual", place, graph.integers(0)),
        graph.add("Less", place, side.size),
    )


def _weights(graph: Graph, length: str, side: _Side, inside: str, crop: int) -> str:
    """What each pixel of a photo weighs in each of the square's: `(crop, length)`.

    Those of `resize.interpolation_taps` in Pillow's fixed point; a row of the square
    that is outside the resized photo has none, and comes out black.
    """
    place = _places(graph, side, crop)
    scale = graph.add("Div", _float(graph, length), _float(graph, side.size))
    stretch = graph.add("Max", scale, _number(graph, 1))
    center = graph.add(
        "Mul", graph.add("Add", _float(graph, place), _number(graph, 0.5)), scale
    )
    count = graph.add("Squeeze", length)
    zero, step = (graph.constant(value, dtype="int64") for value in (0, 1))
    pixel = _float(graph, graph.add("Range", zero, count, step))
    pixel = graph.add("Add", pixel, _number(graph, 0.5))
    distance = graph.add("Div", graph.add("Sub", pixel, center), stretch)
    weight = graph.add("Sub", _number(graph, 1), graph.add("Abs", distance))
    weight = graph.add("Max", weight, _number(graph, 0))
    last = graph.integers(1)
    total = graph.add("ReduceSum", weight, last, options={"keepdims": 1})
    weight = graph.add("Div", weight, graph.add("Max", total, _number(graph, 1e-9)))
    weight = graph.add("Mul", weight, _number(graph, ONE))
    weight = graph.add("Floor", graph.add("Add", weight, _number(graph, 0.5)))
    return graph.add("Where", inside, weight, _number(graph, 0))


def _rows_first(graph: Graph, shape: list[str], sides: list[_Side]) -> str:
    """Whether Pillow, from 13 on, resizes the rows before the columns.

    It does where the height shrinks by more than twice as many pixels as the width.
    """
    fewer, narrower = (
        graph.add("Sub", length, side.size)
        for length, side in zip(shape, sides, strict=True)
    )
    twice = graph.add("Mul", narrower, graph.integers(2))
    shrinks = graph.add("Greater", fewer, graph.integers(0))
    tall = graph.add("And", graph.add("Greater", fewer, twice), shrinks)
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


def _whole(graph: Graph, name: str) -> str:
    return graph.add("Cast", name, options={"to": int(TensorProto.INT64)})


def _number(graph: Graph, value: float) -> str:
    return graph.constant(value, dtype="float64")
