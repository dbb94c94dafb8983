"""Inputs of networks that see no frames, from an npz file: policies and forecasters, row by row or scene by scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visuomotor.deploy.export.calibration_frames import FRAMES_MIN, CalibrationError
from visuomotor.deploy.export.npz import load_arrays
from visuomotor.deploy.runtime.bundle import Bundle, TensorSpec

SCENE = "scene"  # the input that says which rows belong together


def read_inputs(path: Path, bundle: Bundle, count: int, seed: int) -> tuple[list[dict[str, np.ndarray]], int]:
    """At most ``count`` inputs of ``bundle``, a seeded choice in their order, and how many there were.

    ``path`` is an npz with an array for every input of the graph, under its name, with rows where the bundle declares a
    free dimension: one input is one row, or, for a forecaster, the rows of one ``scene``. Raises CalibrationError that
    names the array.
    """
    if path.suffix.lower() != ".npz" or not path.is_file():
        names = ", ".join(spec.name for spec in bundle.meta.inputs)
        raise CalibrationError(f"{path}: expected an npz file with {names} for a {bundle.meta.kind}")
    try:
        arrays = load_arrays(path)
    except ValueError as error:
        raise CalibrationError(str(error)) from error
    checked = {spec.name: _check(path, spec, arrays.get(spec.name)) for spec in bundle.meta.inputs}
    axes = {spec.name: _find_axis(spec) for spec in bundle.meta.inputs}
    rows = {name: array.shape[axes[name]] for name, array in checked.items()}
    if len(set(rows.values())) != 1:
        raise CalibrationError(f"{path}: expected the same number of rows in every array, got {rows}")
    cases = _split(checked, axes, next(iter(rows.values())))
    if len(cases) < FRAMES_MIN:
        raise CalibrationError(f"{path}: expected at least {FRAMES_MIN} inputs, got {len(cases)}")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(cases), min(count, len(cases)), replace=False))
    return [cases[i] for i in chosen], len(cases)


def _check(path: Path, spec: TensorSpec, array: np.ndarray | None) -> np.ndarray:
    if array is None:
        raise CalibrationError(f"{path}: {spec.name}: missing; expected {spec.dtype} {list(spec.shape)}")
    expected = tuple(spec.shape)
    fits = array.ndim == len(expected) and all(
        isinstance(size, str) or size == found for size, found in zip(expected, array.shape, strict=True)
    )
    if not fits or array.dtype.name != spec.dtype:
        found = f"{array.dtype.name} {list(array.shape)}"
        raise CalibrationError(f"{path}: {spec.name}: expected {spec.dtype} {list(spec.shape)}, got {found}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CalibrationError(f"{path}: {spec.name}: expected finite numbers")
    return array


def _find_axis(spec: TensorSpec) -> int:
    """Where the rows are: the first free dimension."""
    return next((axis for axis, size in enumerate(spec.shape) if isinstance(size, str)), 0)


def _split(arrays: dict[str, np.ndarray], axes: dict[str, int], rows: int) -> list[dict[str, np.ndarray]]:
    scene = arrays[SCENE] if SCENE in arrays else np.arange(rows)
    parts = [np.flatnonzero(scene == value) for value in np.unique(scene)]
    return [
        {name: np.ascontiguousarray(array.take(part, axes[name])) for name, array in arrays.items()} for part in parts
    ]
