"""Small ONNX graphs for tests of the runtime."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def make_graph(nodes: list[onnx.NodeProto], inputs: dict[str, tuple], outputs: dict[str, tuple], **constants) -> bytes:
    """Inputs and outputs: name -> (dtype of onnx, *shape)."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, *shape) in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, *shape) in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()


def make_double(rows: int | str = "rows") -> bytes:
    """y [rows, 3] float = 2 x; n [rows, 3] int64 = 2 k."""
    return make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Add", ["k", "k"], ["n"])],
        {"x": (TensorProto.FLOAT, rows, 3), "k": (TensorProto.INT64, rows, 3)},
        {"y": (TensorProto.FLOAT, rows, 3), "n": (TensorProto.INT64, rows, 3)},
    )


def make_finder() -> bytes:
    """Where x [3] is not zero: a shape that depends on the data."""
    return make_graph(
        [helper.make_node("NonZero", ["x"], ["found"])],
        {"x": (TensorProto.FLOAT, 3)},
        {"found": (TensorProto.INT64, 1, "many")},
    )
