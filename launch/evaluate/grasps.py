"""Which part an arm reached for, when it held it and what became of it, read off a run's messages tick by tick."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from visuomotor.launch.evaluate.metrics import DT_S
from visuomotor.messages.schema import ArmState, Command, Message, Order, Truth

NEAR_M = 0.15  # from the tool to a part's middle: it is being approached
AT_M = 0.09  # fingers that close so near to a part mean this one
LOW_M = 0.08  # fingers that close below this height, near to nothing, have grasped at nothing
LIFTED_M = 0.02
CLOSING_M = 0.04  # a gripper that is told a smaller width closes
SETTLE_TICKS = 20  # after a release: a part that lies in no bin by then was dropped
STEADY_MPS = 0.02  # a belt whose speed varies by less, while a part is in reach, is steady


class Grasp(msgspec.Struct, kw_only=True):
    """One closing of the fingers. ``part_id`` -1: there was no part. Ticks are None for what did not happen."""

    part_id: int
    class_id: int = -1
    approach_tick: int
    close_tick: int
    held_tick: int | None = None
    released_tick: int | None = None
    outcome: str = ""  # binned, wrong (part or bin), dropped, missed (never held); empty while it goes on


class Visit(msgspec.Struct, kw_only=True):
    """One ordered part within reach."""

    part_id: int
    class_id: int
    kind: str  # what makes it hard, in the scenario's words
    came_tick: int
    slowest_mps: float = np.inf  # of the belt, meanwhile
    fastest_mps: float = 0.0
    outcome: str = ""  # binned, wrong, missed, spare (enough of its class without it); empty while it may be taken

    @property
    def speed(self) -> str:
        """Group of the belt's speed: "0", the next tenth of m/s, or "changing"."""
        if self.fastest_mps - self.slowest_mps > STEADY_MPS:
            return "changing"
        return "0" if self.fastest_mps <= STEADY_MPS else f"{np.ceil(self.fastest_mps * 10 - 0.05) / 10:.1f}"


class GraspLog:
    """Grasps and visits of one episode in the order in which they began; needs ``truth``."""

    def __init__(self) -> None:
        self.grasps: list[Grasp] = []
        self.visits: dict[int, Visit] = {}
        self._lying_m: dict[int, float] = {}  # height of each part when it came
        self._near_since: dict[int, int] = {}
        self._grasp: Grasp | None = None
        self._falling: list[Grasp] = []
        self._closing = False
        self._counted = (0, 0)
        self._wanted: list[int] = []  # parts of each class still to be binned

    def add(self, messages: Mapping[str, Message]) -> None:
        """Messages of one tick by service."""
        truth, state = messages.get("truth"), messages.get("arm_state")
        if not isinstance(truth, Truth):
            return
        tick = truth.header.tick
        height_m = truth.height_m if len(truth.height_m) else truth.size_m[:, 2] / 2.0
        position_m = np.column_stack([truth.map_position_m, height_m])
        for part_id, height in zip(truth.agent_id.tolist(), height_m.tolist(), strict=True):
            self._lying_m.setdefault(part_id, height)
        if isinstance(state, ArmState) and len(state.base_link_points_m):
            tool_m = state.base_link_points_m[-1].astype(np.float64)
            distance_m = np.linalg.norm(position_m - tool_m, axis=1)
            self._approach(truth, distance_m, tick)
            command = messages.get("command")
            if isinstance(command, Command):
                self._follow(truth, tool_m, distance_m, height_m, command.gripper_width_m < CLOSING_M, tick)
        self._count(truth, tick)
        if isinstance(order := messages.get("order"), Order):
            self._watch(truth, order, position_m, tick)

    def _approach(self, truth: Truth, distance_m: np.ndarray, tick: int) -> None:
        near = truth.agent_id[distance_m < NEAR_M].tolist()
        self._near_since = {part_id: self._near_since.get(part_id, tick) for part_id in near}

    def _follow(
        self,
        truth: Truth,
        tool_m: np.ndarray,
        distance_m: np.ndarray,
        height_m: np.ndarray,
        closing: bool,
        tick: int,
    ) -> None:
        """One tick of the fingers: they close on a part, hold it once it is lifted, and let go as they open."""
        began, self._closing = closing and not self._closing, closing
        if began:
            self._begin(truth, tool_m, distance_m, tick)
        grasp = self._grasp
        if grasp is None:
            return
        at = np.flatnonzero(truth.agent_id == grasp.part_id)
        close = len(at) > 0 and distance_m[at[0]] < NEAR_M
        if close and grasp.held_tick is None and height_m[at[0]] - self._lying_m[grasp.part_id] > LIFTED_M:
            grasp.held_tick = tick
        lost = grasp.held_tick is not None and not close
        if closing and not lost:
            return
        self._grasp = None
        if grasp.held_tick is None:
            self._decide(grasp, "missed")
        else:
            grasp.released_tick = tick
            self._falling.append(grasp)

    def _begin(self, truth: Truth, tool_m: np.ndarray, distance_m: np.ndarray, tick: int) -> None:
        nearest = int(np.argmin(distance_m)) if len(distance_m) else -1
        if nearest >= 0 and distance_m[nearest] < AT_M:
            part_id, class_id = int(truth.agent_id[nearest]), int(truth.class_id[nearest])
            since = self._near_since.get(part_id, tick)
            self._grasp = Grasp(part_id=part_id, class_id=class_id, approach_tick=since, close_tick=tick)
        elif tool_m[2] < LOW_M:
            self._grasp = Grasp(part_id=-1, approach_tick=tick, close_tick=tick)
        if self._grasp is not None:
            self.grasps.append(self._grasp)

    def _count(self, truth: Truth, tick: int) -> None:
        """Parts that came to lie in a bin are those let go of first."""
        before, self._counted = self._counted, (truth.parts_binned, truth.wrong_parts)
        for outcome, grew in zip(("binned", "wrong"), np.subtract(self._counted, before).tolist(), strict=True):
            for _ in range(min(grew, len(self._falling))):
                self._decide(self._falling.pop(0), outcome)
        while self._falling and tick - (self._falling[0].released_tick or 0) > SETTLE_TICKS:
            self._decide(self._falling.pop(0), "dropped")

    def _decide(self, grasp: Grasp, outcome: str) -> None:
        grasp.outcome = outcome
        visit = self.visits.get(grasp.part_id)
        if visit is not None and outcome in ("binned", "wrong"):
            visit.outcome = outcome

    def _watch(self, truth: Truth, order: Order, position_m: np.ndarray, tick: int) -> None:
        """Ordered parts that come into reach and leave it."""
        self._wanted = order.wanted.tolist()
        x0, y0, x1, y1 = order.base_reach_m
        x_m, y_m = position_m[:, 0], position_m[:, 1]
        inside = (x_m > x0) & (x_m < x1) & (y_m > y0) & (y_m < y1)
        for i in np.flatnonzero(truth.class_id >= 0):
            part_id, class_id = int(truth.agent_id[i]), int(truth.class_id[i])
            visit = self.visits.get(part_id)
            if visit is None and inside[i] and class_id < len(order.wanted) and order.wanted[class_id] > 0:
                kind = truth.kinds[i] if i < len(truth.kinds) else ""
                visit = self.visits[part_id] = Visit(part_id=part_id, class_id=class_id, kind=kind, came_tick=tick)
            if visit is None or visit.outcome:
                continue
            if inside[i]:
                visit.slowest_mps = min(visit.slowest_mps, truth.belt_speed_mps)
                visit.fastest_mps = max(visit.fastest_mps, truth.belt_speed_mps)
            elif y_m[i] <= y0 and (self._grasp is None or self._grasp.part_id != part_id):
                under_way = [grasp for grasp in (*self._falling, self._grasp) if grasp and grasp.held_tick is not None]
                carried = sum(grasp.class_id == class_id for grasp in under_way)
                visit.outcome = "missed" if self._wanted[class_id] > carried else "spare"

    def finish(self) -> None:
        """Decide what the end of the episode leaves open: a grasp in the air, parts that have not been taken."""
        for grasp in self._falling:
            self._decide(grasp, "dropped")
        self._falling.clear()
        if self._grasp is not None:
            self._decide(self._grasp, "dropped" if self._grasp.held_tick is not None else "missed")
            self._grasp = None
        for visit in self.visits.values():
            visit.outcome = visit.outcome or ("missed" if self._wanted[visit.class_id] > 0 else "spare")

    def cycles_s(self) -> list[float]:
        """How long each part took that was binned, from the approach to the release."""
        done = [grasp for grasp in self.grasps if grasp.outcome == "binned" and grasp.released_tick is not None]
        return [round(((grasp.released_tick or 0) - grasp.approach_tick) * DT_S, 3) for grasp in done]

    def count_groups(self) -> dict[str, list[int]]:
        """Kind of part, and speed of the belt -> parts that were binned, and all that had to be: none is spare."""
        counts: dict[str, list[int]] = {}
        for visit in self.visits.values():
            for group in (f"kind {visit.kind}" if visit.kind else "", f"speed {visit.speed}"):
                if group and visit.outcome != "spare":
                    row = counts.setdefault(group, [0, 0])
                    row[0] += visit.outcome == "binned"
                    row[1] += 1
        return dict(sorted(counts.items()))
