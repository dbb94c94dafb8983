"""What an exported graph must not carry away: the exporter's notes on the machine that it ran on."""

from __future__ import annotations

import onnx


def strip_traces(model: bytes) -> bytes:
    """The same graph without the source paths and stack traces that torch's exporter leaves in metadata."""
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return proto.SerializeToString()
