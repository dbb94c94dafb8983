"""Inputs for the parity of an exported policy: random and edge observations and states, and recorded episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from visuomotor.deploy.export.npz import load_arrays
from visuomotor.deploy.export.sb3_graph import HIDDEN, ObservationPart, PolicyGraph
from visuomotor.deploy.runtime.policy import EPISODE_START, StateSpec
from visuomotor.deploy.runtime.spaces import ArraySpec, SpaceError

BATCHES = (1, 2, 3, 4, 5, 6, 7, 8)
UNBOUNDED = 1e6  # a range above it says nothing about the values
HUGE = (1e3, 1e6)
Arrays = dict[str, np.ndarray]


def make_rows(graph: PolicyGraph, count: int, seed: int = 0) -> Arrays:
    """``count`` rows of every input: inside the ranges, on and beyond their bounds, zeros, huge, past the clip."""
    rng = np.random.default_rng(seed)
    rows = {part.spec.array: _make_array(part, count, rng) for part in graph.list_parts()}
    for spec in graph.state:
        rows[spec.input] = _make_state(spec, count, rng)
    if graph.state:
        rows[EPISODE_START] = rng.random(count) < 0.3
    return rows


def take_rows(graph: PolicyGraph, rows: Arrays, which: np.ndarray) -> Arrays:
    """Some rows of every input, at their own place in memory."""
    axes = {spec.input: spec.shape.index("batch") for spec in graph.state}
    return {name: np.ascontiguousarray(np.take(a, which, axis=axes.get(name, 0))) for name, a in rows.items()}


def split_batches(graph: PolicyGraph, rows: Arrays, count: int) -> Iterator[Arrays]:
    """Cases of 1 to 8 rows that together hold the first ``count`` rows."""
    at = index = 0
    while at < count:
        size = min(BATCHES[index % len(BATCHES)], count - at)
        yield take_rows(graph, rows, np.arange(at, at + size))
        at, index = at + size, index + 1


def read_recording(path: Path, specs: tuple[ArraySpec, ...]) -> list[Arrays]:
    """Episodes of raw observations from an npz: an array [T, ...] by graph input, or by key, and ``episode_start`` [T].

    Raises ValueError that names the file and the array.
    """
    try:
        data = load_arrays(path)
    except ValueError as error:
        raise ValueError(f"--recorded: {error}") from error
    start = data.pop(EPISODE_START, None)
    found = {spec.array: data.get(spec.key or spec.array, data.get(spec.array)) for spec in specs}
    missing = [name for name, array in found.items() if array is None]
    if missing or start is None:
        expected = [*(spec.key or spec.array for spec in specs), EPISODE_START]
        raise ValueError(f"--recorded: {path}: expected arrays {expected}, got {sorted(data)}")
    try:
        arrays = {spec.array: spec.to_batch(found[spec.array])[0] for spec in specs}
    except SpaceError as error:
        raise ValueError(f"--recorded: {path}: {error}") from error
    if start.ndim != 1 or {len(a) for a in arrays.values()} != {len(start)} or not start[0]:
        raise ValueError(f"--recorded: {path}: expected arrays of one length whose first row starts an episode")
    edges = [*np.flatnonzero(start), len(start)]
    return [{k: a[i:j] for k, a in arrays.items()} for i, j in pairwise(edges)]


def _make_array(part: ObservationPart, count: int, rng: np.random.Generator) -> np.ndarray:
    spec = part.spec
    if spec.kind != "box" or spec.image:
        most = np.array(spec.choices or (256 if spec.image else 2,)) - 1
        values = rng.integers(0, most + 1, (count, *spec.shape))
        edge = rng.random(count) < 0.1
        values[edge] = np.where(rng.random(values[edge].shape) < 0.5, 0, most)
        return values.astype(spec.dtype)
    middle, half = _measure(part)
    size = (count, *spec.shape)
    scale = _by_row(rng.choice([0.3, 1.0, 1.0, 1.0, 3.0], count), spec.shape)
    values = middle + half * scale * rng.uniform(-1.0, 1.0, size)
    kind = _by_row(rng.integers(0, 12, count), spec.shape)
    sign = np.where(rng.random(size) < 0.5, -1.0, 1.0)
    values = np.where(kind == 0, middle + half * sign, values)  # corners of the ranges
    values = np.where(kind == 1, middle + 30.0 * half * sign, values)  # beyond any clip
    values = np.where(kind == 2, np.where(rng.random(size) < 0.5, 0.0, values), values)
    for number, huge in enumerate(HUGE, start=3):
        values = np.where((kind == number) & (rng.random(size) < 0.3), sign * huge, values)
    values[0] = 0.0
    values[1] = np.where(rng.random(spec.shape) < 0.5, 1e-30, -1e-30)
    if np.dtype(spec.dtype).kind in "iu":
        limits = np.iinfo(spec.dtype)
        values = np.clip(np.round(values), limits.min // 2, limits.max // 2 if limits.bits > 8 else limits.max)
    if spec.dtype == "float16":
        values = np.clip(values, -6e4, 6e4)
    return values.astype(spec.dtype)


def _measure(part: ObservationPart) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of the values: of the space, where it has bounds, else of the statistics, else 0 and 1."""
    spec = part.spec
    low = np.array([-np.inf if v is None else v for v in spec.low]).reshape(spec.shape)
    high = np.array([np.inf if v is None else v for v in spec.high]).reshape(spec.shape)
    bounded = (low > -UNBOUNDED) & (high < UNBOUNDED)
    middle, half = np.zeros(spec.shape), np.full(spec.shape, 2.0)
    if part.clip is not None and tuple(part.mean.shape) == spec.shape:
        middle, half = part.mean.numpy(), 2.0 * part.deviation.numpy()
    with np.errstate(invalid="ignore"):
        middle = np.where(bounded, 0.5 * (low + high), middle)
        return middle, np.where(bounded, 0.5 * (high - low), half)


def _make_state(spec: StateSpec, count: int, rng: np.random.Generator) -> np.ndarray:
    size = [count if isinstance(n, str) else n for n in spec.shape]
    if spec.dtype in ("uint8", "bool"):
        return rng.integers(0, 256 if spec.dtype == "uint8" else 2, size).astype(spec.dtype)
    values = rng.uniform(-1.0, 1.0, size) if spec.input == HIDDEN else rng.normal(0.0, 1.5, size)
    return values.astype(spec.dtype)


def _by_row(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return values.reshape(-1, *[1] * len(shape))


def flatten(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The float arrays, whose last digit may be turned."""
    return ((name, a) for name, a in arrays.items() if a.dtype.kind == "f")
