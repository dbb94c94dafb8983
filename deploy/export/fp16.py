"""Float graph -> the same graph in half precision from the first weighted node to the heads; the rest as it was.

Preprocessing, heads and decoding stay in float: half precision knows pixels past 256 to a quarter only.
"""

from __future__ import annotations

import contextlib
import warnings

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from visuomotor.deploy.export.int8 import QuantizeError, drop_unused, prepare
from visuomotor.deploy.export.int8_nodes import list_body
from visuomotor.deploy.export.portable import strip_traces


def convert_to_half(model: bytes) -> bytes:
    """The serialised graph; inputs and outputs keep their types. Raises QuantizeError where there is nothing to do."""
    prepared = prepare(model)
    body = list_body(prepared)
    if not any(node.name in body for node in prepared.graph.node if node.op_type not in DEFAULT_OP_BLOCK_LIST):
        raise QuantizeError("fp16: expected nodes with weights before the heads, found none")
    keep = [node.name for node in prepared.graph.node if node.name not in body]
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # it warns of every weight below the smallest half-precision number
        half = convert_float_to_float16(prepared, keep_io_types=True, node_block_list=keep)
    drop_unused(half)
    onnx.checker.check_model(half)
    return strip_traces(half.SerializeToString())
