"""An ONNX graph that is being built."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""The first whose Resize has PIL's antialiasing."""
FIRST = (0, 3, 1, 2)
"""Where the axes of a channels-first image are in ours, and `LAST` the other way."""
LAST = (0, 2, 3, 1)


class Graph:
    """The nodes and constants of an ONNX graph that is being built."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(
        self,
        op: str,
        *inputs: str,
        output: str | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """One node with ONNX's attributes `options`; returns what comes out by name."""
        name = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **options))
        return name

    def constant(self, value: Any, *, dtype: Any = None) -> str:
        """An array, kept in the graph; returns its name."""
        array = np.ascontiguousarray(np.asarray(value, dtype))
        # ascontiguousarray makes a scalar a vector.
        array = array.reshape(np.shape(value))
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """A vector of int64, as ONNX has shapes, axes and indices."""
        return self.constant(values, dtype=np.int64)

    def transposed(self, name: str, axes: Sequence[int]) -> str:
        """`name` with its axes in another order."""
        if tuple(axes) == tuple(range(len(axes))):
            return name
        return self.add("Transpose", name, options={"perm": list(axes)})

    def model(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        facts: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The whole, checked by ONNX's own rules; `facts` are its metadata."""
        graph = helper.make_graph(
            self.nodes, "classifier", inputs, outputs, self.constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="jaxvision",
            ir_version=10,  # what runtimes of 2024 read
        )
        helper.set_model_props(model, dict(facts))
        onnx.checker.check_model(model, full_check=True)
        return model


def images_input(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    """An input of uint8 pixels."""
    return helper.make_tensor_value_info(name, TensorProto.UINT8, shape)


def table_output(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    """An output of float32 numbers."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
