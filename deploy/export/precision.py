"""A bundle in lower precision: made, measured against its source, and written only where the loss is within limits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.deploy.export.calibration_frames import (
    CalibrationError,
    CameraInput,
    choose_frames,
    find_split,
    read_camera_input,
)
from visuomotor.deploy.export.fp16 import convert_to_half
from visuomotor.deploy.export.given_inputs import read_inputs
from visuomotor.deploy.export.int8 import Int8Builder
from visuomotor.deploy.export.precision_loss import measure_accuracy, measure_differences, measure_time
from visuomotor.deploy.export.precision_report import write_report
from visuomotor.deploy.export.recorded_inputs import record_inputs
from visuomotor.deploy.export.revision import find_revision
from visuomotor.deploy.runtime.bundle import (
    META_FILE,
    MODEL_FILE,
    Bundle,
    BundleError,
    check_place,
    load_bundle,
    write_bundle,
)
from visuomotor.deploy.runtime.session import Session, make_session

HELD_OUT = 4  # every so manieth input is not calibrated with but decides between methods
TIMED_RUNS = 300
WORTH_RATIO = 1.05  # below, a lower precision brings nothing

Say = Callable[[str], None]
Arrays = dict[str, np.ndarray]


class Precision(StrEnum):
    """What weights and activations are held in."""

    int8 = "int8"
    fp16 = "fp16"


class PrecisionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to make, from what, and how much it may cost.

    ``max_loss_points``: of AP, the larger one of AP50 and AP50:95. ``max_difference``: of outputs, in normalised units,
    for what has no AP. ``unchecked``: a detector without ``labels`` is written all the same.
    """

    precision: Precision
    calibrate: Path | None = None
    labels: Path | None = None
    max_loss_points: float = 1.0
    max_difference: float = 0.1
    frames: int = 200
    seed: int = 0
    unchecked: bool = False
    device: str = "auto"
    timed_runs: int = TIMED_RUNS


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """``bundle`` is None when the loss passed the limit; ``facts`` is ``extra.precision`` of ``bundle.json``."""

    bundle: Bundle | None
    facts: dict[str, Any]

    @property
    def verdict(self) -> str:
        """One line: accepted, unchecked or refused, and why."""
        return str(self.facts["verdict"]["text"])


def quantize_bundle(source: str | Path, out: Path, settings: PrecisionSettings, say: Say = print) -> Outcome:
    """Make, measure and, if it passes, write ``out``; the source is left alone.

    Raises BundleError, CalibrationError, QuantizeError or DeviceError (all ValueErrors) for what cannot be used.
    """
    bundle = load_bundle(source)
    _check_settings(bundle, out, settings)
    camera = read_camera_input(bundle) if bundle.meta.kind == "detector" else None
    labels = find_split(settings.labels, last=True) if settings.labels is not None else None
    if settings.labels is not None and labels is None:
        raise CalibrationError(
            f"--labels: {settings.labels}: expected a data set with test/annotations.json, found none"
        )
    before = make_session(bundle, settings.device)
    cases, calibration = _read_cases(bundle, camera, settings, labels)
    say(f"{calibration['kind']}: {len(cases)} of {calibration['available']} from {calibration['source']}")
    model, how = _convert(bundle, settings.precision, cases)
    calibration.update(how.pop("calibration", {}))
    after = make_session(model, settings.device)
    _check_contract(bundle, before, after)
    held_out = cases[HELD_OUT - 1 :: HELD_OUT]
    facts: dict[str, Any] = {
        "precision": settings.precision.value,
        "source": {"name": bundle.name, "digest": bundle.digest, MODEL_FILE: bundle.meta.sha256[MODEL_FILE]},
        "calibration": calibration,
        "conversion": how,
        "size_bytes": {"before": bundle.model_path.stat().st_size, "after": len(model)},
        "device": after.device,
    }
    if camera is not None and labels is not None:
        say(f"measuring on {labels}")
        facts["accuracy"] = measure_accuracy(bundle, labels, camera, {"before": before, "after": after})
    if camera is None:
        facts["difference"] = measure_differences(before, after, held_out, bundle.meta.outputs)
    facts["time"] = measure_time(before, after, held_out, settings.timed_runs)
    facts["verdict"] = judge(facts, settings)
    if facts["verdict"]["decision"] == "refused":
        return Outcome(bundle=None, facts=facts)
    meta = msgspec.structs.replace(
        bundle.meta,
        code_revision=find_revision() or bundle.meta.code_revision,
        metrics={key: facts[key] for key in ("accuracy", "difference") if key in facts},
        parity={},
        extra={**bundle.meta.extra, "precision": facts},
    )
    return Outcome(bundle=write_bundle(out, model=model, meta=meta, report=write_report(bundle, facts)), facts=facts)


def judge(facts: dict[str, Any], settings: PrecisionSettings) -> dict[str, Any]:
    """Accepted, unchecked or refused; whether it is worth its loss in time; and both in a line."""
    gain = facts["time"]["ratio"]
    worth = gain >= WORTH_RATIO
    said = (
        f"{gain:.2f} x as fast on {facts['device']}" if worth else f"not worth it on {facts['device']} ({gain:.2f} x)"
    )
    if "accuracy" in facts:
        loss, unit = max(value["mean"] for value in facts["accuracy"]["loss"].values()), "AP points"
        limit = settings.max_loss_points
        certain = max(value["high"] for value in facts["accuracy"]["loss"].values()) <= limit
    elif "difference" in facts:
        loss, unit, limit = facts["difference"]["max"], "normalised units at most", settings.max_difference
        certain = True
    else:
        text = f"unchecked: the loss was not measured; {said}"
        return {"decision": "unchecked", "worth_it": worth, "text": text}
    refused = not math.isfinite(loss) or loss > limit
    decision = "refused" if refused else "accepted"
    text = f"{decision}: {loss:.3g} {unit} lost, limit {limit:g}; {said}"
    if not refused and not certain:
        text += "; the labels are too few to be sure (see the interval)"
    return {"decision": decision, "loss": loss, "limit": limit, "certain": certain, "worth_it": worth, "text": text}


def _check_settings(bundle: Bundle, out: Path, settings: PrecisionSettings) -> None:
    kind = bundle.meta.kind
    if "precision" in bundle.meta.extra:
        found = bundle.meta.extra["precision"].get("precision")
        raise BundleError(f"{bundle.path / META_FILE}: extra.precision: expected a float bundle, got {found}")
    if out.resolve() == bundle.path.resolve():
        raise BundleError(f"--out: {out}: is the bundle itself; expected another folder")
    check_place(out, "--out: ")
    if kind != "detector":
        if settings.labels is not None or settings.unchecked:
            raise CalibrationError(
                f"--labels, --unchecked: a {kind} has no AP; its loss is the difference of its outputs on --calibrate, "
                "limited by --max-difference"
            )
    elif settings.labels is None and not settings.unchecked:
        raise CalibrationError(
            "--labels: expected a labelled data set to measure the loss on (visuomotor render TASK --only test); "
            "--unchecked writes the bundle without knowing what it lost"
        )
    elif settings.labels is not None and settings.unchecked:
        raise CalibrationError("--unchecked: expected without --labels: with labels the loss is measured")
    if settings.calibrate is None and (settings.precision is Precision.int8 or settings.labels is None):
        raise CalibrationError("--calibrate: expected frames (images, a data set, a video, a recording) or an npz")


def _read_cases(
    bundle: Bundle, camera: CameraInput | None, settings: PrecisionSettings, labels: Path | None
) -> tuple[list[Arrays], dict[str, Any]]:
    """Inputs of the graph and where they came from; the labelled images where nothing else is given (fp16)."""
    path = settings.calibrate or labels
    assert path is not None
    if camera is None:
        if path.suffix.lower() == ".npz":
            cases, available = read_inputs(path, bundle, settings.frames, settings.seed)
            kind = "inputs"
        else:
            cases, available = record_inputs(path, bundle, settings.frames, settings.seed)
            kind = "recorded inputs"
        used, source = cases, str(path)
    else:
        if settings.calibrate is not None and labels is not None and find_split(path, last=False) == labels:
            raise CalibrationError(f"--calibrate: {labels}: expected other images than those of --labels")
        chosen = choose_frames(path, camera, settings.frames, settings.seed)
        used = [{"frame": image[None]} for image in chosen.frames]
        available, kind, source = chosen.available, chosen.kind, chosen.source
    return used, {"source": source, "kind": kind, "count": len(used), "available": available, "seed": settings.seed}


def _convert(bundle: Bundle, precision: Precision, cases: list[Arrays]) -> tuple[bytes, dict[str, Any]]:
    """The new graph, and how it was made; of 8 bits, the method that served the inputs held out best."""
    data = bundle.model_path.read_bytes()
    if precision is Precision.fp16:
        return convert_to_half(data), {"format": "float16 between the first weights and the heads"}
    held_out = cases[HELD_OUT - 1 :: HELD_OUT]
    builder = Int8Builder(data, [case for i, case in enumerate(cases) if i % HELD_OUT != HELD_OUT - 1])
    method, figures = builder.choose(held_out)
    model = builder.build(method)
    return model, {
        "format": "QDQ",
        "activations": "uint8, asymmetric, by tensor",
        "weights": f"int8, symmetric, by channel{', of 7 bits' if builder.reduce_range else ''}",
        "reduce_range": builder.reduce_range,
        "nodes": len(builder.selection.nodes),
        "work_share": round(builder.selection.work_share, 4),
        "runs_as": {"cpu": "int8", "cuda": "float32", "tensorrt": "not taken: it wants signed, symmetric activations"},
        "calibration": {
            "method": method.value,
            "signal_over_error_db": {name.value: value for name, value in figures.items()},
            "held_out": len(held_out),
            "inputs_sha256": _hash(cases),
        },
    }


def _hash(cases: list[Arrays]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        for name in sorted(case):
            digest.update(name.encode() + np.ascontiguousarray(case[name]).tobytes())
    return digest.hexdigest()


def _check_contract(bundle: Bundle, before: Session, after: Session) -> None:
    """The new graph takes and gives what the bundle declares."""
    for what in ("input_names", "output_names", "input_shapes", "input_dtypes"):
        old, new = getattr(before, what), getattr(after, what)
        if old != new:
            raise BundleError(f"{bundle.name}: {what}: expected {old}, got {new} after conversion")
