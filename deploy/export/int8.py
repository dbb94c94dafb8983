"""Float graph -> the same graph in 8 bits where that pays: quantise and dequantise nodes (QDQ) around what is chosen.

Static: ranges come from calibration inputs. Weights are signed, symmetric, one scale for each output channel;
activations unsigned with a zero point, which costs a CPU nothing and leaves a ReLU the whole range. Inputs, outputs,
preprocessing and everything after the heads stay as they were.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from visuomotor.deploy.export.int8_nodes import JOINING, WEIGHTED, Selection, find_byte_input, select_nodes, trace_bytes
from visuomotor.deploy.export.int8_ranges import Arrays, Histograms, Method, collect, run_outputs
from visuomotor.deploy.export.portable import strip_traces

CPU_FLAGS = Path("/proc/cpuinfo")
OPSET_MIN = 13  # the first in which a scale may be given for each channel


class QuantizeError(ValueError):
    """A graph that 8 bits or half precision don't fit; says what was found."""


class Int8Builder:
    """A float graph with its ranges measured once; ``build`` makes the 8-bit graph by one method.

    Raises QuantizeError when nothing in the graph is worth quantising.
    """

    def __init__(self, model: bytes, cases: Sequence[Arrays]) -> None:
        self._model = prepare(model)
        self.selection: Selection = select_nodes(self._model)
        if not self.selection.nodes:
            raise QuantizeError(
                f"int8: expected {', '.join(WEIGHTED)} with constant weights between input and heads, found none"
            )
        self.reduce_range = not has_wide_products()
        self._bytes = find_byte_input(self._model, self.selection)
        self._ranges: Histograms = collect(self._model, self._list_tensors(), cases)

    def build(self, method: Method) -> bytes:
        """The serialised 8-bit graph; the same bytes for the same inputs."""
        ranges = {name: self._ranges.range(name, method) for name in self._ranges.low}
        table = None
        if self._bytes is not None and (table := trace_bytes(self._model, *self._bytes)) is not None:
            ranges[self._bytes[1]] = (float(table.min()), float(table.max()))
        data = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
        }
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        with _quiet():
            quantizer = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=self.reduce_range,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=TensorsData(CalibrationMethod.MinMax, data),
                nodes_to_quantize=list(self.selection.nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=[*WEIGHTED, *JOINING],
                extra_options={},
            )
            quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised = quantizer.model.model
        if table is not None and self._bytes is not None:
            take_bytes_as_they_are(quantised, *self._bytes, table)
        drop_unused(quantised)
        onnx.checker.check_model(quantised)
        return strip_traces(quantised.SerializeToString())

    def choose(self, held_out: Sequence[Arrays]) -> tuple[Method, dict[Method, float]]:
        """The method whose heads' outputs are nearest to float on inputs not calibrated with, and the figure of each.

        The figure is signal over error in dB, the mean of the heads.
        """
        heads = self.selection.heads
        wanted = run_outputs(self._model, heads, held_out)
        signal = {name: float(sum((value[name].astype(np.float64) ** 2).sum() for value in wanted)) for name in heads}
        figures = {}
        for method in Method:
            found = run_outputs(onnx.load_model_from_string(self.build(method)), heads, held_out)
            ratios = []
            for name in heads:
                pairs = zip(wanted, found, strict=True)
                error = float(sum(((a[name].astype(np.float64) - b[name]) ** 2).sum() for a, b in pairs))
                ratios.append(10.0 * np.log10(max(signal[name], 1e-30) / max(error, 1e-30)))
            figures[method] = round(float(np.mean(ratios)), 2)
        return max(figures, key=lambda method: figures[method]), figures

    def _list_tensors(self) -> list[str]:
        graph = self._model.graph
        constants = {tensor.name for tensor in graph.initializer}
        floats = {
            value.name
            for value in (*graph.value_info, *graph.input, *graph.output)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        nodes = [node for node in graph.node if node.name in self.selection.nodes]
        names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
        return [name for name in names if name in floats and name not in constants]


def prepare(model: bytes) -> onnx.ModelProto:
    """The graph with constants folded, shapes inferred and a name for every node."""
    proto = onnx.load_model_from_string(model)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OPSET_MIN:
        proto = onnx.version_converter.convert_version(proto, OPSET_MIN)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(proto, source)
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        prepared = onnx.load(target)
    for number, node in enumerate(prepared.graph.node):
        node.name = f"{node.op_type}_{number}"  # ONNX Runtime's own names count up from session to session
    return prepared


def has_wide_products() -> bool:
    """Whether 8-bit products are added up in 32 bits: VNNI on x86, always elsewhere.

    Without VNNI two products share 16 bits and may saturate, which weights of 7 bits avoid.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        text = CPU_FLAGS.read_text()
    except OSError:
        return False
    return "avx512_vnni" in text or "avx_vnni" in text


def take_bytes_as_they_are(model: onnx.ModelProto, source: str, target: str, table: np.ndarray) -> bool:
    """Dequantise the bytes of ``source`` in place of quantising ``target``, if that changes none of 256 values.

    ``table`` [256]: what ``target`` is for each byte of ``source``. False, and nothing done, where rounding differs.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantise = next((n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == target), None)
    if quantise is None:
        return False
    scale, zero = constants[quantise.input[1]], constants[quantise.input[2]]
    if zero.dtype != np.uint8 or np.any(np.rint(table / scale).clip(-zero.astype(int), 255) + zero != np.arange(256)):
        return False
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == quantise.output[0]:
            node.input[0] = source
    return True


def drop_unused(model: onnx.ModelProto) -> None:
    """Take out nodes and constants that no output depends on."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for field in (graph.initializer, graph.value_info):
        used = [item for item in field if item.name in needed]
        del field[:]
        field.extend(used)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice on the root logger that is followed already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
