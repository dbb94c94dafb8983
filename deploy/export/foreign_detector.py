"""A detector's ONNX file of somebody else -> a bundle of kind ``detector``, tried out on noise on the way.

No torch: the file is taken as it is, and nodes are written around it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from visuomotor.deploy.export.detector_labels import map_labels, read_labels, read_map
from visuomotor.deploy.export.foreign_graph import Choices, build_graph
from visuomotor.deploy.export.foreign_layouts import Layout, check_output, make_grid
from visuomotor.deploy.export.foreign_onnx import ForeignModel, ForeignModelError, read_foreign
from visuomotor.deploy.export.portable import strip_traces
from visuomotor.deploy.export.revision import find_revision
from visuomotor.deploy.runtime.bundle import Bundle, BundleMeta, write_bundle
from visuomotor.deploy.runtime.session import Session, make_session
from visuomotor.messages.tasks import DEFAULT_TASK
from visuomotor.perception.detector_contract import frame_spec, output_specs
from visuomotor.perception.tasks import PerceptionTask, get_perception

# Of the network's input. From frame to frame of a highway video the lower edge of YOLOX-Nano's boxes jumps by 0.45 px
# (RMS); three times that leaves room for what does not average out: the body's pitch, and boxes too low or too high.
FOOT_SIGMA_PX = 1.5
SIDE_MAX_PX = 8192
DECODED_CORRELATION = 0.98  # of x with the cell's own x: boxes that are decoded already follow the grid


class ForeignSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a foreign detector. ``width`` and ``height`` are those of the camera's frames.

    ``score_threshold`` and ``nms_iou`` default to what the layout's makers use; ``map_file`` changes which label
    means which class.
    """

    layout: Layout
    labels: Path
    width: int
    height: int
    map_file: Path | None = None
    score_threshold: float | None = None
    nms_iou: float | None = None
    task: str = DEFAULT_TASK


def import_detector(onnx_file: Path, out: Path, settings: ForeignSettings) -> Bundle:
    """Bundle in ``out`` with raw frames in and the contract of ``perception.detector_contract`` out.

    Raises ForeignModelError that names the file, what was found and what was expected.
    """
    layout = settings.layout
    score = _check_share("score threshold", settings.score_threshold, layout.default_score)
    iou = _check_share("NMS IoU", settings.nms_iou, layout.default_iou)
    if not (1 <= settings.width <= SIDE_MAX_PX and 1 <= settings.height <= SIDE_MAX_PX):
        found = f"{settings.width}x{settings.height}"
        raise ForeignModelError(f"camera: expected sides from 1 to {SIDE_MAX_PX} px, got {found}")
    labels = read_labels(settings.labels)
    task = get_perception(settings.task)
    changes = read_map(settings.map_file, task.task) if settings.map_file is not None else {}
    meaning = map_labels(labels, changes, task.task, settings.labels, settings.map_file)
    model = read_foreign(onnx_file)
    rows = check_output(model, layout, len(labels))
    _probe(model, layout, len(labels))
    names = task.task.class_names
    classes = tuple(names.index(meaning[label]) if label in meaning else -1 for label in labels)
    choices = Choices(layout=layout, rows=rows, classes=classes, task=task, score_threshold=score, nms_iou=iou)
    graph = build_graph(model, (settings.height, settings.width), choices)
    data = strip_traces(graph.SerializeToString())
    _try(data, onnx_file, settings, len(names))
    meta = _describe(model, settings, choices, meaning)
    return write_bundle(out, model=data, meta=meta, report=_report(meta, onnx_file.name))


def _check_share(what: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if not 0.0 < value <= 1.0:
        raise ForeignModelError(f"{what}: expected a number above 0 and up to 1, got {value}")
    return value


def _probe(model: ForeignModel, layout: Layout, labels: int) -> None:
    """Run the foreign network alone and look at what the shapes don't tell."""
    session = _open(model.path, model.path)
    rng = np.random.default_rng(0)
    image = rng.uniform(0.0, 1.0 if layout.is_rgb else 255.0, (1, 3, model.height, model.width))
    raw = next(iter(session.run({model.input_name: image.astype(model.input_dtype)}).values())).astype(np.float32)
    where = f"{model.path}: output {model.output_name}"
    if raw.shape != model.output_shape:
        expected = f"expected the shape {model.output_shape} that the file declares"
        raise ForeignModelError(f"{where}: {expected}, got {raw.shape}")
    if layout is Layout.yolox:
        scores = raw[0, :, 4:]
        column = make_grid(model.height, model.width)[:, [0, 2]].prod(axis=1)
        spread = float(raw[0, :, 0].std())
        if spread > 0.0 and np.corrcoef(raw[0, :, 0], column)[0, 1] > DECODED_CORRELATION:
            raise ForeignModelError(
                f"{where}: layout yolox: expected boxes that are not decoded, got decoded ones; "
                "export without --decode_in_inference"
            )
    elif layout is Layout.ultralytics:
        scores = raw[0, 4:]
    else:
        scores = raw[0, :, 4]
        if (wrong := raw[0, :, 5])[(wrong < -0.5) | (wrong > labels - 0.5)].size:
            raise ForeignModelError(f"{where}: classes up to {wrong.max():.0f}: expected as many labels, got {labels}")
    if not np.isfinite(scores).all() or scores.min() < 0.0 or scores.max() > 1.0:
        found = f"{scores.min():.3g} to {scores.max():.3g}"
        raise ForeignModelError(f"{where}: layout {layout.value}: expected scores from 0 to 1, got {found}")


def _open(source: bytes | Path, file: Path) -> Session:
    try:
        return make_session(source, device="cpu")
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise ForeignModelError(f"{file}: does not run: {reason}") from error


def _try(data: bytes, file: Path, settings: ForeignSettings, classes: int) -> None:
    """The finished graph runs and keeps its contract on noise."""
    session = _open(data, file)
    frame = np.random.default_rng(0).integers(0, 256, (1, settings.height, settings.width, 3), dtype=np.uint8)
    found = session.run({"frame": frame})
    for spec in output_specs(classes):
        if found[spec.name].shape != spec.shape or not np.isfinite(found[spec.name]).all():
            raise ForeignModelError(f"{file}: {spec.name}: expected finite values {spec.shape}")


def _describe(model: ForeignModel, settings: ForeignSettings, choices: Choices, meaning: dict[str, str]) -> BundleMeta:
    task: PerceptionTask = choices.task
    names = task.task.class_names
    scale = min(model.height / settings.height, model.width / settings.width)
    return BundleMeta(
        kind="detector",
        task=task.name,
        inputs=(frame_spec(settings.height, settings.width),),
        outputs=output_specs(len(names)),
        class_names=names,
        training={
            "imported": model.path.name,
            "sha256": hashlib.sha256(model.path.read_bytes()).hexdigest(),
            "layout": settings.layout.value,
            "network_input": {"width": model.width, "height": model.height},
            "labels": meaning,
            "nms_iou": choices.nms_iou,
        },
        code_revision=find_revision(),
        extra={
            "camera": {"width": settings.width, "height": settings.height, "names": []},
            "score_threshold": dict.fromkeys(names, choices.score_threshold),
            "ground_point": "foot",
            "heading": "unknown",
            "size_m": dict(zip(names, task.placement.size_prior_m, strict=True)),
            "position_sigma": {"foot_px": FOOT_SIGMA_PX / scale},
        },
    )


def _report(meta: BundleMeta, file: str) -> str:
    camera, training = meta.extra["camera"], meta.training
    network, score = training["network_input"], max(meta.extra["score_threshold"].values())
    lines = [
        f"# Imported detector for {camera['width']}x{camera['height']}",
        "",
        f"Made from `{file}` (SHA-256 {training['sha256']}), layout {training['layout']}, "
        f"network input {network['width']}x{network['height']}.",
        "Letterbox, decoding, class mapping, threshold and suppression are in the graph.",
        "",
        f"Score threshold {score:g}, suppression above IoU {training['nms_iou']:g}.",
        "",
        "| label of the network | class of the task |",
        "|---|---|",
        *(f"| {label} | {name} |" for label, name in training["labels"].items()),
        "",
        "Not known, and stood in for: the heading (motion tells it), the size (typical of the class), the footprint's "
        "centre (the box's foot, and half a typical length behind it), the error of positions (from "
        f"{meta.extra['position_sigma']['foot_px']:.2f} px of the foot). No accuracy was measured: "
        "`visuomotor eval detector` does that on labelled images of this camera size.",
    ]
    return "\n".join(lines) + "\n"
