"""Detectors that somebody else might have exported, small enough to be built by a test, and one way to read them.

``run_reference`` is letterbox, decoding and suppression written with OpenCV, NumPy and loops, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def save_model(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    image: Sequence[int | str],
    output: Sequence[int | str],
    *,
    opset: int = 17,
    dtype: int = FLOAT,
) -> Path:
    """A file with input ``images`` and output ``output`` in the shapes given."""
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("images", dtype, image)],
        [helper.make_tensor_value_info("output", dtype, output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def make_yolox(path: Path, height: int, width: int, labels: int, *, opset: int = 11, decoded: bool = False) -> Path:
    """YOLOX with one random convolution per stride: many overlapping boxes of all scores, different in every image."""
    rng = np.random.default_rng(3)
    channels = 5 + labels
    constants: dict[str, np.ndarray] = {"order": np.array([0, channels, -1], np.int64)}
    nodes, levels = [], []
    for stride in (8, 16, 32):
        spread = np.array([0.0005] * 4 + [0.0015] * (channels - 4))[:, None, None, None]
        weight = rng.normal(0.0, 1.0, (channels, 3, stride, stride)) * spread * 8 / stride
        bias = np.concatenate([rng.normal(0.5, 0.2, 2), rng.normal(1.0, 0.2, 2), rng.normal(0.0, 1.0, channels - 4)])
        constants[f"w{stride}"], constants[f"b{stride}"] = weight.astype(np.float32), bias.astype(np.float32)
        strides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("Conv", ["images", f"w{stride}", f"b{stride}"], [f"map{stride}"], **strides))
        nodes.append(helper.make_node("Reshape", [f"map{stride}", "order"], [f"level{stride}"]))
        levels.append(f"level{stride}")
    nodes.append(helper.make_node("Concat", levels, ["all"], axis=2))
    nodes.append(helper.make_node("Transpose", ["all"], ["rows"], perm=[0, 2, 1]))
    for name, start, end in (("geometry", 0, 4), ("chances", 4, channels)):
        for what, value in (("start", start), ("end", end), ("axis", 2)):
            constants[f"{name}_{what}"] = np.array([value], np.int64)
        bounds = [f"{name}_start", f"{name}_end", f"{name}_axis"]
        nodes.append(helper.make_node("Slice", ["rows", *bounds], [name]))
    nodes.append(helper.make_node("Sigmoid", ["chances"], ["scores"]))
    geometry, cells = "geometry", grid_of(height, width)
    if decoded:  # as 'export_onnx.py --decode_in_inference' does, sizes left alone
        constants["offset"] = np.pad(cells[:, :2] * cells[:, 2:], ((0, 0), (0, 2))).astype(np.float32)[None]
        nodes.append(helper.make_node("Add", ["geometry", "offset"], ["decoded"]))
        geometry = "decoded"
    nodes.append(helper.make_node("Concat", [geometry, "scores"], ["output"], axis=2))
    return save_model(path, nodes, constants, (1, 3, height, width), (1, len(cells), channels), opset=opset)


def grid_of(height: int, width: int) -> np.ndarray:
    """Column, row, stride of every cell [N, 3]."""
    cells = [
        (column, row, stride)
        for stride in (8, 16, 32)
        for row in range(height // stride)
        for column in range(width // stride)
    ]
    return np.array(cells, np.float64)


def make_red_finder(
    path: Path, layout: str, height: int, width: int, rows: Sequence[tuple[float, int, float]], labels: int, total: int
) -> Path:
    """A network that finds the one red rectangle of an RGB image in [0, 1] and reports it in every one of ``rows``.

    A row is a shift to the right in px, a label and a score; rows up to ``total`` are empty.
    """
    shift, label, score = (np.array(column) for column in zip(*rows, strict=True))
    constants = {
        "reds": np.array([0], np.int64),
        "blues": np.array([2], np.int64),
        "bright": np.array(0.6, np.float32),
        "dark": np.array(0.2, np.float32),
        "one": np.array(1.0, np.float32),
        "flat": np.array([1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["images", "reds"], ["red"], axis=1),
        helper.make_node("Gather", ["images", "blues"], ["blue"], axis=1),
        helper.make_node("Greater", ["red", "bright"], ["is_bright"]),
        helper.make_node("Less", ["blue", "dark"], ["is_pure"]),
        helper.make_node("And", ["is_bright", "is_pure"], ["is_red"]),
        helper.make_node("Cast", ["is_red"], ["mask"], to=FLOAT),
    ]
    for side, axes in (("x", [1, 2]), ("y", [1, 3])):
        nodes.append(helper.make_node("ReduceMax", ["mask"], [f"{side}_line"], axes=axes, keepdims=0))
        for end, last in (("low", 0), ("high", 1)):
            name = f"{side}_{end}"
            node = helper.make_node("ArgMax", [f"{side}_line"], [f"{name}_at"], axis=1, select_last_index=last)
            nodes += [node, helper.make_node("Cast", [f"{name}_at"], [f"{name}_f"], to=FLOAT)]
            nodes.append(helper.make_node("Reshape", [f"{name}_f", "flat"], [f"{name}_edge" if last else name]))
        nodes.append(helper.make_node("Add", [f"{side}_high_edge", "one"], [f"{side}_high"]))
    nodes.append(helper.make_node("Concat", ["x_low", "y_low", "x_high", "y_high"], ["corners"], axis=1))  # [1, 4]
    pad = total - len(rows)
    present = np.pad(np.ones((len(rows), 1)), ((0, pad), (0, 0)))
    shifts = np.pad(np.stack([shift, 0 * shift, shift, 0 * shift], 1), ((0, pad), (0, 0)))
    constants["present"], constants["shifts"] = present.astype(np.float32), shifts.astype(np.float32)
    nodes.append(helper.make_node("Mul", ["present", "corners"], ["repeated"]))
    nodes.append(helper.make_node("Add", ["repeated", "shifts"], ["boxes"]))
    if layout == "end2end":
        tail = np.zeros((total, 2))
        tail[: len(rows)] = np.stack([score, label], 1)
        shape: tuple[int, ...] = (1, total, 6)
    else:
        corners_to_centre = np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])
        constants["centre"] = corners_to_centre.astype(np.float32)
        nodes[-1] = helper.make_node("Add", ["repeated", "shifts"], ["corner_rows"])
        nodes.append(helper.make_node("MatMul", ["corner_rows", "centre"], ["boxes"]))
        tail = np.zeros((total, labels))
        tail[np.arange(len(rows)), label] = score
        shape = (1, 4 + labels, total)
    constants["tail"], constants["shape"] = tail.astype(np.float32), np.array(shape, np.int64)
    nodes.append(helper.make_node("Concat", ["boxes", "tail"], ["rows"], axis=1))
    last = "rows"
    if layout == "ultralytics":
        nodes.append(helper.make_node("Transpose", ["rows"], ["columns"], perm=[1, 0]))
        last = "columns"
    nodes.append(helper.make_node("Reshape", [last, "shape"], ["output"]))
    return save_model(path, nodes, constants, (1, 3, height, width), shape)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0)
    both = sides[0] * sides[1]
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def resize_opencv(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """What pipelines do: bilinear with coefficients and results rounded to bytes."""
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_exactly(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The same without rounding, one axis after the other."""
    out = image.astype(float)
    for axis, size in enumerate((height, width)):
        at = np.clip((np.arange(size) + 0.5) * out.shape[axis] / size - 0.5, 0, out.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, out.shape[axis] - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        out = (1 - share) * out.take(low, axis) + share * out.take(high, axis)
    return out


def run_reference(
    file: Path,
    image: np.ndarray,
    class_of: dict[int, int],
    score_threshold: float,
    nms_iou: float,
    resize: Callable[[np.ndarray, int, int], np.ndarray] = resize_opencv,
) -> list[tuple[int, float, np.ndarray]]:
    """Class, score and box in the frame of what a YOLOX file finds in it, by falling score."""
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    height, width = source.shape[2:]
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_w, inner_h = int(image.shape[1] * scale), int(image.shape[0] * scale)
    padded = np.full((height, width, 3), 114.0)
    padded[:inner_h, :inner_w] = resize(image, inner_w, inner_h)
    rows = session.run(None, {source.name: padded.transpose(2, 0, 1)[None].astype(np.float32)})[0][0].astype(float)
    back = np.array([image.shape[1] / inner_w, image.shape[0] / inner_h] * 2)
    found = []
    for row, (column, line, stride) in zip(rows, grid_of(height, width), strict=True):
        scores = row[4] * row[5:]
        label = int(scores.argmax())
        if scores[label] < score_threshold or label not in class_of:
            continue
        middle = np.array([row[0] + column, row[1] + line]) * stride
        half = np.exp(row[2:4]) * stride / 2
        found.append((class_of[label], float(scores[label]), np.concatenate([middle - half, middle + half]) * back))
    found.sort(key=lambda item: -item[1])
    kept: list[tuple[int, float, np.ndarray]] = []
    for item in found:
        limits = [nms_iou if item[0] == k[0] or {item[0], k[0]} == {0, 1} else max(0.8, nms_iou) for k in kept]
        if all(iou(item[2], k[2]) <= limit for k, limit in zip(kept, limits, strict=True)):
            kept.append(item)
    return kept
