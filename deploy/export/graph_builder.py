"""Writing ONNX nodes by hand, one line each: names, constants, and operators whose form changed between opsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET_MIN = 11  # the first with TopK, Pad, Clip and Resize in the form used here
RESIZE_BY_SIZE_ALONE = 13  # before, the inputs that it does not need must be there, empty


class GraphBuilder:
    """Collects nodes and constants of one graph; every method returns the name of the tensor that it makes."""

    def __init__(self, opset: int, prefix: str) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._prefix = prefix

    def constant(self, value: np.ndarray | float | int | Sequence[int] | Sequence[float]) -> str:
        """A constant; Python floats become float32, ints int64."""
        array = np.array(value)  # contiguous, and 0-d stays 0-d
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        name = f"{self._prefix}constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One operator with one output, called ``output`` where its name matters."""
        return self.op_n(kind, (output,), *inputs, **attributes)[0]

    def op_n(self, kind: str, outputs: Sequence[str], *inputs: str, **attributes: Any) -> list[str]:
        """One operator with several outputs; an empty name is filled in."""
        name = f"{self._prefix}{kind}_{len(self.nodes)}"
        names = [given or f"{name}_{i}" for i, given in enumerate(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names

    def to_float(self, value: str) -> str:
        """As float32."""
        return self.op("Cast", value, to=TensorProto.FLOAT)

    def to_int(self, value: str, output: str = "") -> str:
        """As int64."""
        return self.op("Cast", value, output=output, to=TensorProto.INT64)

    def reshape(self, value: str, *shape: int) -> str:
        """With another shape."""
        return self.op("Reshape", value, self.constant(np.array(shape, np.int64)))

    def columns(self, value: str, start: int, end: int) -> str:
        """Columns start to end (not included) of a matrix."""
        bounds = (self.constant([start]), self.constant([end]), self.constant([1]))
        return self.op("Slice", value, *bounds)

    def resize(self, image: str, height: int, width: int, channels: int = 3) -> str:
        """Bilinear, pixel centres aligned as in OpenCV's INTER_LINEAR: image [1, C, H, W] to the size given."""
        empty = "" if self.opset >= RESIZE_BY_SIZE_ALONE else self.constant(np.zeros(0, np.float32))
        size = self.constant([1, channels, height, width])
        return self.op("Resize", image, empty, empty, size, mode="linear", coordinate_transformation_mode="half_pixel")
