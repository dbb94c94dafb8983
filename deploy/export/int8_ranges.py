"""Ranges of a graph's tensors over calibration inputs, and three ways to cut them off.

One pass for the extremes and one for histograms, so that memory does not grow with the number of inputs. One thread:
the same inputs give the same ranges to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
import onnx

from visuomotor.deploy.runtime.session import Session, make_session

BINS = 2048
VALUES_MAX = 32768  # of one tensor in one run that go into its histogram
PERCENTILE = 99.999
CUT_SHARES = (0.3, 1.0, 71)  # of the whole range, from, to and how many are tried by ``Method.mse``

Arrays = Mapping[str, np.ndarray]
Range = tuple[float, float]


class Method(StrEnum):
    """How the range of a tensor follows from the values seen."""

    minmax = "minmax"
    percentile = "percentile"
    mse = "mse"


class Histograms:
    """Extremes and histogram of each of some tensors over inputs."""

    def __init__(self, low: dict[str, float], high: dict[str, float]) -> None:
        self.low, self.high = low, high
        self.counts = {name: np.zeros(BINS, np.int64) for name in low}

    def range(self, name: str, method: Method) -> Range:
        """Least and greatest value to be represented; zero always is."""
        low, high = min(self.low[name], 0.0), max(self.high[name], 0.0)
        if method is Method.minmax or high <= low:
            return low, high
        counts = self.counts[name]
        edges = np.linspace(low, high, BINS + 1)
        if method is Method.percentile:
            share = np.cumsum(counts) / max(counts.sum(), 1)
            tail = (1.0 - PERCENTILE / 100.0) / (1.0 if low == 0.0 or high == 0.0 else 2.0)
            first = int(np.searchsorted(share, tail, side="right")) if low < 0.0 else 0
            last = int(np.searchsorted(share, 1.0 - tail, side="left")) if high > 0.0 else BINS - 1
            return float(min(edges[first], 0.0)), float(max(edges[last + 1], 0.0))
        share = min(np.linspace(*CUT_SHARES), key=lambda share: _error(counts, edges, low * share, high * share))
        return low * float(share), high * float(share)


def _error(counts: np.ndarray, edges: np.ndarray, low: float, high: float) -> float:
    """Sum of squared errors of values in a histogram, rounded to 8 bits between ``low`` and ``high``."""
    centre = 0.5 * (edges[1:] + edges[:-1])
    clipped = np.where(centre < low, low - centre, np.where(centre > high, centre - high, 0.0))
    rounding = ((high - low) / 255.0) ** 2 / 12.0
    return float((counts * np.where(clipped > 0.0, clipped**2, rounding)).sum())


def collect(model: onnx.ModelProto, tensors: Sequence[str], cases: Sequence[Arrays]) -> Histograms:
    """Run every case through the graph and look at ``tensors``, float outputs of its nodes or inputs of it."""
    inputs = {value.name for value in model.graph.input}
    watched = [name for name in tensors if name not in inputs]
    session = _open_with_outputs(model, watched)
    low, high = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
    for case in cases:
        for name, value in _values(session, case, tensors):
            low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    bad = next((name for name in tensors if not np.isfinite([low[name], high[name]]).all()), None)
    if bad is not None:
        raise ValueError(f"tensor {bad}: expected finite values on the calibration inputs, got {low[bad]}, {high[bad]}")
    found = Histograms(low, high)
    for case in cases:
        for name, value in _values(session, case, tensors):
            span = (min(low[name], 0.0), max(high[name], 0.0))
            if span[0] < span[1]:
                every = value.size // VALUES_MAX | 1  # odd, or rows of an image would always be cut at the same columns
                found.counts[name] += np.histogram(value.ravel()[::every], BINS, span)[0]
    return found


def run_outputs(model: onnx.ModelProto, tensors: Sequence[str], cases: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """Values of ``tensors`` in every case."""
    session = _open_with_outputs(model, tensors)
    found = [session.run(case) for case in cases]
    return [{name: values[name] for name in tensors} for values in found]


def _values(session: Session, case: Arrays, tensors: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    found = {**case, **session.run(case)}
    return [(name, found[name]) for name in tensors if found[name].size]


def _open_with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> Session:
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    there = {value.name for value in probed.graph.output}
    for name in tensors:
        if name not in there:
            probed.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return make_session(probed.SerializeToString(), "cpu", threads=1)
