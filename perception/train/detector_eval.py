"""Scores of detector bundles on a labelled split, through the same ONNX Runtime path that the robot runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.deploy.runtime.bundle import Bundle, load_bundle
from visuomotor.messages.camera import CameraModel
from visuomotor.perception.detector import Detector, move_to_centre
from visuomotor.perception.train.detector_data import LabelledImage, group_by_size, load_cameras, read_split
from visuomotor.perception.train.detector_metrics import (
    Found,
    bootstrap,
    compute_ap,
    match,
    measure_positions,
    rate_matches,
    summarise_positions,
)
from visuomotor.perception.train.detector_tasks import DetectorTask, get_detector_task

AP_DRAWS = 60  # bootstrap draws of AP: each is a whole COCO evaluation


def eval_detector(
    bundles: str | Path | Bundle | Sequence[str | Path | Bundle],
    data: Path,
    split: str = "test",
    *,
    limit: int | None = None,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Score one or several bundles on the images of their size in ``data/split``.

    Returns ``{"split", "summary", "all", "<bundle name>": ...}``; each part has ``ap``, ``rates``, ``positions`` and
    ``images``, bundles also ``latency_ms``; ``summary`` holds the headline figures with 95 % intervals over images.
    Raises ValueError when no image fits any bundle, BundleError for a bad bundle.
    """
    listed = [bundles] if isinstance(bundles, str | Path | Bundle) else list(bundles)
    loaded = [b if isinstance(b, Bundle) else load_bundle(b, "detector") for b in listed]
    groups = group_by_size(read_split(data, split, limit))
    if not groups:
        raise ValueError(f"{data / split}: expected labelled images, got none")
    task = get_detector_task(groups[0][0].task)
    cameras = load_cameras(data, {i.camera for g in groups for i in g}, task.task.name)
    result: dict[str, Any] = {"split": split, "data": str(data)}
    every: list[LabelledImage] = []
    all_found: list[Found] = []
    thresholds: list[float] = []
    for bundle in loaded:
        size = next(spec.shape for spec in bundle.meta.inputs if spec.name == "frame")
        images: list[LabelledImage] = next((g for g in groups if (1, *g[0].image.shape) == size), [])
        if not images:
            continue
        detector = Detector(bundle, cameras[images[0].camera], device=device, threads=threads, task=task.perception)
        found, latency = infer_images(detector, images)
        if detector.at_foot:
            found = [_move_feet(f, i, cameras[i.camera]) for f, i in zip(found, images, strict=True)]
        thresholds = [float(t) for t in detector.score_threshold]
        result[bundle.name] = {
            **score_images(images, found, cameras, thresholds, task),
            "latency_ms": {f"p{p}": float(np.percentile(latency, p)) for p in (50, 95, 99)},
            "provider": detector.session.provider,
            "digest": bundle.digest,
        }
        every += images
        all_found += found
    if not every:
        shapes = [b.meta.inputs[0].shape for b in loaded]
        raise ValueError(f"{data / split}: no image of a size that the bundles take; expected one of {shapes}")
    result["all"] = score_images(every, all_found, cameras, thresholds, task)
    result["summary"] = summarise(every, all_found, cameras, thresholds, task)
    return result


def infer_images(detector: Detector, images: Sequence[LabelledImage]) -> tuple[list[Found], list[float]]:
    """Everything found in each image down to the graph's least score, and the wall-clock time of each frame in ms."""
    found, latency = [], []
    for image in images:
        start = time.perf_counter()
        outputs = detector.infer(image.image)
        latency.append((time.perf_counter() - start) * 1e3)
        found.append(Found(**outputs))
    return found, latency


def _move_feet(found: Found, image: LabelledImage, camera: CameraModel) -> Found:
    """With the image of the footprint's centre in place of the box's foot, as run time places it."""
    foot_m = camera.ground(found.ground_px, image.roll_rad, image.pitch_rad)
    centre_m = np.pad(move_to_centre(foot_m, camera, found.size_m), ((0, 0), (0, 1)))
    ground_px, _ = camera.project(centre_m, image.roll_rad, image.pitch_rad)
    return replace(found, ground_px=ground_px.astype(np.float32))


def score_images(
    images: Sequence[LabelledImage],
    found: Sequence[Found],
    cameras: Mapping[str, Any],
    thresholds: Sequence[float],
    task: DetectorTask,
) -> dict[str, Any]:
    """AP, rates at the deployed thresholds, and position errors."""
    truth = [image.objects for image in images]
    matches = match(truth, found, task)
    return {
        "images": len(images),
        "ap": compute_ap(truth, found, task),
        "thresholds": dict(zip(task.task.class_names, thresholds, strict=True)),
        "rates": rate_matches(matches, thresholds, len(images), task),
        "positions": summarise_positions(measure_positions(images, found, matches, cameras, thresholds, task), task),
    }


def summarise(
    images: Sequence[LabelledImage],
    found: Sequence[Found],
    cameras: Mapping[str, Any],
    thresholds: Sequence[float],
    task: DetectorTask,
) -> dict[str, dict[str, float | int]]:
    """The figures of the bars, each with a 95 % interval by bootstrap over images."""
    truth = [image.objects for image in images]
    matches = match(truth, found, task)
    errors = measure_positions(images, found, matches, cameras, thresholds, task)
    near = errors.distance_m < task.near_m
    values = {
        "position_lateral_median_m": np.abs(errors.lateral_m),
        "position_range_median_m": np.abs(errors.range_m),
        "position_range_excess_median": np.abs(errors.range_m)
        / np.maximum(task.allowed_m, task.allowed_share * errors.distance_m),
    }
    of_image = [np.flatnonzero(near & (errors.image == i)) for i in range(len(images))]
    summary: dict[str, dict[str, float | int]] = {}
    for key in ("ap50", "ap50_95"):

        def score(index: np.ndarray, key: str = key) -> float:
            return float(compute_ap([truth[i] for i in index], [found[i] for i in index], task)[key])

        summary[key] = bootstrap(score, len(images), draws=AP_DRAWS)
    for name, error in values.items():

        def median(index: np.ndarray, error: np.ndarray = error) -> float:
            picked = [of_image[i] for i in index if len(of_image[i])]
            return float(np.median(error[np.concatenate(picked)])) if picked else float("nan")

        summary[name] = bootstrap(median, len(images))
    return summary
