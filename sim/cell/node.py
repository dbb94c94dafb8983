"""The world node of picking: one cell, its sensors and cameras; state in ``sim.cell.cell``, images in its renderer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np

from visuomotor.control.arm.action import ArmWatchdog
from visuomotor.control.arm.config import CELL
from visuomotor.control.arm.kinematics import link_frames
from visuomotor.control.arm.order import OrderLine, parse_order, to_arrays
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.node import Input, Inputs
from visuomotor.messages.schema import ArmState, Command, EndName, Episode, Message, Operator, Order, Truth
from visuomotor.sim.cell.cell import ENDS, MANOEUVRES, CellWorlds
from visuomotor.sim.cell.renderer import CellRenderer
from visuomotor.sim.cell.scenario import SUITES, CellCase, cell_case
from visuomotor.sim.cell.sensors import ArmSensors
from visuomotor.sim.world_node import SimulatedWorld, choose_case, load_cameras, make_header

_BINS_M = np.array([[*centre, CELL.bin_size_m[2]] for centre in CELL.bin_centre_m], np.float32)
_BELT_M = (CELL.belt_x_m[0], CELL.belt_y_m[0], CELL.belt_x_m[1], CELL.belt_y_m[1])
_REACH_M = (CELL.belt_x_m[0], CELL.reach_y_m[0], CELL.belt_x_m[1], CELL.reach_y_m[1])

_LINE = (-1, 0, 2, 3, 4, 6, 7)  # links of the arm's picture: foot, shoulder, elbow, its offset, wrist, flange, tool


class OrderChange(msgspec.Struct, frozen=True, kw_only=True):
    """Another order from an instant of the shift on, as if the operator gave it then."""

    at_s: float
    lines: tuple[OrderLine, ...]


class CellNode(SimulatedWorld):
    """Publishes ``arm_state``, ``order``, ``truth`` and a frame per camera; obeys orders, too.

    When no command comes the watchdog goes on, then stands still.

    Args:
        cameras: Calibrations; without any nothing is drawn.
        suite: Name of a scenario suite, whose first case warms the node up.
        split: ``train``, ``tune`` or ``evaluation``, likewise.
        max_duration_s: Cuts every shift.
        order: Replaces the orders of the cases; none keeps them.
        order_changes: Orders that replace what is still wanted at their time.
    """

    inputs: tuple[Input, ...] = (Input("command", lag=2), Input("operator", optional=True))
    services = ("arm_state", "order", "truth")
    lead = "camera_top"
    worlds: CellWorlds
    sensors: ArmSensors
    renderer: CellRenderer | None
    _case: CellCase

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
        self.watchdog = ArmWatchdog()
        worlds = CellWorlds(1)
        super().__init__(cameras, worlds, ArmSensors(worlds), suite=suite, split=split, max_duration_s=max_duration_s)
        self._order = tuple(order)
        self._order_changes = sorted(order_changes, key=lambda change: change.at_s)
        self._due: list[OrderChange] = []
        self._refused = ""

    def _make_renderer(self) -> CellRenderer:
        return CellRenderer(self.cameras)

    def _build(self, episode: Episode) -> None:
        self._case = cell_case(episode.suite, episode.split, episode.seed)
        if self._order:
            self._case = msgspec.structs.replace(self._case, orders=())
        self.worlds.reset(0, self._case)
        if self._order:
            self.worlds.set_order(0, *to_arrays(self._order))
        self._due = list(self._order_changes)
        self._refused = ""
        self.watchdog.reset()

    def _dress(self) -> None:
        assert self.renderer is not None
        self.renderer.reset(self._case)

    def _advance(self, now_s: float, command: Command | None) -> None:
        wanted = None if command is None else (command.joint_velocity_radps, command.gripper_width_m)
        velocity, width = self.watchdog.step(now_s, wanted)
        self.worlds.step(velocity[None], np.array([width]))

    def _tell(self, t_ns: int) -> dict[str, Message]:
        return {"arm_state": self._arm_state(t_ns), "order": self._order_message(t_ns), "truth": self._truth(t_ns)}

    def _listen(self, inputs: Inputs) -> None:
        """Orders whose time has come, then the operator's, of whom the last has the last word."""
        while self._due and self._due[0].at_s <= float(self.worlds.time_s[0]) + 1e-6:
            self.worlds.set_order(0, *to_arrays(self._due.pop(0).lines))
        for message in inputs.drain("operator", Operator):
            if message.kind != "order":
                continue
            try:
                lines = parse_order(message.text)
            except ValueError as error:
                self._refused = str(error)
                continue
            self.worlds.set_order(0, *to_arrays(lines))
            self._refused = ""

    def _arm_state(self, t_ns: int) -> ArmState:
        sensors = self.sensors
        points = np.zeros((len(_LINE), 3), np.float32)
        points[1:] = link_frames(sensors.joint_position_rad[:1])[0, list(_LINE[1:]), :3, 3]
        return ArmState(
            header=make_header(t_ns),
            joint_position_rad=sensors.joint_position_rad[0].astype(np.float32),
            joint_velocity_radps=sensors.joint_velocity_radps[0].astype(np.float32),
            gripper_width_m=float(sensors.gripper_width_m[0]),
            gripper_force_n=float(sensors.gripper_force_n[0]),
            base_link_points_m=points,
        )

    def _order_message(self, t_ns: int) -> Order:
        w = self.worlds
        return Order(
            header=make_header(t_ns),
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
            header=make_header(t_ns),
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
