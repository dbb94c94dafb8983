"""Float graph -> the same graph in half precision from the first weighted node to the heads; the rest as it was.

Preprocessing, heads and decoding stay in float: half precision knows pixels past 256 to a quarter only.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from visuomotor.deploy.export.int8 import QuantizeError, drop_unused, prepare
from visuomotor.deploy.export.int8_nodes import list_body
from visuomotor.deploy.export.portable import strip_traces

# What networks are mostly made of. Arithmetic on shapes and indices and recurrent layers stay in float, and so does
# Transpose: ONNX Runtime 1.31 crashes when it optimises the forecaster's in half precision.
HALF_OPS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "Split", "Resize", "Flatten"),
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softmax"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),
)
FLOAT_INPUTS = {"Resize": (1, 2)}  # region and scales
SUFFIX_HALF, SUFFIX_FLOAT = "_half", "_float"


def convert_to_half(model: bytes) -> bytes:
    """The serialised graph; inputs and outputs keep their types. Raises QuantizeError where there is nothing to do."""
    prepared = prepare(model)
    graph = prepared.graph
    body = {node.name for node in graph.node if node.op_type in HALF_OPS} & list_body(prepared)
    if not body:
        raise QuantizeError("fp16: expected nodes with weights before the heads, found none")
    floats = _list_floats(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    outputs = {value.name for value in graph.output}
    half: set[str] = set()  # tensors of the body that are in half precision under their own name
    added: dict[str, onnx.NodeProto | onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            wanted = node.name in body and index not in FLOAT_INPUTS.get(node.op_type, ())
            if wanted and name in constants:
                half_name = name + SUFFIX_HALF
                added.setdefault(half_name, _to_half(constants[name], half_name))
                node.input[index] = half_name
            elif name in floats and wanted != (name in half):
                suffix, kind = (SUFFIX_HALF, TensorProto.FLOAT16) if wanted else (SUFFIX_FLOAT, TensorProto.FLOAT)
                if name + suffix not in added:
                    added[name + suffix] = cast = helper.make_node("Cast", [name], [name + suffix], to=kind)
                    nodes.append(cast)
                node.input[index] = name + suffix
        nodes.append(node)
        if node.name in body:
            for index, name in enumerate(node.output):
                if name in outputs and name in floats:
                    node.output[index] = name + SUFFIX_HALF
                    nodes.append(helper.make_node("Cast", [name + SUFFIX_HALF], [name], to=TensorProto.FLOAT))
                elif name in floats:
                    half.add(name)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(item for item in added.values() if isinstance(item, onnx.TensorProto))
    for value in graph.value_info:
        if value.name in half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    drop_unused(prepared)
    onnx.checker.check_model(prepared)
    return strip_traces(prepared.SerializeToString())


def _list_floats(graph: onnx.GraphProto) -> set[str]:
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def _to_half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """The constant in half precision; what is too large for it becomes its largest number."""
    limit = np.finfo(np.float16)
    array = np.clip(numpy_helper.to_array(tensor), limit.min, limit.max).astype(np.float16)
    return numpy_helper.from_array(array, name)
