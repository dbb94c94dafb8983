"""A straight road and a point mass: a world that starts fast, for tests of real processes that die."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.control.action import CommandWatchdog
from visuomotor.messages.node import Input
from visuomotor.messages.schema import Command, Header, Route, Truth, VehicleState

DT_S = 0.1


class ToyWorld:
    name = "world"
    inputs = (Input("command", lag=2),)
    outputs = ("vehicle_state", "route", "truth")
    period_s = DT_S

    def __init__(self, config: dict[str, Any]) -> None:
        if config.get("refuse"):
            raise ValueError(str(config["refuse"]))
        self.length_m = float(config.get("length_m", 400.0))
        self.speed_mps = float(config.get("speed_mps", 10.0))
        self.step_s = float(config.get("step_s", 0.0))  # so that a test has time to kill somebody
        self.stop_at_rest = bool(config.get("stop_at_rest"))  # a car that stands ends the episode
        self.fail_at = config.get("fail_at")
        self.moving_file = config.get("moving_file")  # appears once the car has driven for a second
        self.words = config.get("words")  # said at every step
        self.watchdog = CommandWatchdog()

    def warm_up(self) -> None:
        pass

    def reset(self, episode: Any) -> None:
        self.x_m, self.v_mps, self.a_mps2 = 0.0, self.speed_mps + episode.seed % 3, 0.0
        self.watchdog.reset()

    def step(self, tick: Any, inputs: Any) -> dict[str, Any]:
        time.sleep(self.step_s)
        if self.words:
            print(self.words, flush=True)
        if self.fail_at is not None and tick.tick == self.fail_at:
            raise FloatingPointError("the road has a hole")
        if tick.tick > 0:
            sample = inputs["command"]
            command = sample.message if isinstance(sample.message, Command) and sample.updated else None
            wanted = (command.acceleration_mps2, command.steering_angle_rad) if command is not None else None
            self.a_mps2, _ = self.watchdog.step(tick.tick * DT_S, wanted)
            self.v_mps = max(0.0, self.v_mps + self.a_mps2 * DT_S)
            self.x_m += self.v_mps * DT_S
        if self.moving_file and tick.tick == 10:
            Path(self.moving_file).touch()
        none = np.zeros(0, np.int32)
        route = np.zeros((81, 2), np.float32)
        route[:, 0] = self.x_m - 40.0 + 2.0 * np.arange(81)
        return {
            "vehicle_state": VehicleState(
                header=Header(valid=True, t_capture_ns=tick.t_ns),
                speed_mps=self.v_mps,
                acceleration_mps2=self.a_mps2,
                odom_x_m=self.x_m,
            ),
            "route": Route(
                header=Header(valid=True, t_capture_ns=tick.t_ns),
                odom_reference_m=route,
                goal_distance_m=self.length_m - self.x_m,
            ),
            "truth": Truth(
                header=Header(valid=True, t_capture_ns=tick.t_ns),
                speed_mps=self.v_mps,
                acceleration_mps2=self.a_mps2,
                progress_m=self.x_m,
                route_length_m=self.length_m,
                end="goal" if self.x_m >= self.length_m or (self.stop_at_rest and self.v_mps < 0.05) else "",
                agent_id=none,
                class_id=none,
                map_position_m=np.zeros((0, 2), np.float32),
                map_velocity_mps=np.zeros((0, 2), np.float32),
                map_yaw_rad=np.zeros(0, np.float32),
                size_m=np.zeros((0, 3), np.float32),
            ),
        }

    def close(self) -> None:
        pass


def create(config: dict[str, Any]) -> ToyWorld:
    return ToyWorld(config)
