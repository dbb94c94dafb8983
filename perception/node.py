"""Perception as one node of the process table: detector, tracker and forecaster chained in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visuomotor.deploy.runtime.tuning import read_tuning
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.graph import Chain
from visuomotor.messages.node import Node
from visuomotor.messages.tasks import DEFAULT_TASK
from visuomotor.perception.forecaster import load_forecaster
from visuomotor.perception.forecaster_node import ForecasterNode
from visuomotor.perception.tasks import get_perception
from visuomotor.perception.tracker_node import TrackerNode
from visuomotor.perception.truth_node import BlindPerceptionNode, TruthPerceptionNode

MODES = ("real", "truth", "blind")


def create(config: dict[str, Any]) -> Node:
    """The perception node of a process table.

    Keys: ``task`` (by default the detector's, or the first there was), ``cameras`` (YAML paths), ``detector`` (camera
    name -> bundle), ``device``, ``threads``, ``runtime`` (``deploy.runtime.tuning.Tuning``), ``forecaster`` and
    ``mode``. ``forecaster`` is as ``load_forecaster`` takes it; ``mode`` is "real", "truth" (tracks from the
    simulator) or "blind" (no tracks). Raises ValueError that names the key and what was expected.
    """
    mode = config.get("mode", "real")
    if mode not in MODES:
        raise ValueError(f"perception.mode: expected one of {', '.join(MODES)}, got {mode!r}")
    device, threads = str(config.get("device", "auto")), int(config.get("threads", 1))
    cameras = [_load(camera) for camera in config.get("cameras", ())]
    tuning = read_tuning(config.get("runtime"))
    names = tuple(camera.name for camera in cameras)
    if moving := [camera.name for camera in cameras if camera.on_hand and mode == "real"]:
        raise ValueError(
            f"perception.detector.{moving[0]}: expected 'none': the camera is on the hand, and nothing that it shows "
            "can be placed without the joints"
        )
    before: list[Node]
    if mode == "real":
        if not cameras:
            raise ValueError("perception.cameras: expected at least one calibration file, got none")
        from visuomotor.perception.detector_node import create as create_detector

        detector = create_detector(config)
        task = detector.task
        before = [detector, TrackerNode(cameras, task)]
    else:
        task = get_perception(config.get("task") or DEFAULT_TASK)
        before = [TruthPerceptionNode(task, names) if mode == "truth" else BlindPerceptionNode(task, names)]
    forecaster = load_forecaster(
        config.get("forecaster", "none"), task=task, device=device, threads=threads, tuning=tuning
    )
    return Chain("perception", [*before, ForecasterNode(forecaster)])


def _load(camera: str | Path | CameraModel) -> CameraModel:
    return camera if isinstance(camera, CameraModel) else load_camera(Path(camera))
