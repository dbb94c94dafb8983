"""A whole simulated car outside the graph, for a vehicle profile to drive: behind a CAN bus, its cameras as video."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.messages.node import Inputs, Tick
from visuomotor.messages.schema import CameraFrame, Episode, Message, Truth, VehicleState
from visuomotor.sim.can_plant import COMMAND, CanPlantNode, open_plant
from visuomotor.sim.drive import DT_S
from visuomotor.sim.mjpeg import MjpegServer

GONE_S = 3.0  # without a COMMAND: whoever drove has gone
STANDSTILL_MPS = 0.1
WAYPOINT_SPACING_M = 10.0
GOAL_BEFORE_END_M = 10.0  # the written route ends before the simulator's, where the world would end


class CanCar(CanPlantNode):
    """The plant with a positioning system: POSITION and HEADING are its place in the map, as the route is."""

    def stand_by(self) -> Mapping[str, Message]:
        """State, driver and pictures of the world before it begins."""
        self._steps = 0
        return self.step(Tick(0, 0, time.monotonic_ns(), "realtime"), Inputs())

    def write_route(self, path: Path) -> None:
        """The centre of the rightmost lane as waypoints, as ``deploy.vehicle.route`` reads them."""
        road = self.worlds.roads[0]
        s = np.arange(0.0, float(self.worlds.route_length_m[0]) - GOAL_BEFORE_END_M, WAYPOINT_SPACING_M)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["map_x_m", "map_y_m", "lane_count", "lane_width_m", "speed_limit_mps"])
            rules = [road.lane_count, road.lane_width_m, road.speed_limit_mps]
            for x, y in road.cartesian(s, np.zeros_like(s)).tolist():
                writer.writerow([f"{x:.3f}", f"{y:.3f}", *rules])

    def _position(self, state: VehicleState) -> tuple[float, float, float]:
        return self.sensors.localised_pose(0)


class CarLog(msgspec.Struct, kw_only=True):
    """What became of a drive, by the simulator's truth."""

    end: str = ""
    collision: bool = False
    at_fault: bool = False
    offroad: bool = False
    duration_s: float = 0.0
    progress_m: float = 0.0
    route_length_m: float = 0.0
    speed_mps: float = 0.0
    top_speed_mps: float = 0.0
    lane_offset_max_m: float = 0.0  # from the nearest lane's centre
    late_ticks: int = 0
    commands: int = 0
    engaged: int = 0  # commands that were
    frames: dict[str, int] = {}
    jpeg_bytes: dict[str, int] = {}
    can_faults: dict[str, int] = {}


def drive(car: CanCar, streams: MjpegServer, wait_s: float) -> CarLog:
    """Stand by until the first COMMAND, then run at 10 Hz until the world ends, or nobody drives and the car stands.

    ``wait_s``: for the first COMMAND; the log's ``end`` is "not driven" when none came.
    """
    log = CarLog()
    due = started = time.monotonic()
    width_m = float(car.worlds.roads[0].lane_width_m)
    while car.link.newest(COMMAND) is None:
        _show(streams, car.stand_by())
        due = _pace(due, log)
        if time.monotonic() - started > wait_s:
            log.end = "not driven"
            return log
    log.late_ticks = 0
    tick = 0
    while not log.end:
        newest = car.link.newest(COMMAND)
        log.commands += 1
        log.engaged += newest is not None and bool(newest.values["Engaged"])
        outputs = car.step(Tick(0, tick, time.monotonic_ns(), "realtime"), Inputs())
        _show(streams, outputs)
        truth = outputs["truth"]
        assert isinstance(truth, Truth)
        tick += 1
        _note(log, truth, tick, width_m)
        if car.link.newest(COMMAND, GONE_S) is None and abs(truth.speed_mps) < STANDSTILL_MPS:
            log.end = log.end or "standing"
        due = _pace(due, log)
    log.frames, log.jpeg_bytes, log.can_faults = dict(streams.shown), dict(streams.sent_bytes), car.link.faults
    return log


def _note(log: CarLog, truth: Truth, tick: int, lane_width_m: float) -> None:
    log.end, log.collision, log.at_fault, log.offroad = truth.end, truth.collision, truth.at_fault, truth.offroad
    log.duration_s, log.speed_mps = tick * DT_S, truth.speed_mps
    log.progress_m, log.route_length_m = truth.progress_m, truth.route_length_m
    log.top_speed_mps = max(log.top_speed_mps, truth.speed_mps)
    offset = abs(truth.lane_position_m - lane_width_m * round(truth.lane_position_m / lane_width_m))
    log.lane_offset_max_m = max(log.lane_offset_max_m, offset)


def _show(streams: MjpegServer, outputs: Mapping[str, Message]) -> None:
    for name, message in outputs.items():  # the front camera comes last, as in the graph
        if isinstance(message, CameraFrame):
            streams.show(name, message.image)


def _pace(due: float, log: CarLog) -> float:
    """Wait for the next tick; one that is late is not made up for."""
    now = time.monotonic()
    log.late_ticks += now > due + DT_S
    time.sleep(max(0.0, due + DT_S - now))
    return max(due + DT_S, now)


def create(config: Mapping[str, Any], seed: int) -> CanCar:
    """The car of a case, from the settings of ``sim.can_plant.create``."""
    car = open_plant(CanCar, config)
    episode = Episode(phase="reset", suite=config["suite"], split=config["split"], seed=seed)
    car.reset(episode)
    return car
