"""Perception as one node of the process table: detector, tracker and forecaster chained in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visuomotor.deploy.runtime.tuning import read_tuning
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.graph import Chain
from visuomotor.messages.node import Node
from visuomotor.perception.forecaster import load_forecaster
from visuomotor.perception.forecaster_node import ForecasterNode
from visuomotor.perception.tracker_node import TrackerNode
from visuomotor.perception.truth_node import BlindPerceptionNode, TruthPerceptionNode

MODES = ("real", "truth", "blind")


def create(config: dict[str, Any]) -> Node:
    """The perception node of a process table.

    Keys: ``cameras`` (YAML paths), ``detector`` (camera name -> bundle), ``device``, ``threads``, ``runtime``
    (``deploy.runtime.tuning.Tuning``), ``forecaster`` and ``mode``. ``forecaster`` is a bundle, "cv", "kalman" or
    "none"; ``mode`` is "real", "truth" (tracks from the simulator) or "blind" (no tracks). Raises ValueError that names
    the key and what was expected.
    """
    mode = config.get("mode", "real")
    if mode not in MODES:
        raise ValueError(f"perception.mode: expected one of {', '.join(MODES)}, got {mode!r}")
    device, threads = str(config.get("device", "auto")), int(config.get("threads", 1))
    cameras = [_load(camera) for camera in config.get("cameras", ())]
    tuning = read_tuning(config.get("runtime"))
    name = config.get("forecaster", "none")
    forecaster = ForecasterNode(load_forecaster(name, device=device, threads=threads, tuning=tuning))
    names = tuple(camera.name for camera in cameras)
    if mode == "truth":
        return Chain("perception", [TruthPerceptionNode(names), forecaster])
    if mode == "blind":
        return Chain("perception", [BlindPerceptionNode(names), forecaster])
    if not cameras:
        raise ValueError("perception.cameras: expected at least one calibration file, got none")
    from visuomotor.perception.detector_node import create as create_detector

    return Chain("perception", [create_detector(config), TrackerNode(cameras), forecaster])


def _load(camera: str | Path | CameraModel) -> CameraModel:
    return camera if isinstance(camera, CameraModel) else load_camera(Path(camera))
