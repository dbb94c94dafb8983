"""How good detections are: COCO AP, precision and recall at the deployed threshold, recall and position error by range.

Counted are objects as high and as visible as the task's row says; the others are ignored, found or not (COCO's crowd
rule). Means over classes are macro: every class counts the same, however rare.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from visuomotor.messages.camera import CameraModel
from visuomotor.perception.train.detector_data import LabelledImage, Objects
from visuomotor.perception.train.detector_tasks import DetectorTask

MATCH_IOU = 0.5


@dataclass(kw_only=True)
class Found:
    """Detections of one image, N of them, by falling score."""

    box_px: np.ndarray  # [N, 4]
    score: np.ndarray  # [N]
    class_id: np.ndarray  # [N]
    ground_px: np.ndarray  # [N, 2]
    heading: np.ndarray  # [N, 2] sine and cosine of the observation angle times the class's symmetry
    size_m: np.ndarray  # [N, 2]


def is_counted(objects: Objects, task: DetectorTask) -> np.ndarray:
    """Which objects the bars are about, bool [N]."""
    height = objects.box_px[:, 3] - objects.box_px[:, 1]
    return (height >= task.min_height_px) & (objects.visible_share >= task.min_visible)


def compute_ap(truth: Sequence[Objects], found: Sequence[Found], task: DetectorTask) -> dict[str, Any]:
    """COCO AP at IoU 0.50 and averaged over 0.50:0.95: ``ap50``, ``ap50_95``, and by class where it occurs."""
    class_names = task.task.class_names
    images = [{"id": i + 1, "width": 1, "height": 1} for i in range(len(truth))]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (objects, detected) in enumerate(zip(truth, found, strict=True)):
        counted = is_counted(objects, task)
        for j in range(len(objects)):
            x0, y0, x1, y1 = objects.box_px[j].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": int(objects.class_id[j]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(not counted[j]),
                }
            )
        for box, score, class_id in zip(detected.box_px, detected.score, detected.class_id, strict=True):
            x0, y0, x1, y1 = box.tolist()
            bbox = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": i + 1, "category_id": int(class_id) + 1, "bbox": bbox, "score": float(score)})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(class_names)]
    present = {a["category_id"] - 1 for a in annotations if not a["iscrowd"]}
    by_class = {class_names[i]: {"ap50": 0.0, "ap50_95": 0.0} for i in sorted(present)}
    if results and present:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO({"images": images, "annotations": annotations, "categories": categories})
            evaluation = COCOeval_faster(coco, coco.loadRes(results), iouType="bbox")
            evaluation.evaluate()
            evaluation.accumulate()
        # [IoU threshold, recall, class, area range, detections per image]: all areas, at most 100 detections
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        for i in sorted(present):
            by_class[class_names[i]] = {
                "ap50": float(precision[0, :, i].mean()),
                "ap50_95": float(precision[:, :, i].mean()),
            }
    mean = {key: float(np.mean([c[key] for c in by_class.values()] or [0.0])) for key in ("ap50", "ap50_95")}
    return {**mean, "by_class": by_class}


@dataclass(kw_only=True)
class Matches:
    """Outcome of matching detections with labels over several images; arrays over detections and over labels."""

    score: np.ndarray  # [D] of every detection that is right or wrong (not ignored)
    class_id: np.ndarray  # [D]
    image: np.ndarray  # [D] position of its image in the split
    right: np.ndarray  # bool [D]
    truth_image: np.ndarray  # [G] counted labels
    truth_class_id: np.ndarray  # [G]
    truth_distance_m: np.ndarray  # [G]
    truth_score: np.ndarray  # [G] score of the detection that found it, 0 when none did
    pair: np.ndarray  # int [G] index of that detection in its image, -1 when none
    truth_index: np.ndarray  # int [G] index of the label in its image


def match(truth: Sequence[Objects], found: Sequence[Found], task: DetectorTask) -> Matches:
    """Greedy by falling score, same class, IoU >= 0.5; what lies on an ignored object is neither right nor wrong."""
    detections: list[tuple[float, int, int, bool]] = []
    labels: list[tuple[int, int, float, float, int, int]] = []
    for i, (objects, detected) in enumerate(zip(truth, found, strict=True)):
        counted = is_counted(objects, task)
        iou, share = _overlaps(detected.box_px, objects.box_px)
        taken = np.full(len(objects), -1)
        for j in np.argsort(-detected.score, kind="stable"):
            same = objects.class_id == detected.class_id[j]
            best = np.where(same & counted & (taken < 0), iou[j], 0.0) if len(objects) else np.zeros(0)
            if best.size and best.max() >= MATCH_IOU:
                taken[best.argmax()] = j
                detections.append((detected.score[j], int(detected.class_id[j]), i, True))
            elif not np.any(same & ~counted & (share[j] >= MATCH_IOU)):
                detections.append((detected.score[j], int(detected.class_id[j]), i, False))
        for k in np.flatnonzero(counted):
            score = detected.score[taken[k]] if taken[k] >= 0 else 0.0
            labels.append((i, int(objects.class_id[k]), objects.distance_m[k], score, int(taken[k]), int(k)))
    d = np.array(detections, np.float64).reshape(-1, 4)
    g = np.array(labels, np.float64).reshape(-1, 6)
    return Matches(
        score=d[:, 0],
        class_id=d[:, 1].astype(int),
        image=d[:, 2].astype(int),
        right=d[:, 3] > 0,
        truth_image=g[:, 0].astype(int),
        truth_class_id=g[:, 1].astype(int),
        truth_distance_m=g[:, 2],
        truth_score=g[:, 3],
        pair=g[:, 4].astype(int),
        truth_index=g[:, 5].astype(int),
    )


def _overlaps(detected: np.ndarray, labelled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU, and the share of each detection that lies on each label, both [D, G]."""
    low = np.maximum(detected[:, None, :2], labelled[None, :, :2])
    high = np.minimum(detected[:, None, 2:], labelled[None, :, 2:])
    overlap = (high - low).clip(0.0).prod(-1)
    area = (detected[:, 2:] - detected[:, :2]).prod(-1)[:, None]
    other = (labelled[:, 2:] - labelled[:, :2]).prod(-1)[None]
    return overlap / np.maximum(area + other - overlap, 1e-6), overlap / np.maximum(area, 1e-6)


def choose_thresholds(m: Matches, task: DetectorTask, low: float = 0.2, high: float = 0.6) -> list[float]:
    """Score threshold of each class with the best F-score (``threshold_beta``); 0.3 for a class that never occurs."""
    thresholds = []
    for c, beta in enumerate(task.threshold_beta):
        grid = np.arange(low, high + 1e-9, 0.01)
        total = int((m.truth_class_id == c).sum())
        score, right = m.score[m.class_id == c], m.right[m.class_id == c]
        hits = np.array([(right & (score >= t)).sum() for t in grid])
        reported = np.array([(score >= t).sum() for t in grid])
        f = (1.0 + beta**2) * hits / np.maximum(beta**2 * total + reported, 1.0)
        thresholds.append(round(float(grid[int(np.argmax(f))]), 2) if total else 0.3)
    return thresholds


def rate_matches(m: Matches, thresholds: Sequence[float], images: int, task: DetectorTask) -> dict[str, Any]:
    """Precision, recall, misses and false positives at the deployed thresholds; by class, and recall by range."""
    limit = np.asarray(thresholds)
    used = m.score >= limit[m.class_id]
    hit = (m.truth_score >= limit[m.truth_class_id]) & (m.pair >= 0)
    by_class = {}
    for c, name in enumerate(task.task.class_names):
        of_class, truth = used & (m.class_id == c), m.truth_class_id == c
        if not truth.any():
            continue
        recall = float(hit[truth].mean())
        by_class[name] = {
            "objects": int(truth.sum()),
            "precision": float(m.right[of_class].mean()) if of_class.any() else 0.0,
            "recall": recall,
            "false_negative_rate": 1.0 - recall,
            "false_positives_per_image": float((~m.right[of_class]).sum() / max(images, 1)),
        }
    keys = ("precision", "recall", "false_negative_rate", "false_positives_per_image")
    macro = {key: float(np.mean([c[key] for c in by_class.values()] or [0.0])) for key in keys}
    by_range = []
    for low, high in itertools.pairwise(task.range_edges_m):
        inside = (m.truth_distance_m >= low) & (m.truth_distance_m < high)
        if inside.any():
            by_range.append(
                {"from_m": low, "to_m": high, "objects": int(inside.sum()), "recall": float(hit[inside].mean())}
            )
    return {**macro, "by_class": by_class, "recall_by_range": by_range}


@dataclass(kw_only=True)
class PositionErrors:
    """Errors of the metric positions of right detections, P of them."""

    image: np.ndarray  # [P]
    class_id: np.ndarray  # [P]
    distance_m: np.ndarray  # [P] true horizontal range from the camera
    found_distance_m: np.ndarray  # [P]
    range_m: np.ndarray  # [P] signed, found minus true along the viewing ray
    lateral_m: np.ndarray  # [P] signed, across it
    heading_rad: np.ndarray  # [P] absolute error of the observation angle; NaN where the detector does not tell it
    size_m: np.ndarray  # [P, 2] absolute


def measure_positions(
    images: Sequence[LabelledImage],
    found: Sequence[Found],
    m: Matches,
    cameras: Mapping[str, CameraModel],
    thresholds: Sequence[float],
    task: DetectorTask,
) -> PositionErrors:
    """Ground points of right detections above the threshold, projected with each image's roll and pitch.

    Objects that are lifted are left out: a point on the ground is not where they are.
    """
    rows = []
    limit = np.asarray(thresholds)
    for g in np.flatnonzero((m.pair >= 0) & (m.truth_score >= limit[m.truth_class_id])):
        image, detected, k, j = images[m.truth_image[g]], found[m.truth_image[g]], m.truth_index[g], m.pair[g]
        if not image.objects.grounded[k]:
            continue
        camera = cameras[image.camera]
        position = camera.ground(detected.ground_px[j : j + 1], image.roll_rad, image.pitch_rad)[0]
        origin = np.asarray(camera.ego_position_m[:2])
        true, guess = image.objects.ego_position_m[k] - origin, position - origin
        distance = float(np.hypot(*true))
        if camera.looks_down:  # the direction of the ray says little near the point below the camera
            axis = true / max(distance, 1e-9)
            reach, lateral = float(guess @ axis), float(guess[1] * axis[0] - guess[0] * axis[1])
        elif np.isfinite(guess).all():
            turn = np.arctan2(guess[1], guess[0]) - np.arctan2(true[1], true[0])
            turn = np.arctan2(np.sin(turn), np.cos(turn))
            reach, lateral = float(np.hypot(*guess)), distance * turn
        else:
            reach = lateral = np.inf  # above the horizon: counted as an infinite error, not dropped
        sine, cosine = detected.heading[j]
        order = task.task.symmetry[m.truth_class_id[g]]
        angle = np.arctan2(sine, cosine) - order * image.objects.angle_rad[k] if order and (sine or cosine) else np.nan
        angle = abs(np.arctan2(np.sin(angle), np.cos(angle))) / max(order, 1)
        size = np.abs(detected.size_m[j] - image.objects.size_m[k])
        rows.append((m.truth_image[g], m.truth_class_id[g], distance, reach, reach - distance, lateral, angle, *size))
    r = np.array(rows, np.float64).reshape(-1, 9)
    return PositionErrors(
        image=r[:, 0].astype(int),
        class_id=r[:, 1].astype(int),
        distance_m=r[:, 2],
        found_distance_m=r[:, 3],
        range_m=r[:, 4],
        lateral_m=r[:, 5],
        heading_rad=r[:, 6],
        size_m=r[:, 7:9],
    )


def summarise_positions(e: PositionErrors, task: DetectorTask) -> dict[str, Any]:
    """Median and 90 % errors of near objects and by range; ``range_excess`` is the median of error over the allowed."""
    learned = np.array(task.heading_weight) > 0.0

    def row(mask: np.ndarray) -> dict[str, Any]:
        across, along = np.abs(e.lateral_m[mask]), np.abs(e.range_m[mask])
        allowed = np.maximum(task.allowed_m, task.allowed_share * e.distance_m[mask])
        turning = mask & learned[e.class_id] & np.isfinite(e.heading_rad)
        return {
            "objects": int(mask.sum()),
            "lateral_median_m": float(np.median(across)),
            "lateral_p90_m": float(np.quantile(across, 0.9, method="lower")),
            "range_median_m": float(np.median(along)),
            "range_p90_m": float(np.quantile(along, 0.9, method="lower")),
            "range_bias_m": float(np.median(e.range_m[mask])),
            "range_excess_median": float(np.median(along / allowed)),
            "heading_median_rad": float(np.median(e.heading_rad[turning])) if turning.any() else None,
            "length_median_m": float(np.median(e.size_m[mask, 0])),
            "width_median_m": float(np.median(e.size_m[mask, 1])),
        }

    result: dict[str, Any] = {}
    near = e.distance_m < task.near_m
    if near.any():
        result[task.near_key] = row(near)
        names = enumerate(task.task.class_names)
        result["by_class"] = {n: row(near & (e.class_id == c)) for c, n in names if (near & (e.class_id == c)).any()}
    result["by_range"] = []
    for low, high in itertools.pairwise(task.range_edges_m):
        inside = (e.distance_m >= low) & (e.distance_m < high)
        if inside.any():
            result["by_range"].append({"from_m": low, "to_m": high, **row(inside)})
    return result


def fit_position_sigma(e: PositionErrors, task: DetectorTask, minimum: int = 20) -> dict[str, list[float]]:
    """Standard deviations along and across the ray over the found range, to interpolate in.

    Robust (1.4826 times the median absolute error, and not below half of the 90 % error) because a Kalman filter gates
    its outliers. Bins with fewer than ``minimum`` objects are left out; without any, the row's wide default.
    """
    table: dict[str, list[float]] = {"range_m": [], "along_m": [], "across_m": []}
    edges = task.sigma_edges_m
    for low, high in itertools.pairwise(edges):
        inside = (e.found_distance_m >= low) & (e.found_distance_m < high)
        if inside.sum() < minimum:
            continue
        table["range_m"].append(float(e.found_distance_m[inside].mean()))
        for key, values in (("along_m", e.range_m), ("across_m", e.lateral_m)):
            error = np.abs(values[inside])
            robust = max(1.4826 * np.median(error), 0.5 * np.quantile(error, 0.9, method="lower"), task.sigma_floor_m)
            table[key].append(float(robust))
    if not table["range_m"]:
        along, across = task.sigma_default_m
        table = {"range_m": [edges[0], edges[-1]], "along_m": list(along), "across_m": list(across)}
    return table


def bootstrap(
    metric: Callable[[np.ndarray], float], images: int, *, draws: int = 200, seed: int = 0
) -> dict[str, float | int]:
    """``metric`` of image indices: its value on all, and the 95 % interval over resampled images."""
    rng = np.random.default_rng(seed)
    values = [metric(rng.integers(0, images, images)) for _ in range(draws)] if images else [0.0]
    low, high = np.nanquantile(values, (0.025, 0.975))
    return {"mean": metric(np.arange(images)), "low": float(low), "high": float(high), "n": images}
