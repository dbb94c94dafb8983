"""The world node: one driving world, its sensors and cameras; state in ``sim.drive``, images in ``sim.renderer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from visuomotor.control.action import CommandWatchdog
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import Command, EndName, Episode, Message, Route, Truth, VehicleState
from visuomotor.sim.drive import ENDS, MANOEUVRES, DriveWorlds
from visuomotor.sim.renderer import Renderer
from visuomotor.sim.scenario import SUITES, DriveCase, drive_case
from visuomotor.sim.sensors import ROUTE_SPACING_M, ROUTE_START_M, Sensors
from visuomotor.sim.world_node import SimulatedWorld, choose_case, load_cameras, make_header


class WorldNode(SimulatedWorld):
    """Publishes ``vehicle_state``, ``route``, ``truth`` and a frame per camera; without commands it brakes."""

    services = ("vehicle_state", "route", "truth")
    lead = "camera_front"
    worlds: DriveWorlds
    sensors: Sensors
    renderer: Renderer | None
    _case: DriveCase

    def __init__(
        self,
        cameras: list[CameraModel],
        *,
        suite: str = "drive-v1",
        split: str = "evaluation",
        max_duration_s: float | None = None,
    ) -> None:
        self.watchdog = CommandWatchdog()
        worlds = DriveWorlds(1)
        super().__init__(cameras, worlds, Sensors(worlds), suite=suite, split=split, max_duration_s=max_duration_s)

    def _make_renderer(self) -> Renderer:
        return Renderer(self.cameras)

    def _build(self, episode: Episode) -> None:
        self._case = drive_case(episode.suite, episode.split, episode.seed)
        self.worlds.reset(0, self._case)
        self.watchdog.reset()

    def _dress(self) -> None:
        assert self.renderer is not None
        self.renderer.reset(self._case, self.worlds.roads[0])

    def _advance(self, now_s: float, command: Command | None) -> None:
        wanted = None if command is None else (command.acceleration_mps2, command.steering_angle_rad)
        acceleration, steering = self.watchdog.step(now_s, wanted)
        self.worlds.step(np.array([acceleration]), np.array([steering]))

    def _tell(self, t_ns: int) -> dict[str, Message]:
        return {"vehicle_state": self._vehicle_state(t_ns), "route": self._route(t_ns), "truth": self._truth(t_ns)}

    def _vehicle_state(self, t_ns: int) -> VehicleState:
        sensors = self.sensors
        x, y, yaw = (float(v) for v in sensors.odom_pose[0])
        return VehicleState(
            header=make_header(t_ns),
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
            header=make_header(t_ns),
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
            header=make_header(t_ns),
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
            events=tuple(event.kind for event in self._case.events),
            agent_id=w.agent_id[0][present].astype(np.int32),
            class_id=w.agent_class[0][present].astype(np.int32),
            map_position_m=w.agent_position_m[0][present].astype(np.float32),
            map_velocity_mps=w.agent_velocity_mps[0][present].astype(np.float32),
            map_yaw_rad=w.agent_yaw_rad[0][present].astype(np.float32),
            size_m=w.agent_size_m[0][present].astype(np.float32),
            manoeuvre=tuple(MANOEUVRES[int(i)] for i in w.agent_manoeuvre[0][present]),
        )


def create(config: Mapping[str, Any]) -> WorldNode:
    """World from ``{suite, split, max_duration_s, cameras: [calibration files], render}``; ValueError names the key."""
    case = choose_case(config, tuple(SUITES))
    return WorldNode(load_cameras(config), **case)
