"""The world node of picking: one cell, its sensors and cameras; state in ``sim.cell.cell``, images in its renderer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np

from visuomotor.control.arm.action import ArmWatchdog
from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.kinematics import link_frames
from visuomotor.control.arm.order import OrderLine, parse_order, to_arrays
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import (
    ArmState,
    CameraFrame,
    Command,
    EndName,
    Episode,
    Header,
    Message,
    Operator,
    Order,
    Truth,
)
from visuomotor.sim.bodies import RENDERER_NAME
from visuomotor.sim.cell.cell import DT_S, ENDS, MANOEUVRES, CellWorlds
from visuomotor.sim.cell.renderer import CellRenderer
from visuomotor.sim.cell.scenario import SUITES, cell_case
from visuomotor.sim.cell.sensors import ArmSensors
from visuomotor.sim.node import choose_case, load_cameras

TOP = "camera_top"
_BINS_M = np.array([[*centre, CELL.bin_size_m[2]] for centre in CELL.bin_centre_m], np.float32)
_BELT_M = (CELL.belt_x_m[0], CELL.belt_y_m[0], CELL.belt_x_m[1], CELL.belt_y_m[1])
_REACH_M = (CELL.belt_x_m[0], CELL.reach_y_m[0], CELL.belt_x_m[1], CELL.reach_y_m[1])

_LINE = (-1, 0, 2, 3, 4, 6, 7)  # links of the arm's picture: foot, shoulder, elbow, its offset, wrist, flange, tool


class OrderChange(msgspec.Struct, frozen=True, kw_only=True):
    """Another order from an instant of the shift on, as if the operator gave it then."""

    at_s: float
    lines: tuple[OrderLine, ...]


class CellNode:
    """Publishes ``arm_state``, ``order``, ``truth`` and a frame per camera; obeys ``command`` and orders.

    Tick k carries the state and the frames of time k * 0.1 s. The step that produces it advances the cell from tick
    k - 1 under the command computed from tick k - 2. When no command comes the watchdog goes on, then stands still.

    Args:
        cameras: Calibrations; without any nothing is drawn.
        suite: Name of a scenario suite, whose first case warms the node up.
        split: ``train``, ``tune`` or ``evaluation``, likewise.
        max_duration_s: Cuts every shift.
        order: Replaces the orders of the cases; none keeps them.
        order_changes: Orders that replace what is still wanted at their time.
    """

    name = "world"
    inputs: tuple[Input, ...] = (Input("command", lag=2), Input("operator", optional=True))
    period_s: float | None = DT_S
    provider = RENDERER_NAME

    def __init__(
        self,
        cameras: list[CameraModel],
        *,
        suite: str = "pick-v1",
        split: str = "evaluation",
        max_duration_s: float | None = None,
        order: Sequence[OrderLine] = (),
        order_changes: Sequence[OrderChange] = (),
    ) -> None:
        self.cameras = sorted(cameras, key=lambda camera: (camera.name == TOP, camera.name))  # the top one last
        self.outputs: tuple[str, ...] = ("arm_state", "order", "truth", *(camera.name for camera in self.cameras))
        self.stages: list[tuple[str, int, int]] = []
        self.watchdog = ArmWatchdog()
        self.worlds = CellWorlds(1)
        self.sensors = ArmSensors(self.worlds)
        self.renderer = CellRenderer(self.cameras) if self.cameras else None
        self.max_duration_s = max_duration_s
        self._warm_up_case = (suite, split)
        self._order = tuple(order)
        self._order_changes = sorted(order_changes, key=lambda change: change.at_s)
        self._due: list[OrderChange] = []
        self._refused = ""
        self._steps = 0

    def warm_up(self) -> None:
        """Draw a first picture of a scene that no episode will see."""
        self.reset(Episode(phase="reset", suite=self._warm_up_case[0], split=self._warm_up_case[1], seed=0))
        if self.renderer is not None:
            self.renderer.draw(self.worlds, 0)

    def reset(self, episode: Episode) -> None:
        """Build the case that the episode names; ValueError when there is no such suite, split or seed."""
        case = cell_case(episode.suite, episode.split, episode.seed)
        if self._order:
            case = msgspec.structs.replace(case, orders=())
        self.worlds.reset(0, case)
        if self._order:
            self.worlds.set_order(0, *to_arrays(self._order))
        if self.max_duration_s is not None:
            self.worlds.limit_time(0, self.max_duration_s)
        self.sensors.reset(0)
        if self.renderer is not None:
            self.renderer.reset(case)
        self._due = list(self._order_changes)
        self._refused = ""
        self.watchdog.reset()
        self._steps = 0

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Advance by 0.1 s (not before the first tick), measure, draw."""
        start_ns = time.monotonic_ns()
        if self._steps > 0:
            velocity, width = self.watchdog.step(self._steps * DT_S, _new_command(inputs))
            self.worlds.step(velocity[None], np.array([width]))
        self._take_orders(inputs.drain("operator", Operator))
        self._steps += 1
        self.sensors.update()
        start_ns = self._stage("physics", start_ns)
        outputs: dict[str, Message] = {
            "arm_state": self._arm_state(tick.t_ns),
            "order": self._order_message(tick.t_ns),
            "truth": self._truth(tick.t_ns),
        }
        if self.renderer is not None:
            start_ns = time.monotonic_ns()
            for camera, image in zip(self.cameras, self.renderer.draw(self.worlds, 0), strict=True):
                outputs[camera.name] = CameraFrame(header=_header(tick.t_ns), image=np.ascontiguousarray(image))
            self._stage("render", start_ns)
        return outputs

    def close(self) -> None:
        """Disconnect from PyBullet."""
        self.worlds.close()
        if self.renderer is not None:
            self.renderer.close()

    def _take_orders(self, messages: Sequence[Operator]) -> None:
        """Orders whose time has come, then the operator's, of whom the last has the last word."""
        while self._due and self._due[0].at_s <= float(self.worlds.time_s[0]) + 1e-6:
            self.worlds.set_order(0, *to_arrays(self._due.pop(0).lines))
        for message in messages:
            if message.kind != "order":
                continue
            try:
                lines = parse_order(message.text)
            except ValueError as error:
                self._refused = str(error)
                continue
            self.worlds.set_order(0, *to_arrays(lines))
            self._refused = ""

    def _stage(self, name: str, start_ns: int) -> int:
        end_ns = time.monotonic_ns()
        self.stages.append((name, start_ns, end_ns))
        return end_ns

    def _arm_state(self, t_ns: int) -> ArmState:
        sensors = self.sensors
        points = np.zeros((len(_LINE), 3), np.float32)
        points[1:] = link_frames(sensors.joint_position_rad[:1])[0, list(_LINE[1:]), :3, 3]
        return ArmState(
            header=_header(t_ns),
            joint_position_rad=sensors.joint_position_rad[0].astype(np.float32),
            joint_velocity_radps=sensors.joint_velocity_radps[0].astype(np.float32),
            gripper_width_m=float(sensors.gripper_width_m[0]),
            gripper_force_n=float(sensors.gripper_force_n[0]),
            base_link_points_m=points,
        )

    def _order_message(self, t_ns: int) -> Order:
        w = self.worlds
        return Order(
            header=_header(t_ns),
            wanted=w.wanted[0].astype(np.int32),
            bin_index=w.bin_index[0].astype(np.int32),
            base_bin_m=_BINS_M,
            bin_size_m=CELL.bin_size_m[:2],
            base_belt_m=_BELT_M,
            base_reach_m=_REACH_M,
            refused=self._refused,
        )

    def _truth(self, t_ns: int) -> Truth:
        w = self.worlds
        present = w.part_present[0]
        ids = w.part_id[0][present]
        end = cast(EndName, ENDS[int(w.end[0])])
        return Truth(
            header=_header(t_ns),
            collision=end == "collision",
            end=end,
            events=w.cases[0].events,
            agent_id=ids.astype(np.int32),
            class_id=w.part_class[0][present].astype(np.int32),
            map_position_m=w.part_position_m[0][present, :2].astype(np.float32),
            map_velocity_mps=w.part_velocity_mps[0][present, :2].astype(np.float32),
            map_yaw_rad=w.part_yaw_rad[0][present].astype(np.float32),
            size_m=w.part_size_m[0][present].astype(np.float32),
            manoeuvre=tuple(MANOEUVRES[int(i)] for i in w.part_manoeuvre[0][present]),
            kinds=tuple(w.cases[0].arrivals[int(i)].kind for i in ids),
            height_m=w.part_position_m[0][present, 2].astype(np.float32),
            parts_ordered=int(w.parts_ordered[0]),
            parts_binned=int(w.parts_binned[0]),
            wrong_parts=int(w.wrong_parts[0]),
            belt_speed_mps=float(w.belt_speed_mps[0]),
        )


def _header(t_ns: int) -> Header:
    return Header(t_capture_ns=t_ns, valid=True)


def _new_command(inputs: Inputs) -> tuple[Sequence[float], float] | None:
    """The command that came for this step, None when none did."""
    sample = inputs["command"]
    if not sample.updated or not isinstance(sample.message, Command):
        return None
    return sample.message.joint_velocity_radps, sample.message.gripper_width_m


def create(config: Mapping[str, Any]) -> CellNode:
    """From ``{suite, split, max_duration_s, cameras, render, order, order_changes}``; ValueError names the key."""
    case = choose_case(config, tuple(SUITES))
    text = config.get("order", "")
    if not isinstance(text, str):
        raise ValueError(f"order: expected text such as 'red cube, 2 blue cylinder', got {text!r}")
    return CellNode(
        load_cameras(config),
        **case,
        order=parse_order(text) if text.strip() else (),
        order_changes=[_read_change(change) for change in config.get("order_changes", ())],
    )


def _read_change(change: Any) -> OrderChange:
    try:
        at_s, text = float(change["at_s"]), str(change["text"])
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"order_changes: expected entries {{at_s: seconds, text: order}}, got {change!r}") from None
    if not at_s >= 0.0:
        raise ValueError(f"order_changes: at_s: expected at least 0 s, got {at_s}")
    return OrderChange(at_s=at_s, lines=parse_order(text))
