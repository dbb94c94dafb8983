"""The vehicle's end of the graph: a real camera in, commands out to a dry-run sink.

A bare video tells neither speed nor pose nor route. Those are assumed: constant speed, a straight road, the car in the
middle of the rightmost lane; ``assumed`` lists it, and every score and report of such a run carries the list.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visuomotor.control.action import CommandWatchdog
from visuomotor.deploy.vehicle.csv_log import CsvLog
from visuomotor.deploy.vehicle.source import VideoSource
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import CameraFrame, Command, Episode, Header, Message, Route, VehicleState

PERIOD_S = 0.1
FIRST_FRAME_S = 5.0
ROUTE_START_M, ROUTE_SPACING_M, ROUTE_POINTS = -40.0, 2.0, 81
GOAL_DISTANCE_M = 1000.0  # no goal is known: always this far ahead


class VehicleNode:
    """Publishes ``camera_front``, ``vehicle_state`` and ``route``; writes every command that arrives, sends none."""

    name = "world"
    inputs = (Input("command", lag=2, optional=True),)
    period_s: float | None = PERIOD_S

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.camera = load_camera(Path(config["calibration"]))
        self.outputs: tuple[str, ...] = (self.camera.name, "vehicle_state", "route")
        self.source = VideoSource(str(config["camera"]), lambda image: fit_image(image, self.camera))
        assumed = config["vehicle"]
        self.speed_mps = float(assumed["speed_mps"])
        self.lane_count = int(assumed["lane_count"])
        self.lane_width_m = float(assumed["lane_width_m"])
        self.speed_limit_mps = float(assumed["speed_limit_mps"])
        self.max_duration_s = config.get("max_duration_s")
        self.finished = False
        self.sink = DryRunSink(Path(config["commands"]) if config.get("commands") else None)
        self.watchdog = CommandWatchdog()
        self._summary = Path(config["commands"]).with_name("vehicle.json") if config.get("commands") else None
        self._start_ns: int | None = None

    @property
    def assumed(self) -> list[str]:
        """What is assumed rather than measured."""
        c = self.camera
        return [
            f"calibration: {c.width}x{c.height}, fx {c.fx:.0f} px, {c.ego_position_m[2]:.2f} m up",
            f"speed: constant {self.speed_mps:.1f} m/s",
            f"route: straight, {self.lane_count} lanes of {self.lane_width_m:.1f} m, the car in the rightmost one",
            f"speed limit: {self.speed_limit_mps:.1f} m/s",
        ]

    @property
    def note(self) -> str:
        """What ``node_health`` says of this node."""
        return self.sink.note

    def warm_up(self) -> None:
        """Nothing to load; frames flow from the first step on."""

    def reset(self, episode: Episode) -> None:
        """A camera cannot be rewound: only the first episode is possible."""
        if self._start_ns is not None:
            raise RuntimeError(f"camera {self.source.name}: a second episode was asked for; a camera has only one")
        self.watchdog.reset()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """The newest frame, the assumed state at its capture, and the assumed road."""
        first = self._start_ns is None
        if first:
            self._start_ns = tick.t_ns
            self.source.start()
            self.watchdog.reset(0.0)
        self._actuate(tick, inputs)
        frame = self.source.take(FIRST_FRAME_S if first else 0.0)
        assert self._start_ns is not None
        over = self.max_duration_s is not None and (tick.t_ns - self._start_ns) * 1e-9 >= self.max_duration_s
        if self.source.exhausted or over:
            self.finished = True
        if frame is None:
            return {}
        elapsed_s = (frame.t_capture_ns - self._start_ns) * 1e-9
        header = Header(t_capture_ns=frame.t_capture_ns, valid=True)
        x_m = self.speed_mps * elapsed_s
        return {
            self.camera.name: CameraFrame(header=header, image=frame.image),
            "vehicle_state": VehicleState(
                header=Header(t_capture_ns=frame.t_capture_ns, valid=True), speed_mps=self.speed_mps, odom_x_m=x_m
            ),
            "route": Route(
                header=Header(t_capture_ns=frame.t_capture_ns, valid=True),
                odom_reference_m=straight_route(x_m),
                start_m=ROUTE_START_M,
                spacing_m=ROUTE_SPACING_M,
                lane_count=self.lane_count,
                lane_width_m=self.lane_width_m,
                speed_limit_mps=self.speed_limit_mps,
                goal_distance_m=GOAL_DISTANCE_M,
            ),
        }

    def _actuate(self, tick: Tick, inputs: Inputs) -> None:
        sample = inputs["command"]
        command = sample.message if sample.updated and isinstance(sample.message, Command) else None
        now_s = (tick.t_ns - (self._start_ns or 0)) * 1e-9
        wanted = (command.acceleration_mps2, command.steering_angle_rad) if command is not None else None
        acted = self.watchdog.step(now_s, wanted)
        self.sink.write(tick.tick, now_s, command, acted, self.watchdog.tripped)

    def close(self) -> None:
        """Release the camera, finish the command log, and write what was counted beside it."""
        self.source.close()
        self.sink.close()
        if self._summary is not None:
            counts = self.source.counts
            data = {
                "source": self.source.name,
                "rate_hz": self.source.rate_hz,
                "frames_declared": self.source.frames_declared,
                "frames_read": counts.read,
                "frames_published": counts.taken,
                "frames_between_ticks": counts.between,
                "commands": self.sink.commands,
                "assumed": self.assumed,
            }
            with contextlib.suppress(OSError):  # a full disk
                self._summary.write_text(json.dumps(data, indent=1) + "\n")


class DryRunSink:
    """Where commands end when nothing is driven: a CSV line per tick, of what actuators would have done."""

    COLUMNS = ("tick", "time_s", "acceleration_mps2", "steering_angle_rad", "origin", "causes")

    def __init__(self, path: Path | None) -> None:
        self.commands = 0
        self._log = CsvLog(path, self.COLUMNS) if path is not None else None

    @property
    def note(self) -> str:
        """Why the log has stopped; empty while it goes on."""
        return self._log.note if self._log is not None else ""

    def write(
        self, tick: int, now_s: float, command: Command | None, acted: tuple[float, float], tripped: bool
    ) -> None:
        """One tick. ``origin``: command, hold (none came, the last one stands) or watchdog (braking)."""
        self.commands += command is not None
        if self._log is not None:
            origin = "watchdog" if tripped else "command" if command is not None else "hold"
            causes = ";".join(command.causes) if command is not None else ""
            self._log.write([tick, f"{now_s:.3f}", f"{acted[0]:.4f}", f"{acted[1]:.5f}", origin, causes])

    def close(self) -> None:
        """Flush and close."""
        if self._log is not None:
            self._log.close()


def fit_image(image: np.ndarray, camera: CameraModel) -> np.ndarray:
    """Crop the middle of ``image`` [H, W, 3] to the calibration's aspect and scale it to the calibrated size."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    height, width = image.shape[:2]
    aspect = camera.width / camera.height
    crop_w, crop_h = (round(height * aspect), height) if width > height * aspect else (width, round(width / aspect))
    x, y = (width - crop_w) // 2, (height - crop_h) // 2
    cropped = image[y : y + crop_h, x : x + crop_w]
    return np.ascontiguousarray(cv2.resize(cropped, (camera.width, camera.height), interpolation=cv2.INTER_AREA))


def straight_route(ego_x_m: float) -> np.ndarray:
    """Points of a straight centre line along odom x through the car, float32 [P, 2]."""
    points = np.zeros((ROUTE_POINTS, 2), np.float32)
    points[:, 0] = ego_x_m + ROUTE_START_M + ROUTE_SPACING_M * np.arange(ROUTE_POINTS)
    return points


def create(config: dict[str, Any]) -> VehicleNode:
    """Node from {camera, calibration, vehicle: {speed_mps, ...}, commands: CSV path or "", max_duration_s}."""
    return VehicleNode(config)
