"""A small graph: world -> eye -> driver -> guard -> world.

Imported by tests through a fixture; run as a script, one node of it in a process of its own:
python toys.py NAME PARENT_PID PLACE_JSON [KEY=VALUE ...]
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping

import msgspec
import numpy as np

from visuomotor.messages import bus
from visuomotor.messages.loop import run_node
from visuomotor.messages.node import Input, Inputs, Node, Tick
from visuomotor.messages.process import live_with_parent
from visuomotor.messages.schema import (
    CameraFrame,
    Command,
    Detections,
    Episode,
    Message,
    Operator,
    PolicyCommand,
    Truth,
    VehicleState,
)
from visuomotor.messages.wiring import RunPlace

END_SPEED_MPS = 0.05


class Toy:
    """What all have in common."""

    period_s: float | None = None

    def __init__(self) -> None:
        self.resets: list[int] = []
        self.closed = False

    def warm_up(self) -> None:
        pass

    def reset(self, episode: Episode) -> None:
        self.resets.append(episode.seed)

    def close(self) -> None:
        self.closed = True


class World(Toy):
    """Drives along a line under the command; without one it brakes. Ends after ``ticks``, or as fault at standstill."""

    name = "world"
    inputs = (Input("command", lag=2),)
    outputs = ("camera_front", "vehicle_state", "truth")

    def __init__(self, ticks: int = 20, period_s: float = 0.1, brakes: int = 1) -> None:
        super().__init__()
        self.ticks, self.brakes = ticks, brakes
        self.period_s = period_s
        self.seen: list[tuple[int, int | None]] = []  # tick of the step and of the command it had

    def reset(self, episode: Episode) -> None:
        super().reset(episode)
        self.random = np.random.default_rng(episode.seed)
        self.speed_mps = 1.0

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        command = inputs.get_message("command", Command)
        self.seen.append((tick.tick, None if command is None else command.header.tick))
        if command is not None:
            self.speed_mps = max(0.0, self.speed_mps + 0.1 * command.acceleration_mps2)
        elif tick.tick >= 2 and self.brakes:
            self.speed_mps = max(0.0, self.speed_mps - 0.25)
        ended = self.ticks and tick.tick >= self.ticks - 1
        end = "fault" if self.speed_mps < END_SPEED_MPS else "goal" if ended else ""
        none = np.zeros(0, np.int32)
        pair = np.zeros((0, 2), np.float32)
        return {
            "camera_front": CameraFrame(image=self.random.integers(0, 256, (24, 32, 3), np.uint8)),
            "vehicle_state": VehicleState(speed_mps=self.speed_mps),
            "truth": Truth(
                speed_mps=self.speed_mps,
                end=end,  # type: ignore[arg-type]
                agent_id=none,
                class_id=none,
                map_position_m=pair,
                map_velocity_mps=pair,
                map_yaw_rad=np.zeros(0, np.float32),
                size_m=np.zeros((0, 3), np.float32),
            ),
        }


class Eye(Toy):
    """Detects as many objects as the first pixel modulo three says."""

    name = "eye"
    inputs = (Input("camera_front", trigger=True),)
    outputs = ("detections",)

    def __init__(self, fail_at: int = -1, stop_at: int = -1) -> None:
        super().__init__()
        self.fail_at, self.stop_at = fail_at, stop_at
        self.stages: list[tuple[str, int, int]] = []
        self.provider = "ToyProvider"

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        if tick.tick == self.fail_at:
            raise RuntimeError("lens cap on")
        if tick.tick == self.stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        frame = inputs.get_message("camera_front", CameraFrame)
        assert frame is not None
        count = int(frame.image[0, 0, 0]) % 3
        self.stages.append(("look", 1, 2))
        ones = np.full((count, 2), frame.image.mean(), np.float32)
        flat = np.zeros(count, np.float32)
        index = np.zeros(count, np.int32)
        detections = Detections(
            camera_index=index,
            class_id=index,
            score=flat,
            box_px=np.zeros((count, 4), np.float32),
            ground_px=ones,
            ego_position_m=ones / 3,
            ego_covariance_m2=np.zeros((count, 2, 2), np.float32),
            heading_rad=flat,
            size_m=ones,
        )
        detections.header.valid = True
        return {"detections": detections}


class Driver(Toy):
    """Keeps its speed, the more objects the slower; sums up, so that what one episode leaves behind would show."""

    name = "driver"
    inputs = (Input("detections", trigger=True), Input("vehicle_state"))
    outputs = ("policy_command",)

    def reset(self, episode: Episode) -> None:
        super().reset(episode)
        self.total = 0.0

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        detections = inputs.get_message("detections", Detections)
        state = inputs.get_message("vehicle_state", VehicleState)
        if detections is None or state is None:
            return {}
        self.total += float(detections.ego_position_m.sum())
        wish = PolicyCommand(acceleration_mps2=0.5 - state.speed_mps / 3 + self.total * 1e-4)
        wish.header.valid = inputs.all_ok("detections")
        return {"policy_command": wish}


class Guard(Toy):
    """Latched until engaged; passes the policy's wish on."""

    name = "guard"
    inputs = (Input("policy_command", trigger=True), Input("vehicle_state"), Input("operator", optional=True))
    outputs = ("command",)

    def __init__(self, period_s: float = 0.0) -> None:
        super().__init__()
        self.period_s = period_s or None

    def reset(self, episode: Episode) -> None:
        super().reset(episode)
        self.engaged = False

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        for word in inputs.drain("operator", Operator):
            self.engaged = word.kind == "engage"
        wish = inputs.get_message("policy_command", PolicyCommand)
        if wish is None:
            return {"command": Command(acceleration_mps2=-2.5, causes=("no_policy",))}
        if not self.engaged:
            return {"command": Command(causes=("latched",), latched=True)}
        return {"command": Command(acceleration_mps2=wish.acceleration_mps2)}


def make(name: str, **options: float) -> Node:
    """A node by its name."""
    kinds = {kind.name: kind for kind in (World, Eye, Driver, Guard)}
    return kinds[name](**options)  # type: ignore[no-any-return, arg-type]


def main() -> None:
    name, parent, place, *options = sys.argv[1:]
    stop = live_with_parent(int(parent), grace_s=2.0)
    given = {key: float(value) if "." in value else int(value) for key, _, value in (o.partition("=") for o in options)}
    bus.RECONNECT_MS = int(given.pop("reconnect_ms", bus.RECONNECT_MS))
    run_node(make(name, **given), msgspec.json.decode(place, type=RunPlace), stop=stop)


if __name__ == "__main__":
    main()
