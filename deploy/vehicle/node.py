"""The source of a vehicle's graph: frames of real cameras and the road ahead; what the car measures comes over CAN.

Without a CAN bus there is only video. Then speed and pose are assumed, too, and commands go to a dry-run sink;
``assumed`` lists what is, and every score and report of such a run carries the list.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visuomotor.control.action import CommandWatchdog
from visuomotor.deploy.vehicle.cameras import Cameras, sources_from
from visuomotor.deploy.vehicle.capture import SourceSettings
from visuomotor.deploy.vehicle.route import (
    SPACING_M,
    START_M,
    STRAIGHT,
    Ahead,
    Road,
    StraightRoad,
    load_route,
)
from visuomotor.deploy.vehicle.sink import DryRunSink
from visuomotor.deploy.vehicle.source import Frame
from visuomotor.deploy.vehicle.summary import write_summary
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import CameraFrame, Command, Episode, Header, Message, Route, VehicleState

PERIOD_S = 0.1
CAPTURE = "capture"  # stage from the exposure of the first camera's frame to its being taken
STANDSTILL_MPS = 0.3
GOAL_REACHED_M = 5.0  # a car that stands so near has arrived


class CameraNode:
    """Publishes a frame per camera and ``route``; reads where the car is from ``vehicle_state``.

    Without a fresh state the route is sent as invalid, and the guard keeps the car standing. A tick is the newest frame
    of the first camera. Whoever sends the commands stops the car at the goal; when it stands there, or has passed it in
    the driver's hands, the run ends.
    """

    name = "world"
    inputs: tuple[Input, ...] = (Input("vehicle_state", optional=True),)
    period_s: float | None = PERIOD_S

    def __init__(
        self,
        cameras: Sequence[CameraModel],
        sources: Mapping[str, SourceSettings],
        road: Road,
        *,
        assumed: Sequence[str] = (),
        summary: Path | None = None,
        max_duration_s: float | None = None,
    ) -> None:
        self.cameras = Cameras(cameras, sources)
        self.max_duration_s = max_duration_s
        self.road = road
        self.assumed = list(assumed)
        self.outputs: tuple[str, ...] = (*self.cameras.cameras, "route")
        self.finished = False
        self.stages: list[tuple[str, int, int]] = []
        self.end = "source ended"
        self._summary = summary
        self._start_ns: int | None = None
        self._pose: tuple[float, float, float] | None = None

    @property
    def note(self) -> str:
        """Which cameras are silent, for the node's health."""
        return self.cameras.note

    def warm_up(self) -> None:
        """Start live cameras."""
        self.cameras.warm_up()

    def reset(self, episode: Episode) -> None:
        """A camera cannot be rewound: only the first episode is possible."""
        if self._start_ns is not None:
            source = self.cameras.sources[self.cameras.lead]
            raise RuntimeError(f"camera {source.name}: a second episode was asked for; a camera has only one")

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """The frames of this tick, and the road ahead of where the car is now."""
        frames = self._take(tick)
        sample = inputs["vehicle_state"]
        state = inputs.get_message("vehicle_state", VehicleState) if sample.valid and sample.alive else None
        if state is not None:
            pose = (state.odom_x_m, state.odom_y_m, state.odom_yaw_rad)
            if self._pose is None:
                self.road.check_start(pose)
            self._pose = pose
        ahead = self.road.ahead(self._pose) if self._pose is not None else None
        if state is not None and ahead is not None:
            stands = abs(state.speed_mps) < STANDSTILL_MPS
            if ahead.goal_distance_m <= 0.0 or (stands and ahead.goal_distance_m < GOAL_REACHED_M):
                self.end, self.finished = "goal", True
        route = _invalid_route() if ahead is None else route_message(ahead)
        route.header = Header(t_capture_ns=tick.t_ns, valid=state is not None and ahead is not None and ahead.on_route)
        return {"route": route, **_publish(frames)}

    def _take(self, tick: Tick) -> dict[str, Frame]:
        if self._start_ns is None:
            self._start_ns = tick.t_ns
            self.cameras.begin()
        self.stages.clear()
        frames = self.cameras.take()
        if frames:
            self.stages.append((CAPTURE, frames[self.cameras.lead].t_capture_ns, time.monotonic_ns()))
        over = self.max_duration_s is not None and (tick.t_ns - self._start_ns) * 1e-9 >= self.max_duration_s
        if self.cameras.exhausted and self.cameras.ended_early:
            self.end = "source ended early"
        self.finished = self.finished or self.cameras.exhausted or over
        return frames

    def close(self) -> None:
        """Write what was counted and release the cameras, which may take its time."""
        write_summary(self._summary, self.summary())
        self.cameras.close()

    def summary(self) -> dict[str, Any]:
        """What the score says of this node."""
        return {
            "end": self.end,
            "cameras": self.cameras.summary(),
            "ticks_held_back": self.cameras.held_back,
            "assumed": self.assumed,
        }


class VehicleNode(CameraNode):
    """Video alone: publishes an assumed ``vehicle_state``, too; writes every command that arrives, sends none."""

    inputs: tuple[Input, ...] = (Input("command", lag=2, optional=True),)

    def __init__(
        self,
        cameras: Sequence[CameraModel],
        sources: Mapping[str, SourceSettings],
        road: Road,
        *,
        speed_mps: float,
        assumed: Sequence[str] = (),
        summary: Path | None = None,
        commands: Path | None = None,
        max_duration_s: float | None = None,
    ) -> None:
        super().__init__(cameras, sources, road, assumed=assumed, summary=summary, max_duration_s=max_duration_s)
        self.outputs = (*self.outputs, "vehicle_state")
        self.speed_mps = speed_mps
        self.sink = DryRunSink(commands)
        self.watchdog = CommandWatchdog()

    @property
    def note(self) -> str:
        """Which cameras are silent, and whether the command log has stopped."""
        return "; ".join(note for note in (self.cameras.note, self.sink.note) if note)

    def reset(self, episode: Episode) -> None:
        """As the cameras."""
        super().reset(episode)
        self.watchdog.reset()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """The frames of this tick, the assumed state at their capture, and the road; nothing without a frame."""
        if self._start_ns is None:
            self.watchdog.reset(0.0)
        frames = self._take(tick)
        self._actuate(tick, inputs)
        lead = frames.get(self.cameras.lead)
        if lead is None:
            return {}
        assert self._start_ns is not None
        x_m = self.speed_mps * (lead.t_capture_ns - self._start_ns) * 1e-9
        route = route_message(self.road.ahead((x_m, 0.0, 0.0)))
        state = VehicleState(speed_mps=self.speed_mps, odom_x_m=x_m)
        for message in (route, state):
            message.header = Header(t_capture_ns=lead.t_capture_ns, valid=True)
        return {"vehicle_state": state, "route": route, **_publish(frames)}

    def _actuate(self, tick: Tick, inputs: Inputs) -> None:
        sample = inputs["command"]
        command = sample.message if sample.updated and isinstance(sample.message, Command) else None
        now_s = (tick.t_ns - (self._start_ns or 0)) * 1e-9
        wanted = (command.acceleration_mps2, command.steering_angle_rad) if command is not None else None
        acted = self.watchdog.step(now_s, wanted)
        self.sink.write(tick.tick, now_s, command, acted, self.watchdog.tripped)

    def close(self) -> None:
        """Finish the command log, too."""
        self.sink.close()
        super().close()

    def summary(self) -> dict[str, Any]:
        """What the score says of this node."""
        return super().summary() | {"commands": self.sink.commands}


def route_message(ahead: Ahead) -> Route:
    """What is ahead as a message, without its header."""
    return Route(
        odom_reference_m=ahead.line_m,
        start_m=START_M,
        spacing_m=SPACING_M,
        lane_count=ahead.lane_count,
        lane_width_m=ahead.lane_width_m,
        speed_limit_mps=ahead.speed_limit_mps,
        goal_distance_m=ahead.goal_distance_m,
    )


def _invalid_route() -> Route:
    """A straight line that nobody may follow: the car's place is not known yet, but the ticks are."""
    return route_message(StraightRoad(1, 3.5, 1.0).ahead((0.0, 0.0, 0.0)))


def _publish(frames: Mapping[str, Frame]) -> dict[str, Message]:
    return {
        name: CameraFrame(header=Header(t_capture_ns=frame.t_capture_ns, valid=True), image=frame.image)
        for name, frame in frames.items()
    }


def create(config: Mapping[str, Any]) -> CameraNode:
    """Node from {calibrations: files, sources: {camera: settings}, route, summary, max_duration_s} and what is assumed.

    ``vehicle`` {lane_count, lane_width_m, speed_limit_mps} makes a straight road; with {speed_mps} there is no CAN bus
    and the node is a VehicleNode, which writes ``commands``.
    """
    cameras = [load_camera(Path(file)) for file in config["calibrations"]]
    sources = sources_from(config["sources"])
    summary = Path(config["summary"]) if config.get("summary") else None
    limit_s = config.get("max_duration_s")
    vehicle, route = config.get("vehicle") or {}, config.get("route", STRAIGHT)
    if route != STRAIGHT:
        return CameraNode(cameras, sources, load_route(Path(route)), summary=summary, max_duration_s=limit_s)
    lanes, width, limit = int(vehicle["lane_count"]), float(vehicle["lane_width_m"]), float(vehicle["speed_limit_mps"])
    road = StraightRoad(lanes, width, limit)
    speed_mps = vehicle.get("speed_mps")
    assumed = [
        f"route: straight, {lanes} lanes of {width:.1f} m, the car in the rightmost one",
        f"speed limit: {limit:.1f} m/s",
    ]
    if speed_mps is None:
        return CameraNode(cameras, sources, road, assumed=assumed, summary=summary, max_duration_s=limit_s)
    calibrations = [
        f"calibration of {c.name}: {c.width}x{c.height}, fx {c.fx:.0f} px, {c.ego_position_m[2]:.2f} m up"
        for c in cameras
    ]
    return VehicleNode(
        cameras,
        sources,
        road,
        speed_mps=float(speed_mps),
        assumed=[*calibrations, f"speed: constant {float(speed_mps):.1f} m/s", *assumed],
        summary=summary,
        commands=Path(config["commands"]) if config.get("commands") else None,
        max_duration_s=limit_s,
    )
