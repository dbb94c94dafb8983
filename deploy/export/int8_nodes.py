"""Which nodes of a graph are worth computing in 8 bits: those from the first to the last that multiply by weights.

What comes before the first (preprocessing) and after the last (decoding, suppression) stays in float, and so do the
last weighted nodes themselves, the heads: their outputs are boxes and scores, whose small steps count. A weighted node
with a negligible share of the work (squeeze-and-excitation, an embedding) stays in float: conversions would cost more.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

WEIGHTED = ("Conv", "Gemm", "MatMul")
# Have 8-bit kernels that pay, and keep chains of 8 bits unbroken.
JOINING = ("Add", "Concat", "MaxPool", "Mul", "Relu", "Resize", "Sigmoid")
WORK_SHARE_MIN = 0.0005  # of all multiplications


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Names of nodes to quantise, outputs of the heads, and the share of all multiplications that is in 8 bits."""

    nodes: tuple[str, ...]
    heads: tuple[str, ...]
    work_share: float


def select_nodes(model: onnx.ModelProto) -> Selection:
    """Choose nodes of a graph whose nodes have names and whose shapes are inferred."""
    graph = model.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = read_shapes(graph)
    weighted = {node.name: _work(node, constants, shapes) for node in graph.node if _is_weighted(node, constants)}
    total = sum(weighted.values())
    heads = {name for name in weighted if not _find_after(graph, name) & weighted.keys()}
    chosen = {name for name, work in weighted.items() if name not in heads and work >= WORK_SHARE_MIN * total}
    joining = set()
    for node in graph.node:
        if node.op_type in JOINING and _is_plain(node, constants, shapes):
            after, before = _find_after(graph, node.name), _find_before(graph, node.name)
            if after & weighted.keys() and before & chosen:
                joining.add(node.name)
    return Selection(
        nodes=tuple(node.name for node in graph.node if node.name in chosen | joining),
        heads=tuple(node.output[0] for node in graph.node if node.name in heads),
        work_share=sum(weighted[name] for name in chosen) / total if total else 0.0,
    )


def list_body(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes from the first weighted ones on that lead to heads, without the heads."""
    graph = model.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    weighted = {node.name for node in graph.node if _is_weighted(node, constants)}
    heads = {name for name in weighted if not _find_after(graph, name) & weighted}
    after = set().union(*(_find_after(graph, name) for name in weighted)) | weighted
    before = set().union(*(_find_before(graph, name) for name in heads))
    return after & before - heads


def read_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor with a known number of dimensions; a free dimension counts as 1."""
    values = (*graph.value_info, *graph.input, *graph.output)
    return {
        value.name: tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _is_plain(node: onnx.NodeProto, constants: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a joining node takes activations alone, and a product those of one shape: others have no fast kernel."""
    arrays = node.input[:1] if node.op_type == "Resize" else node.input
    if any(name in constants for name in arrays):
        return False
    return node.op_type != "Mul" or len({shapes.get(name) for name in arrays}) == 1


def _is_weighted(node: onnx.NodeProto, constants: dict[str, tuple[int, ...]]) -> bool:
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in constants


def _work(node: onnx.NodeProto, constants: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]]) -> float:
    """Multiplications of one weighted node."""
    weight, output = constants[node.input[1]], shapes.get(node.output[0], (1,))
    if node.op_type == "Conv":
        return float(math.prod(output) * math.prod(weight[1:]))
    return float(math.prod(output[:-1]) * math.prod(weight[-2:]))


def _find_after(graph: onnx.GraphProto, name: str) -> set[str]:
    """Names of the nodes that depend on a node. Nodes are in topological order, as ONNX demands."""
    reached: set[str] = set()
    tensors: set[str] = set()
    for node in graph.node:
        if node.name == name:
            tensors.update(node.output)
        elif not tensors.isdisjoint(node.input):
            reached.add(node.name)
            tensors.update(node.output)
    return reached


def _find_before(graph: onnx.GraphProto, name: str) -> set[str]:
    """Names of the nodes that a node depends on."""
    reached: set[str] = set()
    tensors: set[str] = set()
    for node in reversed(graph.node):
        if node.name == name:
            tensors.update(node.input)
        elif not tensors.isdisjoint(node.output):
            reached.add(node.name)
            tensors.update(node.input)
    return reached


def find_byte_input(model: onnx.ModelProto, selection: Selection) -> tuple[str, str] | None:
    """Tensor of bytes and the float tensor made of it by a scale and a shift, where that is what is quantised first.

    Bytes of an image are 8 bits already: with a scale and a whole zero point they need no rounding. None where the
    graph has no such tensor.
    """
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
    for node in graph.node:
        if node.name not in selection.nodes or node.op_type not in WEIGHTED:
            continue
        name = node.input[0]
        maker = makers.get(name)
        while maker is not None and maker.op_type in ("Add", "Sub", "Mul", "Div", "Cast"):
            if maker.op_type == "Cast":
                source = maker.input[0]
                return (source, node.input[0]) if types.get(source) == onnx.TensorProto.UINT8 else None
            maker = makers.get(maker.input[0])
    return None


def trace_bytes(model: onnx.ModelProto, source: str, target: str) -> np.ndarray | None:
    """What the nodes from ``source`` to ``target`` make of the bytes 0 to 255, float32 [256]; None if it takes more."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = {source: np.arange(256, dtype=np.float32)}
    operations = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    for node in graph.node:
        if node.input and node.input[0] in values and node.output[0] != source:
            if node.op_type == "Cast":
                values[node.output[0]] = values[node.input[0]]
            elif node.op_type in operations and (other := constants.get(node.input[1])) is not None and other.size == 1:
                values[node.output[0]] = operations[node.op_type](values[node.input[0]], np.float32(other.item()))
    return values.get(target)
