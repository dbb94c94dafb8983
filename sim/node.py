"""The world node: one driving world, its sensors and cameras; state in ``sim.drive``, images in ``sim.renderer``."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from visuomotor.control.action import CommandWatchdog
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import (
    CameraFrame,
    Command,
    EndName,
    Episode,
    Header,
    Message,
    Route,
    Truth,
    VehicleState,
)
from visuomotor.sim.bodies import RENDERER_NAME
from visuomotor.sim.drive import DT_S, ENDS, MANOEUVRES, DriveWorlds
from visuomotor.sim.renderer import Renderer
from visuomotor.sim.scenario import SPLITS, SUITES, drive_case
from visuomotor.sim.sensors import ROUTE_SPACING_M, ROUTE_START_M, Sensors

FRONT = "camera_front"


class WorldNode:
    """Publishes ``vehicle_state``, ``route``, ``truth`` and a frame per camera; obeys ``command``.

    Tick k carries the state and the frames of time k * 0.1 s. The step that produces it advances the world from tick
    k - 1 under the command computed from tick k - 2. When no command comes the watchdog rolls on, then brakes. In
    realtime a late step is not made up for: the world runs slower than the clock, and the loop counts the deadline.
    """

    name = "world"
    inputs: tuple[Input, ...] = (Input("command", lag=2),)
    period_s: float | None = DT_S
    provider = RENDERER_NAME

    def __init__(
        self,
        cameras: list[CameraModel],
        *,
        suite: str = "drive-v1",
        split: str = "evaluation",
        max_duration_s: float | None = None,
    ) -> None:
        self.cameras = sorted(cameras, key=lambda camera: (camera.name == FRONT, camera.name))  # the front one last
        self.outputs: tuple[str, ...] = ("vehicle_state", "route", "truth", *(camera.name for camera in self.cameras))
        self.stages: list[tuple[str, int, int]] = []
        self.watchdog = CommandWatchdog()
        self.worlds = DriveWorlds(1)
        self.sensors = Sensors(self.worlds)
        self.renderer = Renderer(self.cameras) if self.cameras else None
        self.max_duration_s = max_duration_s
        self._warm_up_case = (suite, split)
        self._events: tuple[str, ...] = ()
        self._steps = 0

    def warm_up(self) -> None:
        """Draw a first picture of a scene that no episode will see."""
        self.reset(Episode(phase="reset", suite=self._warm_up_case[0], split=self._warm_up_case[1], seed=0))
        if self.renderer is not None:
            self.renderer.draw(self.worlds, 0)

    def reset(self, episode: Episode) -> None:
        """Build the case that the episode names; ValueError when there is no such suite, split or seed."""
        case = drive_case(episode.suite, episode.split, episode.seed)
        self.worlds.reset(0, case)
        if self.max_duration_s is not None:
            self.worlds.limit_time(0, self.max_duration_s)
        self.sensors.reset(0)
        if self.renderer is not None:
            self.renderer.reset(case, self.worlds.roads[0])
        self._events = tuple(event.kind for event in case.events)
        self.watchdog.reset()
        self._steps = 0

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Advance by 0.1 s (not before the first tick), measure, draw."""
        start_ns = time.monotonic_ns()
        if self._steps > 0:
            acceleration, steering = self.watchdog.step(self._steps * DT_S, _new_command(inputs))
            self.worlds.step(np.array([acceleration]), np.array([steering]))
        self._steps += 1
        self.sensors.update()
        self._stage("physics", start_ns)
        outputs: dict[str, Message] = {
            "vehicle_state": self._vehicle_state(tick.t_ns),
            "route": self._route(tick.t_ns),
            "truth": self._truth(tick.t_ns),
        }
        if self.renderer is not None:
            start_ns = time.monotonic_ns()
            self.renderer.pose(self.worlds, 0)
            for camera in self.cameras:
                image, _ = self.renderer.draw_camera(self.worlds, 0, camera.name)
                outputs[camera.name] = CameraFrame(header=_header(tick.t_ns), image=np.ascontiguousarray(image))
                start_ns = self._stage(camera.name.replace("camera", "render"), start_ns)
        return outputs

    def close(self) -> None:
        """Disconnect from PyBullet."""
        self.worlds.close()
        if self.renderer is not None:
            self.renderer.close()

    def _stage(self, name: str, start_ns: int) -> int:
        end_ns = time.monotonic_ns()
        self.stages.append((name, start_ns, end_ns))
        return end_ns

    def _vehicle_state(self, t_ns: int) -> VehicleState:
        sensors = self.sensors
        x, y, yaw = (float(v) for v in sensors.odom_pose[0])
        return VehicleState(
            header=_header(t_ns),
            speed_mps=float(sensors.speed_mps[0]),
            acceleration_mps2=float(sensors.acceleration_mps2[0]),
            yaw_rate_radps=float(sensors.yaw_rate_radps[0]),
            steering_angle_rad=float(sensors.steering_angle_rad[0]),
            roll_rad=float(sensors.roll_rad[0]),
            pitch_rad=float(sensors.pitch_rad[0]),
            odom_x_m=x,
            odom_y_m=y,
            odom_yaw_rad=yaw,
        )

    def _route(self, t_ns: int) -> Route:
        sensors = self.sensors
        return Route(
            header=_header(t_ns),
            odom_reference_m=np.ascontiguousarray(sensors.route_m[0], np.float32),
            start_m=ROUTE_START_M,
            spacing_m=ROUTE_SPACING_M,
            lane_count=int(sensors.lane_count[0]),
            lane_width_m=float(sensors.lane_width_m[0]),
            speed_limit_mps=float(sensors.speed_limit_mps[0]),
            goal_distance_m=float(sensors.goal_distance_m[0]),
        )

    def _truth(self, t_ns: int) -> Truth:
        w = self.worlds
        present = w.agent_present[0]

        def pose(values: np.ndarray) -> tuple[float, float, float]:
            return float(values[0]), float(values[1]), float(values[2])

        return Truth(
            header=_header(t_ns),
            map_ego_pose=pose(w.ego_pose[0]),
            odom_ego_pose=pose(self.sensors.odom_pose[0]),
            speed_mps=float(w.ego_speed_mps[0]),
            acceleration_mps2=float(w.ego_acceleration_mps2[0]),
            lateral_acceleration_mps2=float(w.ego_lateral_acceleration_mps2[0]),
            lane_position_m=float(w.ego_d_m[0]),
            progress_m=float(w.progress_m[0]),
            route_length_m=float(w.route_length_m[0]),
            collision=bool(w.collision[0]),
            at_fault=bool(w.at_fault[0]),
            offroad=bool(w.offroad[0]),
            end=cast(EndName, ENDS[int(w.end[0])]),
            events=self._events,
            agent_id=w.agent_id[0][present].astype(np.int32),
            class_id=w.agent_class[0][present].astype(np.int32),
            map_position_m=w.agent_position_m[0][present].astype(np.float32),
            map_velocity_mps=w.agent_velocity_mps[0][present].astype(np.float32),
            map_yaw_rad=w.agent_yaw_rad[0][present].astype(np.float32),
            size_m=w.agent_size_m[0][present].astype(np.float32),
            manoeuvre=tuple(MANOEUVRES[int(i)] for i in w.agent_manoeuvre[0][present]),
        )


def _header(t_ns: int) -> Header:
    return Header(t_capture_ns=t_ns, valid=True)


def _new_command(inputs: Inputs) -> tuple[float, float] | None:
    """The command that came for this step, None when none did."""
    sample = inputs["command"]
    if not sample.updated or not isinstance(sample.message, Command):
        return None
    return sample.message.acceleration_mps2, sample.message.steering_angle_rad


def create(config: Mapping[str, Any]) -> WorldNode:
    """World from ``{suite, split, max_duration_s, cameras: [calibration files], render}``; ValueError names the key."""
    case = choose_case(config)
    return WorldNode(load_cameras(config), **case)


def choose_case(config: Mapping[str, Any], suites: Collection[str] = tuple(SUITES)) -> dict[str, Any]:
    """Suite (by default the first), split and longest episode of a configuration."""
    suite, split = config.get("suite", next(iter(suites))), config.get("split", "evaluation")
    if suite not in suites:
        raise ValueError(f"suite: expected one of {', '.join(suites)}, got {suite!r}")
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    return {"suite": suite, "split": split, "max_duration_s": config.get("max_duration_s")}


def load_cameras(config: Mapping[str, Any]) -> list[CameraModel]:
    """The cameras of a configuration, none where nothing is to be rendered."""
    files = config.get("cameras", [])
    if not isinstance(files, list | tuple):
        raise ValueError(f"cameras: expected a list of calibration files, got {files!r}")
    cv2.setNumThreads(1)  # one core each for the world and for perception
    return [load_camera(Path(file)) for file in files] if config.get("render", True) else []
