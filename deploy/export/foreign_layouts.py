"""The three layouts of detector outputs that can be imported: what goes in, which shape comes out, how boxes are read.

- ``yolox``: BGR 0 to 255, letterboxed into the upper left corner; [1, cells, 5 + C], undecoded grid of strides 8, 16
  and 32: centre offset and log size in cells, objectness, class scores (Ge et al. 2021, YOLOX, and its export script).
- ``ultralytics``: RGB 0 to 1, letterboxed in the middle; [1, 4 + C, N]: centre and size in input pixels, class scores.
- ``end2end``: the same input; [1, N, 6]: corners in input pixels, score, class; suppressed already.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
import numpy as np

from visuomotor.deploy.export.foreign_onnx import ForeignModel, ForeignModelError
from visuomotor.deploy.export.graph_builder import GraphBuilder

GRID_STRIDES_PX = (8, 16, 32)
PAD_VALUE = 114.0  # grey of letterbox borders in all of them


class Layout(StrEnum):
    """How a detector's output is laid out."""

    yolox = "yolox"
    ultralytics = "ultralytics"
    end2end = "end2end"

    @property
    def is_rgb(self) -> bool:
        """RGB from 0 to 1, the frame in the middle of the letterbox; otherwise BGR from 0 to 255, in its corner."""
        return self is not Layout.yolox

    @property
    def default_score(self) -> float:
        """Least score that the makers' own demonstrations show."""
        return 0.3 if self is Layout.yolox else 0.25

    @property
    def default_iou(self) -> float:
        """Overlap above which the weaker of two boxes of a class goes, as the makers have it."""
        return {Layout.yolox: 0.45, Layout.ultralytics: 0.7, Layout.end2end: 0.8}[self]


class Letterbox(msgspec.Struct, frozen=True, kw_only=True):
    """Where a frame lies in the network's input: its scaled size and its upper left corner, px."""

    height: int
    width: int
    top: int
    left: int


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    """Names of tensors over all N rows of an output: corners in input pixels [N, 4], label [N] (int64), score [N]."""

    corner_px: str
    label: str
    score: str


def fit_letterbox(layout: Layout, frame: tuple[int, int], into: tuple[int, int]) -> Letterbox:
    """Letterbox of a frame (height, width) in an input (height, width), rounded as the layout's makers round it."""
    scale = min(into[0] / frame[0], into[1] / frame[1])
    if not layout.is_rgb:
        return Letterbox(height=max(int(frame[0] * scale), 1), width=max(int(frame[1] * scale), 1), top=0, left=0)
    height, width = max(round(frame[0] * scale), 1), max(round(frame[1] * scale), 1)
    top, left = (round((outer - inner) / 2 - 0.1) for outer, inner in zip(into, (height, width), strict=True))
    return Letterbox(height=height, width=width, top=max(top, 0), left=max(left, 0))


def check_output(model: ForeignModel, layout: Layout, labels: int) -> int:
    """Number of rows N of an output that fits layout and number of labels.

    Raises ForeignModelError with the shape found and the one expected.
    """
    shape, rows = model.output_shape, "N"
    if layout is Layout.end2end:
        fits, expected = len(shape) == 3 and (shape[0], shape[2]) == (1, 6), "(1, N, 6)"
    elif layout is Layout.ultralytics:
        fits = len(shape) == 3 and shape[:2] == (1, 4 + labels)
        expected = f"(1, {4 + labels}, N), 4 and one for each of {labels} labels"
    else:
        if model.height % 32 or model.width % 32:
            found = f"{model.width}x{model.height}"
            raise ForeignModelError(f"{model.path}: input: yolox: expected sides that are multiples of 32, got {found}")
        rows = str(len(make_grid(model.height, model.width)))
        fits = shape == (1, int(rows), 5 + labels)
        expected = f"(1, {rows}, {5 + labels}), 5 and one for each of {labels} labels"
    if not fits:
        where = f"{model.path}: output {model.output_name}"
        raise ForeignModelError(f"{where}: layout {layout.value}: expected the shape {expected}; got {shape}")
    return shape[2] if layout is Layout.ultralytics else shape[1]


def make_grid(height: int, width: int) -> np.ndarray:
    """Column, row and stride of every cell in the order of the output, float32 [N, 3]."""
    levels = []
    for stride in GRID_STRIDES_PX:
        row, column = np.mgrid[: height // stride, : width // stride]
        levels.append(np.stack([column.ravel(), row.ravel(), np.full(row.size, stride)], axis=1))
    return np.concatenate(levels).astype(np.float32)


def read_candidates(build: GraphBuilder, layout: Layout, model: ForeignModel, raw: str, labels: int) -> Candidates:
    """Nodes that read boxes, labels and scores from the network's output ``raw``."""
    rows = build.reshape(build.to_float(raw), *model.output_shape[1:])
    if layout is Layout.end2end:
        return _read_end2end(build, rows, labels)
    if layout is Layout.ultralytics:
        rows = build.op("Transpose", rows, perm=[1, 0])
        centre, size = build.columns(rows, 0, 2), build.columns(rows, 2, 4)
        scores = build.columns(rows, 4, 4 + labels)
    else:
        grid = make_grid(model.height, model.width)
        stride = build.constant(grid[:, 2:])
        cell = build.op("Add", build.columns(rows, 0, 2), build.constant(grid[:, :2]))
        centre = build.op("Mul", cell, stride)
        size = build.op("Mul", build.op("Exp", build.columns(rows, 2, 4)), stride)
        scores = build.op("Mul", build.columns(rows, 5, 5 + labels), build.columns(rows, 4, 5))
    half = build.op("Mul", size, build.constant(0.5))
    corners = build.op("Concat", build.op("Sub", centre, half), build.op("Add", centre, half), axis=1)
    best = build.op("ArgMax", scores, axis=1, keepdims=1)
    score = build.op("GatherElements", scores, best, axis=1)
    return Candidates(corner_px=corners, label=build.reshape(best, -1), score=build.reshape(score, -1))


def _read_end2end(build: GraphBuilder, rows: str, labels: int) -> Candidates:
    """A row whose class is none of the labels gets score 0."""
    label = build.reshape(build.columns(rows, 5, 6), -1)
    above = build.op("Greater", label, build.constant(-0.5))
    known = build.op("And", above, build.op("Less", label, build.constant(labels - 0.5)))
    zero = build.constant(0.0)
    rounded = build.op("Floor", build.op("Add", build.op("Where", known, label, zero), build.constant(0.5)))
    score = build.op("Where", known, build.reshape(build.columns(rows, 4, 5), -1), zero)
    return Candidates(corner_px=build.columns(rows, 0, 4), label=build.to_int(rounded), score=score)
