"""The resize and crop of a photograph in ONNX's own operators.

ONNX's antialiased Resize is PIL's: onnxruntime's has the bits of Pillow's bilinear.
"""

from experiments.inference.onnx_graph import FIRST, LAST, Graph

ROWS, COLUMNS = 2, 3
"""The axes of height and width where the channels come first."""


def add_crop(graph: Graph, photos: str, *, resize: int, crop: int, output: str) -> str:
    """Adds `preprocess.eval_image` for a batch of photos of one size, unknown yet.

    Args:
      graph: is added to.
      photos: uint8 `(n, height, width, 3)`.
      resize: the short side in pixels.
      crop: side of the square in its middle.
      output: the name of what comes out, uint8 `(n, crop, crop, 3)`.
    """
    height = graph.add("Shape", photos, start=1, end=2)
    width = graph.add("Shape", photos, start=2, end=3)
    short, wanted = graph.add("Min", height, width), graph.integers(resize)
    # Whole numbers divide to the floor, as the rule has it.
    size = graph.add(
        "Concat",
        graph.add("Div", graph.add("Mul", wanted, height), short),
        graph.add("Div", graph.add("Mul", wanted, width), short),
        axis=0,
    )
    x = graph.transposed(photos, FIRST)
    channels = graph.add("Shape", x, end=2)
    x = graph.add(
        "Resize",
        x,
        "",
        "",
        graph.add("Concat", channels, size, axis=0),
        mode="linear",
        antialias=1,
        exclude_outside=1,  # as PIL: what is not there does not weigh in
        coordinate_transformation_mode="half_pixel",
    )
    side, two = graph.integers(crop), graph.integers(2)
    axes = graph.integers(ROWS, COLUMNS)
    if resize < crop:
        zero = graph.integers(0)
        missing = graph.add("Max", graph.add("Sub", side, size), zero)
        before = graph.add("Div", missing, two)
        after = graph.add("Sub", missing, before)
        none = graph.integers(0, 0)
        pads = graph.add("Concat", none, before, none, after, axis=0)
        x = graph.add("Pad", x, pads, graph.constant(0, "uint8"))
        size = graph.add("Max", size, side)
    spare = graph.add("Sub", size, side)
    half = graph.add("Div", spare, two)
    # Half a pixel goes to the even one, as Python's round has it.
    odd = graph.add("Mul", graph.add("Mod", spare, two), graph.add("Mod", half, two))
    start = graph.add("Add", half, odd)
    stop = graph.add("Add", start, side)
    x = graph.add("Slice", x, start, stop, axes)
    return graph.add("Transpose", x, perm=list(LAST), output=output)
