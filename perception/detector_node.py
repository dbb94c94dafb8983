"""The detector as a node: camera frames and the robot's state in, one detections message for all cameras out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.deploy.runtime.placement import describe_placement, merge_placements
from visuomotor.deploy.runtime.tuning import read_tuning
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import CameraFrame, Detections, Episode, Header, Message
from visuomotor.perception.camera_health import CameraHealth
from visuomotor.perception.detector import CameraDetections, Detector, make_detectors, merge_detections
from visuomotor.perception.robot_pose import RobotPose, read_pose
from visuomotor.perception.tasks import get_perception

MAX_SKEW_S = 0.05  # frames further apart than half a tick don't belong together


class DetectorNode:
    """Runs one detector per camera. The first camera triggers; the others contribute when their frame is of this tick.

    ``detections.cameras`` names the cameras that contributed. The message is valid when the triggering frame and the
    robot's state are; a missing side camera leaves it valid, with that camera absent. A camera that is stuck or dark
    counts as missing, and ``note`` says so.
    """

    name = "detector"
    outputs = ("detections",)
    period_s: float | None = None

    def __init__(self, detectors: Mapping[str, Detector], at_once: bool = False) -> None:
        if not detectors:
            raise ValueError("detector: expected at least one camera with a bundle, got none")
        self.detectors = dict(detectors)
        self.trigger, *others = self.detectors
        self.task = self.detectors[self.trigger].task
        self._state = self.task.task.state
        self.inputs = (
            Input(self.trigger, trigger=True),
            *(Input(name) for name in others),
            Input(self._state),
        )
        self.health = {name: CameraHealth() for name in self.detectors}
        self.stages: list[tuple[str, int, int]] = []  # name, start and end on the monotonic clock
        self._pool = ThreadPoolExecutor(len(self.detectors), "camera") if at_once and len(self.detectors) > 1 else None
        sessions = list(dict.fromkeys(detector.session for detector in self.detectors.values()))
        placement = merge_placements(session.placement for session in sessions)
        self.provider = describe_placement(placement, sessions[0].provider)

    @property
    def note(self) -> str:
        """What is wrong with the cameras; empty when nothing is."""
        return "; ".join(f"{name} {health.fault}" for name, health in self.health.items() if health.fault)

    def warm_up(self) -> None:
        """Run every network once on a black frame."""
        for detector in self.detectors.values():
            detector.detect(np.zeros((detector.camera.height, detector.camera.width, 3), np.uint8))

    def reset(self, episode: Episode) -> None:
        """Forget what the cameras showed."""
        for health in self.health.values():
            health.reset()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Detections of all cameras that have a frame of this tick."""
        self.stages.clear()
        lead = inputs.get_message(self.trigger, CameraFrame)
        state = inputs[self._state].message
        if lead is None:
            return {}
        robot = RobotPose() if state is None else read_pose(state)
        images: dict[str, np.ndarray] = {}
        for name in self.detectors:
            frame = inputs.get_message(name, CameraFrame)
            if frame is None or not inputs[name].ok:
                continue
            if abs(frame.header.t_capture_ns - lead.header.t_capture_ns) > MAX_SKEW_S * 1e9:
                continue
            if not self.health[name].look(np.asarray(frame.image), robot.sweep_mps):
                images[name] = np.asarray(frame.image)
        look = map if self._pool is None else self._pool.map
        found: dict[str, CameraDetections] = {}
        for name, (raw, started_ns, inferred_ns) in zip(images, look(self._infer, images.items()), strict=True):
            self.stages.append((f"infer_{name}", started_ns, inferred_ns))
            placing_ns = time.monotonic_ns()
            found[name] = self.detectors[name].place(raw, robot.roll_rad, robot.pitch_rad)
            self.stages.append((f"place_{name}", placing_ns, time.monotonic_ns()))
        message: Detections = merge_detections(found)
        message.header = Header(valid=self.trigger in found and inputs[self._state].ok)
        return {"detections": message}

    def _infer(self, look: tuple[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int, int]:
        name, image = look
        started_ns = time.monotonic_ns()
        return self.detectors[name].infer(image), started_ns, time.monotonic_ns()

    def close(self) -> None:
        """Sessions are released with the node."""
        if self._pool is not None:
            self._pool.shutdown()
        self.detectors.clear()


def create(config: dict[str, Any]) -> DetectorNode:
    """Detector node of a process table.

    Keys: ``cameras`` (YAML paths, the first triggers), ``detector`` (camera name -> bundle), ``device``, ``threads``,
    ``runtime`` (``deploy.runtime.tuning.Tuning``), ``attitude_sigma_rad`` (uncertainty of the body's roll and pitch),
    ``task`` (that the bundles have to be made for; by default that of the first). Raises ValueError that names the key.
    """
    cameras = [c if isinstance(c, CameraModel) else load_camera(Path(c)) for c in config.get("cameras", ())]
    by_name = {camera.name: camera for camera in cameras}
    bundles = config.get("detector")
    if not isinstance(bundles, Mapping) or not bundles:
        raise ValueError(f"perception.detector: expected camera name -> bundle, got {bundles!r}")
    tuning = read_tuning(config.get("runtime"))
    detectors = make_detectors(
        bundles,
        by_name,
        device=str(config.get("device", "auto")),
        threads=int(config.get("threads", 1)),
        attitude_sigma_rad=float(config.get("attitude_sigma_rad", 0.001)),
        tuning=tuning,
        task=get_perception(config["task"]) if config.get("task") else None,
    )
    return DetectorNode({name: detectors[name] for name in by_name if name in detectors}, tuning.at_once)
