"""What a lower precision costs and brings: accuracy on labels, differences of outputs, and time, all in pairs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.deploy.export.calibration_frames import CalibrationError, CameraInput
from visuomotor.deploy.runtime.bundle import Bundle, TensorSpec
from visuomotor.deploy.runtime.session import Session

AP_DRAWS = 100
AP_KEYS = ("ap50", "ap50_95")
ROUNDING = 1e-6

Arrays = Mapping[str, np.ndarray]


def measure_accuracy(
    bundle: Bundle, labels: Path, camera: CameraInput, sessions: Mapping[str, Session]
) -> dict[str, Any]:
    """AP of ``sessions`` ``before`` and ``after`` on the labelled images of ``bundle``'s camera, in points.

    ``labels`` is the folder of one split. The loss is paired: both see the same images in every draw of the bootstrap.
    Raises CalibrationError when no image is for this camera.
    """
    from visuomotor.perception.detector import Detector
    from visuomotor.perception.train.detector_data import load_cameras, read_split
    from visuomotor.perception.train.detector_eval import infer_images, score_images
    from visuomotor.perception.train.detector_metrics import Found, compute_ap
    from visuomotor.perception.train.detector_tasks import get_detector_task

    every = read_split(labels.parent, labels.name)
    images = [i for i in every if camera.takes(i.camera, i.image.shape[1], i.image.shape[0])]
    if not images:
        seen = sorted({f"{i.camera} of {i.image.shape[1]}x{i.image.shape[0]}" for i in every})
        raise CalibrationError(f"--labels: {labels}: expected {camera}, found {', '.join(seen) or 'no images'}")
    task = get_detector_task(images[0].task)
    cameras = load_cameras(labels.parent, {image.camera for image in images}, images[0].task)
    truth = [image.objects for image in images]
    found: dict[str, list[Found]] = {}
    scores: dict[str, dict[str, Any]] = {}
    placed = True  # the network itself says where an object stands
    for name, session in sessions.items():
        detector = Detector(bundle, cameras[images[0].camera], session=session)
        placed = not detector.at_foot
        found[name], _ = infer_images(detector, images)
        limits = [float(limit) for limit in detector.score_threshold]
        scores[name] = score_images(images, found[name], cameras, limits, task)
    rng = np.random.default_rng(0)
    draws: dict[str, list[list[float]]] = {name: [] for name in sessions}
    for _ in range(AP_DRAWS):
        index = rng.integers(0, len(images), len(images))
        for name in sessions:
            ap = compute_ap([truth[i] for i in index], [found[name][i] for i in index], task)
            draws[name].append([100.0 * ap[key] for key in AP_KEYS])
    drawn = {name: np.array(values) for name, values in draws.items()}
    result: dict[str, Any] = {"labels": str(labels), "images": len(images), "draws": AP_DRAWS}
    for name in sessions:
        result[name] = {
            key: _interval(100.0 * scores[name]["ap"][key], drawn[name][:, k], len(images))
            for k, key in enumerate(AP_KEYS)
        }
        near = scores[name]["positions"].get(task.near_key, {}) if placed else {}
        result[name]["by_class"] = scores[name]["ap"]["by_class"]
        result[name]["precision"], result[name]["recall"] = (scores[name]["rates"][k] for k in ("precision", "recall"))
        for key in ("lateral_median_m", "range_median_m"):
            result[name][key] = near.get(key)
    result["loss"] = {
        key: _interval(
            result["before"][key]["mean"] - result["after"][key]["mean"],
            drawn["before"][:, k] - drawn["after"][:, k],
            len(images),
        )
        for k, key in enumerate(AP_KEYS)
    }
    return result


def _interval(mean: float, draws: np.ndarray, count: int) -> dict[str, float | int]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"mean": round(mean, 3), "low": round(float(low), 3), "high": round(float(high), 3), "n": count}


def measure_differences(
    before: Session, after: Session, cases: Sequence[Arrays], specs: Sequence[TensorSpec]
) -> dict[str, Any]:
    """Largest and mean difference of every output, in normalised units: 1 is half of the declared range.

    An output without a declared range is measured in standard deviations of what ``before`` gives; of integers, the
    share that differs. Values that are not finite on one side only count as infinite.
    """
    pairs = [(before.run(case), after.run(case)) for case in cases]
    outputs: dict[str, dict[str, Any]] = {}
    for spec in specs:
        a = np.concatenate([np.ravel(x[spec.name]) for x, _ in pairs])
        b = np.concatenate([np.ravel(y[spec.name]) for _, y in pairs])
        if a.dtype.kind in "iub":
            outputs[spec.name] = {"max": float((a != b).any()), "mean": float((a != b).mean()), "unit": "share"}
            continue
        if spec.low is not None and spec.high is not None:
            unit, said = 0.5 * (spec.high - spec.low), "half of the declared range"
        else:
            unit, said = float(np.nanstd(a)), "standard deviation"
        with np.errstate(invalid="ignore"):
            error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b)) / max(unit, ROUNDING)
        error = np.where(np.isnan(error), np.inf, error)
        outputs[spec.name] = {"max": float(error.max()), "mean": float(error.mean()), "unit": said}
    floats = [value for value in outputs.values() if value["unit"] != "share"]
    return {
        "cases": len(cases),
        "max": max((value["max"] for value in floats), default=0.0),
        "mean": max((value["mean"] for value in floats), default=0.0),
        "outputs": outputs,
    }


def measure_time(before: Session, after: Session, cases: Sequence[Arrays], runs: int) -> dict[str, Any]:
    """Milliseconds of a run before and after, taken by turns; ``ratio`` is the median of the pairs, above 1 is faster.

    ``processor`` is time of the calling thread: what one CPU thread really computes, whatever else the machine does.
    """
    sessions = {"before": before, "after": after}
    wall: dict[str, list[float]] = {name: [] for name in sessions}
    processor: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(runs):
        case = cases[number % len(cases)]
        for name, session in sessions.items():
            start, used = time.perf_counter(), time.thread_time()
            session.run(case)
            processor[name].append((time.thread_time() - used) * 1e3)
            wall[name].append((time.perf_counter() - start) * 1e3)
    result: dict[str, Any] = {"runs": runs, "provider": after.provider}
    for name in sessions:
        result[name] = {
            **{f"p{p}_ms": round(float(np.percentile(wall[name], p)), 3) for p in (50, 95)},
            "processor_p50_ms": round(float(np.median(processor[name])), 3),
        }
    result["ratio"] = round(float(np.median(np.array(wall["before"]) / np.array(wall["after"]))), 2)
    result["processor_ratio"] = round(result["before"]["processor_p50_ms"] / result["after"]["processor_p50_ms"], 2)
    return result
