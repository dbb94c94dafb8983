"""A foreign detector as one graph with the contract of our own: raw frame in, detections of the task's classes out.

Letterbox before the network; after it decoding, class mapping, threshold, suppression and the way back to the frame.
Everything is in static shapes and without a loop over boxes, as in ``perception.train.detector_graph``: greedy
suppression is a fixed number of rounds of 'keep what no kept box of higher score overlaps'.
"""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from visuomotor.deploy.export.foreign_layouts import (
    PAD_VALUE,
    Candidates,
    Layout,
    Letterbox,
    fit_letterbox,
    read_candidates,
)
from visuomotor.deploy.export.foreign_onnx import ForeignModel
from visuomotor.deploy.export.graph_builder import GraphBuilder
from visuomotor.perception.detector_contract import OUTPUTS, output_specs
from visuomotor.perception.tasks import PerceptionTask

CANDIDATES = 256  # these networks answer with a dozen boxes for every object
ROUNDS = 16  # settles chains of so many overlapping boxes
OTHER_CLASS_IOU = 0.8  # of boxes whose classes are no rivals
PREFIX = "foreign/"  # of every name in the foreign graph, so that none meets one of ours
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What is read from the output, and how. ``classes``: for each label of the network a class of the task, or -1."""

    layout: Layout
    rows: int
    classes: tuple[int, ...]
    task: PerceptionTask
    score_threshold: float
    nms_iou: float


def build_graph(model: ForeignModel, frame: tuple[int, int], choices: Choices) -> onnx.ModelProto:
    """The whole graph for frames (height, width), in the opset of the foreign one."""
    inner = onnx.compose.add_prefix(model.proto, PREFIX)
    source, target = PREFIX + model.input_name, PREFIX + model.output_name
    box = fit_letterbox(choices.layout, frame, (model.height, model.width))
    before, after = GraphBuilder(model.opset, "before/"), GraphBuilder(model.opset, "after/")
    _letterbox(before, model, choices.layout, box, source)
    found = read_candidates(after, choices.layout, model, target, len(choices.classes))
    _finish(after, found, frame, box, choices)
    outputs = output_specs(len(choices.task.task.class_names))
    graph = helper.make_graph(
        nodes=[*before.nodes, *inner.graph.node, *after.nodes],
        name="detector",
        inputs=[helper.make_tensor_value_info("frame", TensorProto.UINT8, (1, *frame, 3))],
        outputs=[helper.make_tensor_value_info(s.name, TYPES[s.dtype], s.shape) for s in outputs],
        initializer=[*before.initializers, *inner.graph.initializer, *after.initializers],
    )
    graph.sparse_initializer.extend(inner.graph.sparse_initializer)
    whole = helper.make_model(graph, ir_version=max(model.proto.ir_version, 4), functions=list(inner.functions))
    del whole.opset_import[:]
    whole.opset_import.extend(model.proto.opset_import)
    return whole


def _letterbox(build: GraphBuilder, model: ForeignModel, layout: Layout, box: Letterbox, output: str) -> None:
    image = build.op("Transpose", build.to_float("frame"), perm=[0, 3, 1, 2])
    if layout.is_rgb:
        image = build.op("Gather", image, build.constant([2, 1, 0]), axis=1)
    image = build.resize(image, box.height, box.width)
    bottom, right = model.height - box.height - box.top, model.width - box.width - box.left
    pads = build.constant([0, 0, box.top, box.left, 0, 0, bottom, right])
    image = build.op("Pad", image, pads, build.constant(PAD_VALUE), mode="constant")
    if layout.is_rgb:
        image = build.op("Mul", image, build.constant(1.0 / 255.0))
    build.op("Cast", image, output=output, to=TYPES[model.input_dtype])


def _finish(build: GraphBuilder, found: Candidates, frame: tuple[int, int], box: Letterbox, choices: Choices) -> None:
    """From all rows to the outputs of the contract."""
    classes = np.array(choices.classes, np.int64)
    meant = build.op("Gather", build.constant(classes >= 0), found.label)
    strong = build.op("Greater", found.score, build.constant(np.nextafter(np.float32(choices.score_threshold), -1.0)))
    score = build.op("Where", build.op("And", meant, strong), found.score, build.constant(0.0))  # NaN is not strong
    score = build.op("Min", score, build.constant(1.0))
    scale = np.array([box.width / frame[1], box.height / frame[0]] * 2, np.float32)
    corner = build.op("Sub", found.corner_px, build.constant(np.array([box.left, box.top] * 2, np.float32)))
    corner = build.op("Div", corner, build.constant(scale))

    count = min(CANDIDATES, choices.rows)
    score, index = build.op_n("TopK", ("", ""), score, build.constant([count]), axis=0)
    corner = build.op("Gather", corner, index, axis=0)
    class_id = build.op("Gather", build.constant(np.maximum(classes, 0)), build.op("Gather", found.label, index))
    keep = _suppress(build, corner, class_id, count, choices)
    low = build.op("Max", corner, build.constant(0.0))
    corner = build.op("Min", low, build.constant(np.array([frame[1], frame[0]] * 2, np.float32)))
    size = build.op("Sub", build.columns(corner, 2, 4), build.columns(corner, 0, 2))
    inside = build.to_float(build.op("Greater", size, build.constant(1.0)))  # wide and high enough, and no NaN
    inside = build.op("Mul", build.columns(inside, 0, 1), build.columns(inside, 1, 2))
    score = build.op("Mul", build.op("Mul", score, keep), build.reshape(inside, count))
    if count < OUTPUTS:
        more = build.constant([0, OUTPUTS - count])
        score = build.op("Pad", score, more, build.constant(0.0), mode="constant")
        wide = build.constant([0, 0, OUTPUTS - count, 0])
        corner = build.op("Pad", corner, wide, build.constant(0.0), mode="constant")
        class_id = build.op("Concat", class_id, build.constant(np.zeros(OUTPUTS - count, np.int64)), axis=0)
    _write_outputs(build, score, corner, class_id, choices.task)


def _suppress(build: GraphBuilder, corner: str, class_id: str, count: int, choices: Choices) -> str:
    """1.0 for the boxes [K, 4], sorted by falling score, that survive, else 0.0: float [K]."""
    sides = [build.columns(corner, i, i + 1) for i in range(4)]
    across = [build.reshape(side, 1, count) for side in sides]

    def overlap(axis: int) -> str:
        low = build.op("Max", sides[axis], across[axis])
        high = build.op("Min", sides[axis + 2], across[axis + 2])
        return build.op("Max", build.op("Sub", high, low), build.constant(0.0))

    both = build.op("Mul", overlap(0), overlap(1))
    area = build.op("Mul", build.op("Sub", sides[2], sides[0]), build.op("Sub", sides[3], sides[1]))
    union = build.op("Sub", build.op("Add", area, build.reshape(area, 1, count)), both)
    kind = build.op("Gather", build.constant(choices.task.placement.rivals), class_id)
    rivals = build.op("Equal", build.reshape(kind, count, 1), build.reshape(kind, 1, count))
    other_iou = max(choices.nms_iou, OTHER_CLASS_IOU)
    limit = build.op("Where", rivals, build.constant(choices.nms_iou), build.constant(other_iou))
    close = build.to_float(build.op("Greater", both, build.op("Mul", limit, union)))
    above = build.constant(np.triu(np.ones((count, count), np.float32), 1))  # [i, j]: i scores higher than j
    conflict = build.op("Mul", close, above)
    keep = build.constant(np.ones((1, count), np.float32))
    for _ in range(ROUNDS):
        hit = build.op("MatMul", keep, conflict)
        keep = build.to_float(build.op("Less", hit, build.constant(0.5)))
    return build.reshape(keep, count)


def _write_outputs(build: GraphBuilder, score: str, corner: str, class_id: str, task: PerceptionTask) -> None:
    """The strongest ``OUTPUTS``, zero past their count."""
    best, order = build.op_n("TopK", ("score", ""), score, build.constant([OUTPUTS]), axis=0)
    present = build.op("Greater", best, build.constant(0.0))
    rows = build.reshape(present, OUTPUTS, 1)
    zero = build.constant(0.0)

    def write(name: str, value: str) -> None:
        build.op("Where", rows, value, zero, output=name)

    chosen = build.op("Gather", corner, order, axis=0)
    write("box_px", chosen)
    left, right, lower = (build.columns(chosen, i, i + 1) for i in (0, 2, 3))
    middle = build.op("Mul", build.op("Add", left, right), build.constant(0.5))
    foot = build.op("Concat", middle, lower, axis=1)
    write("ground_px", build.op("Sub", foot, build.constant(0.5)))  # pixel centres as in CameraModel
    label = build.op("Gather", class_id, order)
    build.op("Where", present, label, build.constant(0), output="class_id")
    size = build.op("Gather", build.constant(np.array(task.placement.size_prior_m, np.float32)), label, axis=0)
    write("size_m", size)
    write("heading", build.op("Mul", size, zero))  # unknown
    build.to_int(build.op("ReduceSum", build.to_float(present), keepdims=0), output="count")
