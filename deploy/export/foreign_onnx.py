"""An ONNX file that somebody else made: what must be known of it before anything is built around it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from visuomotor.deploy.export.graph_builder import OPSET_MIN

FLOATS: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


class ForeignModelError(ValueError):
    """A file that cannot become a bundle; names the file, what was found and what was expected."""


class ForeignModel(msgspec.Struct, frozen=True, kw_only=True):
    """One image in, one array out, in shapes that are all numbers."""

    path: Path
    proto: onnx.ModelProto
    opset: int
    input_name: str
    input_dtype: str
    height: int
    width: int
    output_name: str
    output_shape: tuple[int, ...]


def read_foreign(path: Path) -> ForeignModel:
    """Read and check an ONNX file with one input [1, 3, H, W] and one output.

    Raises ForeignModelError for a file that is no ONNX, has other inputs or outputs, or leaves a dimension open.
    """
    proto = _load(path)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OPSET_MIN:
        raise ForeignModelError(f"{path}: opset: expected {OPSET_MIN} or newer, got {opset}; export it anew")
    constants = {tensor.name for tensor in proto.graph.initializer}
    source = _get_only(path, "input", [value for value in proto.graph.input if value.name not in constants])
    target = _get_only(path, "output", list(proto.graph.output))
    shape = _dimensions(source)
    what = f"{path}: input {source.name}"
    if shape and isinstance(shape[0], str):
        raise ForeignModelError(f"{what}: expected a batch fixed to 1, got a dynamic one ('{shape[0]}') in {shape}")
    if len(shape) != 4 or shape[:2] != (1, 3) or not all(isinstance(size, int) and size > 0 for size in shape[2:]):
        raise ForeignModelError(f"{what}: expected the shape (1, 3, height, width) in numbers, got {shape}")
    dtype = FLOATS.get(source.type.tensor_type.elem_type)
    if dtype is None or target.type.tensor_type.elem_type not in FLOATS:
        types = [_name_type(value) for value in (source, target)]
        raise ForeignModelError(f"{path}: input and output: expected float32 or float16, got {' and '.join(types)}")
    return ForeignModel(
        path=path,
        proto=proto,
        opset=opset,
        input_name=source.name,
        input_dtype=dtype,
        height=int(shape[2]),
        width=int(shape[3]),
        output_name=target.name,
        output_shape=_fixed_output(path, proto, target),
    )


def _name_type(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type.elem_type
    return str(TensorProto.DataType.Name(kind)).lower() if kind in TensorProto.DataType.values() else f"type {kind}"


def _load(path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.load(path)
    except OSError as error:
        raise ForeignModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:  # the last two: external data
        reason = str(error).splitlines()[0] if str(error) else "cannot be parsed"
        raise ForeignModelError(f"{path}: expected an ONNX file, got something else ({reason})") from error
    if not proto.graph.node or not proto.opset_import:
        raise ForeignModelError(f"{path}: expected an ONNX file with a graph, got none")
    return proto


def _get_only(path: Path, what: str, values: list[onnx.ValueInfoProto]) -> onnx.ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(value.name for value in values) or "none"
        raise ForeignModelError(f"{path}: {what}s: expected one, got {len(values)} ({names})")
    return values[0]


def _dimensions(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Numbers where they are fixed, names (or '?') where not."""
    sizes = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in sizes)


def _fixed_output(path: Path, proto: onnx.ModelProto, target: onnx.ValueInfoProto) -> tuple[int, ...]:
    shape = _dimensions(target)
    if not shape or any(isinstance(size, str) for size in shape):  # an exporter that did not write it down
        try:
            inferred = onnx.shape_inference.infer_shapes(proto).graph.output[0]
        except onnx.shape_inference.InferenceError as error:
            raise ForeignModelError(f"{path}: expected a graph whose shapes can be told: {error}") from error
        shape = _dimensions(inferred) or shape
    if not shape or any(isinstance(size, str) for size in shape):
        raise ForeignModelError(f"{path}: output {target.name}: expected a shape in numbers, got {shape}")
    return tuple(int(size) for size in shape)
