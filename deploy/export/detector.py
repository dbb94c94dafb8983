"""Detector weights -> bundles: one graph in static shapes per camera kind, parity with torch, thresholds, report."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from visuomotor.deploy.export.parity import Arrays, ParityResult, check_parity
from visuomotor.deploy.export.portable import strip_traces
from visuomotor.deploy.runtime.bundle import Bundle, BundleMeta, write_bundle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.perception.detector_contract import OUTPUT_NAMES, frame_spec, output_specs
from visuomotor.perception.train.detector_checkpoint import load_weights, save_weights
from visuomotor.perception.train.detector_data import LabelledImage, group_by_size, load_cameras, read_split
from visuomotor.perception.train.detector_eval import eval_detector
from visuomotor.perception.train.detector_graph import MIN_SCORE, DetectorGraph
from visuomotor.perception.train.detector_infer import calibration_batches, find_objects
from visuomotor.perception.train.detector_metrics import (
    choose_thresholds,
    compute_ap,
    fit_position_sigma,
    match,
    measure_positions,
    rate_matches,
    summarise_positions,
)
from visuomotor.perception.train.detector_model import STRIDES_PX, DetectorConfig, DetectorModel, recalibrate
from visuomotor.perception.train.detector_tasks import DetectorTask, get_detector_task

SCORE_MARGIN = 1e-5  # rounding of scores
ATOL, RTOL = 5e-3, 2e-3  # pixels, for the most part
CALIBRATION_IMAGES = 2000


class ExportGraph(torch.nn.Module):
    """``DetectorGraph`` for one frame, without the batch dimension on the outputs."""

    def __init__(self, graph: DetectorGraph) -> None:
        super().__init__()
        self.detector = graph  # torch.export has its own use for the name 'graph'

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Frame [1, H, W, 3] uint8 -> the arrays of ``OUTPUT_NAMES``."""
        return tuple(output[0] for output in self.detector(frame))


def export_onnx(model: DetectorModel, height: int, width: int) -> bytes:
    """Serialised ONNX graph for frames of one size."""
    plain = copy.deepcopy(model)
    plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    graph = ExportGraph(DetectorGraph(plain, height, width)).eval()
    frame = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        graph,
        (frame,),
        input_names=["frame"],
        output_names=list(OUTPUT_NAMES),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return strip_traces(program.model_proto.SerializeToString())


def check_export(model: DetectorModel, data: bytes, real: list[np.ndarray], height: int, width: int) -> ParityResult:
    """Parity of the graph with torch on real frames, noise, black, white and a gradient.

    Objects whose scores differ by less than rounding may come in either order: torch's are brought into the graph's.
    Frames with a score within rounding of the least one kept are left out: there the count may differ by one.
    """
    graph = ExportGraph(DetectorGraph(copy.deepcopy(model).eval(), height, width)).eval()
    session = make_session(data, device="cpu")

    @torch.no_grad()
    def run_torch(arrays: Arrays) -> dict[str, np.ndarray]:
        outputs = graph(torch.from_numpy(arrays["frame"]))
        return {name: value.numpy() for name, value in zip(OUTPUT_NAMES, outputs, strict=True)}

    def run_in_order(arrays: Arrays) -> Arrays:
        return _reorder(run_torch(arrays), session.run(arrays))

    def is_decided(arrays: Arrays) -> bool:
        score = run_torch(arrays)["score"]
        return not bool(np.any((score > 0.0) & (score < MIN_SCORE + SCORE_MARGIN)))

    cases = [case for case in _cases(real, height, width) if is_decided(case)]
    return check_parity(run_in_order, session, cases, atol=ATOL, rtol=RTOL)


def _reorder(reference: dict[str, np.ndarray], found: Arrays) -> dict[str, np.ndarray]:
    """Rows of ``reference`` in the order of ``found``, moving a row only among those of equal score within rounding."""
    count = int(reference["count"])
    if count != int(found["count"]):
        return reference
    left, order = list(range(count)), []
    for i in range(count):
        near = [j for j in left if abs(reference["score"][j] - found["score"][i]) < SCORE_MARGIN] or left[:1]
        best = min(near, key=lambda j: float(np.abs(reference["box_px"][j] - found["box_px"][i]).sum()))
        left.remove(best)
        order.append(best)
    order += range(count, len(reference["score"]))
    return {name: value if value.ndim == 0 else value[order] for name, value in reference.items()}


def _cases(real: list[np.ndarray], height: int, width: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = (1, height, width, 3)
    for value in (0, 114, 255):
        yield {"frame": np.full(shape, value, np.uint8)}
    yield {"frame": np.broadcast_to(np.linspace(0, 255, width)[None, None, :, None], shape).astype(np.uint8)}
    for _ in range(4):
        yield {"frame": rng.integers(0, 256, shape, dtype=np.uint8)}
    for image in real:
        yield {"frame": image[None]}


def export_detector(
    run: Path, data: Path, out: Path, *, test_split: str | None = "test", real_frames: int = 24
) -> list[Bundle]:
    """Bundles in ``out`` with the names of the task's row, as far as the data has images of such cameras.

    Batch-norm statistics come from ``data/train``, thresholds and position covariance from ``data/val``, the figures in
    the bundle from ``data/<test_split>`` when given. Raises ParityError when the graph differs from torch.
    """
    settings: dict[str, Any] = json.loads((run / "config.json").read_text())
    model = DetectorModel(msgspec.convert(settings["config"]["model"], DetectorConfig))
    load_weights(model, run / "best.safetensors")
    train = group_by_size(read_split(data, "train", CALIBRATION_IMAGES))
    val = group_by_size(read_split(data, "val"))
    bundles = []
    for group in val:
        height, width = group[0].image.shape[:2]
        source = next((g for g in train if g[0].image.shape == group[0].image.shape), group)
        task = get_detector_task(group[0].task)
        name = _bundle_name(task, {image.camera for image in group})
        tuned = copy.deepcopy(model)
        recalibrate(tuned, calibration_batches(source, seed=0, count=16))
        bundles.append(
            _write(tuned, group, task, name, settings, run, data, out, height, width, test_split, real_frames)
        )
    return bundles


def _bundle_name(task: DetectorTask, cameras: set[str]) -> str:
    """The first camera of the row that is among those of the images names the bundle."""
    for camera, name in task.bundles.items():
        if camera in cameras:
            return name
    raise ValueError(f"cameras: expected some of {', '.join(task.bundles)}, got {', '.join(sorted(cameras))}")


def _write(
    model: DetectorModel,
    val: list[LabelledImage],
    task: DetectorTask,
    name: str,
    settings: dict[str, Any],
    run: Path,
    data: Path,
    out: Path,
    height: int,
    width: int,
    test_split: str | None,
    real_frames: int,
) -> Bundle:
    graph = export_onnx(model, height, width)
    step = max(1, len(val) // max(real_frames, 1))
    parity = check_export(model, graph, [i.image for i in val[::step]], height, width).raise_if_failed()
    found = find_objects(model, [i.image for i in val])
    truth = [i.objects for i in val]
    matches = match(truth, found, task)
    thresholds = choose_thresholds(matches, task)
    cameras = load_cameras(data, {i.camera for i in val}, task.task.name)
    errors = measure_positions(val, found, matches, cameras, thresholds, task)
    metrics = {
        "val": {
            "ap": compute_ap(truth, found, task),
            "rates": rate_matches(matches, thresholds, len(val), task),
            "positions": summarise_positions(errors, task),
            "images": len(val),
        }
    }
    class_names = task.task.class_names
    meta = BundleMeta(
        kind="detector",
        task=task.task.name,
        inputs=(frame_spec(height, width),),
        outputs=output_specs(len(class_names)),
        class_names=class_names,
        training={
            **settings,
            "history": _history(run)[-1:],
            "batch_norm": "training images of this size",
        },
        code_revision=str(settings.get("revision", "")),
        metrics=metrics,
        parity=parity.to_meta(),
        extra={
            "camera": {"width": width, "height": height, "names": sorted(cameras)},
            "score_threshold": dict(zip(class_names, thresholds, strict=True)),
            "position_sigma": fit_position_sigma(errors, task),
            "strides_px": STRIDES_PX,
            "heading": "n times the yaw in ego minus the direction of the picture's upright, n the class's symmetry",
            "symmetry": list(task.task.symmetry),
        },
    )
    path = out / name
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_weights(model, weights)
        bundle = write_bundle(path, model=graph, meta=meta, report=write_report(meta, _history(run)), weights=weights)
        if test_split is None:
            return bundle
        scores = eval_detector(bundle, data, test_split)
        meta.metrics = {**metrics, test_split: {**scores[bundle.name], "summary": scores["summary"]}}
        return write_bundle(path, model=graph, meta=meta, report=write_report(meta, _history(run)), weights=weights)


def _history(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_report(meta: BundleMeta, history: list[dict[str, Any]]) -> str:
    """Markdown account of the training and the scores."""
    camera, task = meta.extra["camera"], get_detector_task(meta.task)
    least = f"at least {task.min_height_px:g} px high and {100 * task.min_visible:.0f} % visible"
    digits = task.digits
    lines = [
        f"# Detector for {', '.join(camera['names'])} ({camera['width']}x{camera['height']})",
        "",
        "Residual CNN with a feature pyramid, outputs at strides 4 to 32, suppression inside the graph.",
        "The weights are shared between camera kinds; the batch-norm statistics are those of this image size.",
        "",
        f"Revision {meta.code_revision or 'unknown'}, data `{meta.training.get('data')}`, "
        f"seed {meta.training.get('config', {}).get('seed')}.",
        "",
        "## Training",
        "",
        "| minutes | step | AP50 (val) | AP50:95 (val) |",
        "|---|---|---|---|",
    ]
    lines += [f"| {h['minutes']:.1f} | {h['step']} | {h['ap50']:.3f} | {h['ap50_95']:.3f} |" for h in history]
    for split, scores in meta.metrics.items():
        lines += ["", f"## Scores on {split}", ""]
        lines += [f"{scores['images']} images; objects {least}.", ""]
        lines += ["| class | AP50 | AP50:95 | precision | recall |", "|---|---|---|---|---|"]
        rates = scores["rates"]["by_class"]
        for name, ap in scores["ap"]["by_class"].items():
            r = rates.get(name, {"precision": 0.0, "recall": 0.0})
            lines.append(
                f"| {name} | {ap['ap50']:.3f} | {ap['ap50_95']:.3f} | {r['precision']:.3f} | {r['recall']:.3f} |"
            )
        lines.append(
            f"| macro | {scores['ap']['ap50']:.3f} | {scores['ap']['ap50_95']:.3f} | "
            f"{scores['rates']['precision']:.3f} | {scores['rates']['recall']:.3f} |"
        )
        lines += [
            "",
            "| range (m) | objects | lateral median (m) | range median (m) | range 90 % (m) |",
            "|---|---|---|---|---|",
        ]
        for row in scores["positions"]["by_range"]:
            lines.append(
                f"| {row['from_m']:g}-{row['to_m']:g} | {row['objects']} | {row['lateral_median_m']:.{digits}f} | "
                f"{row['range_median_m']:.{digits}f} | {row['range_p90_m']:.{digits}f} |"
            )
        for name, value in scores.get("summary", {}).items():
            mean, low, high = (f"{value[key]:.{digits + 1}f}" for key in ("mean", "low", "high"))
            lines.append(f"\n{name}: {mean} [{low}, {high}]")
    lines += [
        "",
        f"Parity with torch over {meta.parity['cases']} frames: largest error {meta.parity['max_abs_error']:.2g}.",
    ]
    return "\n".join(lines) + "\n"
