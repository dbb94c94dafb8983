"""B cells of the picking task side by side: physics in one PyBullet client each, the books kept in numpy.

Struct of arrays; the running graph is the case B = 1. The same case and the same commands give the same states bit for
bit, whatever the other cells of the batch do and whatever ran before.
"""

from __future__ import annotations

import numpy as np

from visuomotor.control.arm.config import CELL, CLASS_NAMES, CONTROL_PERIOD_S, JOINTS, LIMITS, REST_RAD
from visuomotor.sim.cell.arm import usable_velocity
from visuomotor.sim.cell.parts import CATALOGUE, PartSpec
from visuomotor.sim.cell.posture import plan_view
from visuomotor.sim.cell.scenario import CYCLE_S, ENTRY_Y_M, PARTS_MAX, Arrival, CellCase
from visuomotor.sim.cell.scene import Scene

DT_S = CONTROL_PERIOD_S
ENDS = ("", "goal", "collision", "timeout", "fault")
RUNNING, GOAL, COLLISION, TIMEOUT, FAULT = range(len(ENDS))
MANOEUVRES = ("still", "constant", "stop_and_go", "rolling", "held")
STILL_PART, CONSTANT_PART, STOP_AND_GO, ROLLING, HELD = range(len(MANOEUVRES))
HARD_FORCE_N = 150.0  # from here on the arm has hit something
BINNED_KEEP_S = 2.0  # then a binned part has gone down the chute
HELD_FORCE_N = 3.0
HELD_RADIUS_M = 0.06  # of the tool, in which a part must be that is held
ROLLING_MPS = 0.015  # relative to the belt
ON_BELT_M = 0.02  # the underside of a part on the belt is at most so high
_CLASSES = len(CLASS_NAMES)
_ROUND = np.array([kind.shape == "sphere" for kind in CATALOGUE])


class CellWorlds:
    """B cells, each with an arm, a belt and at most P parts.

    Arrays, float64 in ``base_``: ``joint_position_rad``, ``joint_velocity_radps`` [B, 7]; ``gripper_width_m``,
    ``gripper_force_n``, ``belt_speed_mps`` [B]; ``tool_position_m`` [B, 3]; ``part_present``, ``part_id`` (place in the
    case's arrivals), ``part_class``, ``part_kind``, ``part_held``, ``part_manoeuvre`` [B, P]; ``part_position_m``,
    ``part_velocity_mps`` [B, P, 3] of the middles; ``part_quaternion`` [B, P, 4] (x, y, z, w) of the part's own frame;
    ``part_yaw_rad`` [B, P] and ``part_size_m`` [B, P, 3] (length, width, height) as it lies: yaw is that of its longer
    side. ``wanted``, ``bin_index`` [B, C]; ``parts_ordered``, ``parts_binned``, ``wrong_parts``, ``end``, ``tick`` [B].
    A cell that has ended stays as it is until its next ``reset``.
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"count: expected at least one cell, got {count}")
        self.count = count
        self.parts_max = PARTS_MAX
        self.cases: list[CellCase] = []  # one per cell from the first reset on
        self.scenes = [Scene() for _ in range(count)]
        self.part_spec: list[list[PartSpec | None]] = [[None] * PARTS_MAX for _ in range(count)]
        self._handle = np.full((count, PARTS_MAX), -1, np.int64)
        self._waiting: list[list[Arrival]] = [[] for _ in range(count)]  # the next one last
        self._travel_m: list[list[float]] = [[0.0]] * count  # of the belt, by tick
        self._speed_mps: list[list[float]] = [[0.0]] * count
        self._bodies: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # slot and handle of the parts present
        self._varies = np.zeros(count, bool)
        self._time_limit_s = np.zeros(count)
        self._timeout_s = np.full(count, np.inf)
        self.tick = np.zeros(count, np.int64)
        self.end = np.full(count, FAULT, np.int64)  # nothing runs before the first reset
        self.joint_position_rad = np.tile(np.array(REST_RAD), (count, 1))
        self.joint_velocity_radps = np.zeros((count, JOINTS))
        self.gripper_width_m = np.full(count, LIMITS.gripper_width_m)
        self.gripper_force_n = np.zeros(count)
        self.hit_force_n = np.zeros(count)  # the greatest of the last step, on the arm
        self._sent = np.zeros((count, JOINTS))  # where the drives' ramp starts
        self.tool_position_m = np.zeros((count, 3))
        self.belt_speed_mps = np.zeros(count)
        shape = (count, PARTS_MAX)
        self.part_present = np.zeros(shape, bool)
        self.part_id = np.full(shape, -1, np.int64)
        self.part_kind = np.zeros(shape, np.int64)
        self.part_class = np.full(shape, -1, np.int64)
        self.part_position_m = np.zeros((*shape, 3))
        self.part_velocity_mps = np.zeros((*shape, 3))
        self.part_quaternion = np.tile(np.array([0.0, 0.0, 0.0, 1.0]), (*shape, 1))
        self.part_yaw_rad = np.zeros(shape)
        self.part_size_m = np.ones((*shape, 3))
        self.part_held = np.zeros(shape, bool)
        self.part_manoeuvre = np.zeros(shape, np.int64)
        self._own_size_m = np.ones((*shape, 3))
        self._offered = np.zeros(shape, bool)  # an ordered part that has come within reach
        self._binned_s = np.full(shape, np.inf)  # when it fell into a bin
        self._excused_bin = np.full(shape, -1, np.int64)  # of what was held when its order was taken back
        self.total = np.zeros((count, _CLASSES), np.int64)  # ordered since the start
        self._right = np.zeros((count, _CLASSES), np.int64)
        self._reached = np.zeros((count, _CLASSES), np.int64)
        self._next_order = np.zeros(count, np.int64)
        self.bin_index = np.full((count, _CLASSES), -1, np.int64)
        self.wrong_parts = np.zeros(count, np.int64)

    @property
    def wanted(self) -> np.ndarray:
        """Parts still to be binned [B, C]."""
        return np.maximum(self.total - self._right, 0)

    @property
    def parts_ordered(self) -> np.ndarray:
        """Ordered parts that have come within reach in time [B]; of a class never more than were ordered."""
        return np.minimum(self.total, self._reached).sum(axis=1)

    @property
    def parts_binned(self) -> np.ndarray:
        """Those of ``parts_ordered`` that lie in the right bin [B]."""
        return np.minimum(self._right, self._reached).sum(axis=1)

    @property
    def success(self) -> np.ndarray:
        """Whether everything that could be had is binned and nothing else [B]."""
        return (self.parts_binned >= self.parts_ordered) & (self.wrong_parts == 0)

    @property
    def belt_travel_m(self) -> np.ndarray:
        """How far the belt has run since the reset [B]."""
        return np.array([travel[tick] for travel, tick in zip(self._travel_m, self.tick.tolist(), strict=True)])

    @property
    def time_s(self) -> np.ndarray:
        """Simulation time since the reset [B]."""
        return self.tick * DT_S

    def client(self, index: int) -> int:
        """PyBullet's client of one cell."""
        return self.scenes[index].client

    def reset(self, index: int, case: CellCase) -> None:
        """Start a case in cell ``index``; nothing of what ran there before is left."""
        if not self.cases:  # cells not reset yet hold the first case, ended
            self.cases = [case] * self.count
        self.cases[index] = case
        self.scenes[index].reset(case.belt_friction)
        ticks = np.arange(round(case.duration_s / DT_S) + 2) * DT_S
        self._travel_m[index] = case.belt.travel(ticks).tolist()
        self._speed_mps[index] = case.belt.speed(ticks).tolist()
        self._varies[index] = case.belt.varies
        self._time_limit_s[index], self._timeout_s[index] = case.duration_s, np.inf
        self.tick[index], self.end[index] = 0, RUNNING
        self._sent[index] = self.hit_force_n[index] = 0.0
        self._waiting[index] = list(reversed(case.arrivals))
        self.part_spec[index] = [None] * PARTS_MAX
        self._bodies[index] = []
        self.part_present[index], self._handle[index], self.part_id[index] = False, -1, -1
        self.part_kind[index], self.part_class[index] = 0, -1
        self.part_position_m[index] = self.part_velocity_mps[index] = 0.0
        self.part_quaternion[index], self._own_size_m[index] = (0.0, 0.0, 0.0, 1.0), 1.0
        self.part_held[index] = self._offered[index] = False
        self._excused_bin[index], self._binned_s[index] = -1, np.inf
        self.total[index], self._right[index], self._reached[index] = 0, 0, 0
        self.bin_index[index] = -1
        self._next_order[index] = self.wrong_parts[index] = 0
        self._take_orders(index)
        self._admit(index)
        self._read(index)
        self._derive()
        self._keep_books(np.arange(self.count) == index)

    def limit_time(self, index: int, limit_s: float) -> None:
        """End the running shift of a cell as a timeout after ``limit_s`` at the latest."""
        self._timeout_s[index] = min(self._timeout_s[index], limit_s)

    def set_order(self, index: int, wanted: np.ndarray, bin_index: np.ndarray) -> None:
        """Replace what is still wanted and where it goes, [C] each, by an operator's word.

        What the gripper holds at that moment may still go where it was due: it then counts neither way.
        """
        self._replace_order(index, self._right[index] + np.asarray(wanted, np.int64), np.asarray(bin_index, np.int64))

    def step(self, joint_velocity_radps: np.ndarray, gripper_width_m: np.ndarray) -> None:
        """Advance every running cell by 0.1 s under joint speeds [B, 7] and gripper widths [B].

        Commands are clipped to the limits; joint speeds that are not finite mean standing still, a width that is not
        finite leaves the gripper as it is.
        """
        live = self.end == RUNNING
        if not live.any():
            return
        velocity = usable_velocity(np.broadcast_to(np.asarray(joint_velocity_radps, np.float64), (self.count, JOINTS)))
        width = np.broadcast_to(np.asarray(gripper_width_m, np.float64), (self.count,))
        width = np.clip(np.where(np.isfinite(width), width, self.gripper_width_m), 0.0, LIMITS.gripper_width_m)
        for b in np.flatnonzero(live).tolist():
            tick = int(self.tick[b])
            speeds = self._speed_mps[b][tick], self._speed_mps[b][tick + 1]
            self.hit_force_n[b] = self.scenes[b].step((self._sent[b], velocity[b]), float(width[b]), speeds)
            self.tick[b] = tick + 1
            self._admit(b)
            self._read(b)
            if self._next_order[b] < len(self.cases[b].orders):
                self._take_orders(b)
        self._sent = np.where(live[:, None], velocity, self._sent)
        self._derive()
        self._keep_books(live)

    def close(self) -> None:
        """Disconnect from PyBullet."""
        for scene in self.scenes:
            scene.close()

    def _admit(self, b: int) -> None:
        """Let parts in that the belt has carried to the entry; with all slots taken they do not come."""
        waiting, travelled = self._waiting[b], self._travel_m[b][int(self.tick[b])]
        while waiting and waiting[-1].start_y_m - travelled <= ENTRY_Y_M:
            arrival = waiting.pop()
            free = np.flatnonzero(~self.part_present[b])
            if not len(free):
                continue
            slot, part = int(free[0]), arrival.part
            position = (arrival.x_m, arrival.start_y_m - travelled, 0.5 * part.size_m[2])
            roll_x, roll_y = arrival.roll_mps
            radius = 0.5 * part.size_m[2]
            self._handle[b, slot] = self.scenes[b].add_part(
                part,
                position,
                arrival.yaw_rad,
                (roll_x, roll_y - self._speed_mps[b][int(self.tick[b])], 0.0),
                (-roll_y / radius, roll_x / radius, 0.0),
            )
            self._bodies[b].append((slot, int(self._handle[b, slot])))
            self.part_spec[b][slot] = part
            self.part_present[b, slot] = True
            self.part_id[b, slot] = len(self.cases[b].arrivals) - len(waiting) - 1
            self.part_kind[b, slot], self.part_class[b, slot] = part.kind, part.class_id
            self._own_size_m[b, slot] = part.size_m
            self._offered[b, slot] = self.part_held[b, slot] = False
            self._excused_bin[b, slot], self._binned_s[b, slot] = -1, np.inf

    def _read(self, b: int) -> None:
        """Copy the state of one cell out of PyBullet."""
        scene = self.scenes[b]
        reading = scene.arm.read()
        self.joint_position_rad[b], self.joint_velocity_radps[b] = (
            reading.joint_position_rad,
            reading.joint_velocity_radps,
        )
        self.gripper_width_m[b], self.gripper_force_n[b] = reading.gripper_width_m, reading.gripper_force_n
        self.tool_position_m[b] = reading.tool_position_m
        self.belt_speed_mps[b] = self._speed_mps[b][int(self.tick[b])]
        for slot, handle in self._bodies[b]:
            position, orientation, velocity = scene.part_state(handle)
            self.part_position_m[b, slot] = position
            self.part_quaternion[b, slot] = orientation
            self.part_velocity_mps[b, slot] = velocity

    def _derive(self) -> None:
        """How the parts lie: yaw and size in plan view, which is held, how each moves."""
        self.part_yaw_rad, self.part_size_m = plan_view(self.part_quaternion, self._own_size_m, self.part_kind)
        distance = np.linalg.norm(self.part_position_m - self.tool_position_m[:, None], axis=-1)
        distance = np.where(self.part_present, distance, np.inf)
        nearest = distance == distance.min(axis=1, keepdims=True)
        self.part_held = nearest & (distance < HELD_RADIUS_M) & (self.gripper_force_n > HELD_FORCE_N)[:, None]
        self._classify()

    def _classify(self) -> None:
        position, velocity = self.part_position_m, self.part_velocity_mps
        (x0, x1), (y0, y1) = CELL.belt_x_m, CELL.belt_y_m
        on_belt = (position[..., 0] > x0) & (position[..., 0] < x1) & (position[..., 1] > y0) & (position[..., 1] < y1)
        on_belt &= position[..., 2] - 0.5 * self.part_size_m[..., 2] < ON_BELT_M
        relative = velocity[..., :2] + np.stack([np.zeros(self.count), self.belt_speed_mps], axis=1)[:, None]
        rolls = on_belt & (np.hypot(relative[..., 0], relative[..., 1]) > ROLLING_MPS) & _ROUND[self.part_kind]
        carried = np.where(self._varies, STOP_AND_GO, np.where(self.belt_speed_mps > 0.0, CONSTANT_PART, STILL_PART))
        self.part_manoeuvre = np.select(
            [self.part_held, rolls, on_belt], [HELD, ROLLING, carried[:, None]], default=STILL_PART
        )

    def _keep_books(self, live: np.ndarray) -> None:
        """Orders, bins, what leaves the cell, and the end, for the cells in the mask [B]."""
        time_s = self.time_s
        x, y, z = np.moveaxis(self.part_position_m, -1, 0)
        known = self.part_present & live[:, None] & (self.part_class >= 0)
        reach = known & (y >= CELL.reach_y_m[0]) & (y <= CELL.reach_y_m[1])
        reach &= (x > CELL.belt_x_m[0]) & (x < CELL.belt_x_m[1]) & ~self._offered
        reach &= self._in_time()[:, None]
        if reach.any():
            reach &= np.take_along_axis(self.wanted, np.maximum(self.part_class, 0), axis=1) > 0
            self._offered |= reach
            for b, slot in zip(*np.nonzero(reach), strict=True):
                self._reached[b, self.part_class[b, slot]] += 1
        loose = self.part_present & live[:, None] & ~self.part_held & np.isinf(self._binned_s)
        for place, (bin_x, bin_y) in enumerate(CELL.bin_centre_m):
            length, width, height = CELL.bin_size_m
            inside = loose & (np.abs(x - bin_x) < 0.5 * length) & (np.abs(y - bin_y) < 0.5 * width) & (z < height)
            for b, slot in zip(*np.nonzero(inside), strict=True):
                self._bin(int(b), int(slot), place)
        gone = self.part_present & live[:, None]
        gone &= (z < -0.1) | (y < CELL.belt_y_m[0]) | (self._binned_s < time_s[:, None] - BINNED_KEEP_S)
        for b, slot in zip(*np.nonzero(gone), strict=True):
            self._dismiss(int(b), int(slot))
        hit = self.hit_force_n > HARD_FORCE_N
        over = time_s >= self._time_limit_s - 1e-6
        verdict = np.select([hit, over, time_s >= self._timeout_s], [COLLISION, GOAL, TIMEOUT], RUNNING)
        self.end = np.where(live, verdict, self.end)

    def _in_time(self, index: int | slice = slice(None)) -> np.ndarray:
        """Whether enough of the shift is left for a part that comes within reach now [B]."""
        return self.tick[index] * DT_S <= self._time_limit_s[index] - CYCLE_S + 1e-6

    def _bin(self, b: int, slot: int, place: int) -> None:
        self._binned_s[b, slot] = self.tick[b] * DT_S
        class_id = int(self.part_class[b, slot])
        if class_id >= 0 and self.wanted[b, class_id] > 0 and self.bin_index[b, class_id] == place:
            if not self._offered[b, slot] and self._in_time(b):  # taken before it came within reach
                self._reached[b, class_id] += 1
            self._right[b, class_id] += 1
        elif self._excused_bin[b, slot] != place:
            self.wrong_parts[b] += 1

    def _dismiss(self, b: int, slot: int) -> None:
        handle = int(self._handle[b, slot])
        self.scenes[b].remove_part(handle)
        self._bodies[b].remove((slot, handle))
        self.part_present[b, slot], self._handle[b, slot] = False, -1
        self.part_id[b, slot], self.part_class[b, slot] = -1, -1
        self.part_held[b, slot] = False
        self.part_spec[b][slot] = None

    def _take_orders(self, b: int) -> None:
        """Change to the case's newest order whose time has come."""
        case = self.cases[b]
        while self._next_order[b] < len(case.orders):
            order = case.orders[self._next_order[b]]
            if order.time_s > self.tick[b] * DT_S + 1e-6:
                return
            self._next_order[b] += 1
            total = np.maximum(order.total, self._right[b])
            self._replace_order(b, total, np.where(np.array(order.total) > 0, case.bin_index, -1))

    def _replace_order(self, b: int, total: np.ndarray, bin_index: np.ndarray) -> None:
        old_bin = np.where(self.wanted[b] > 0, self.bin_index[b], -1)
        self.total[b], self.bin_index[b] = total, bin_index
        changed = (self.wanted[b] == 0) | (bin_index != old_bin)
        due = np.where(changed, old_bin, -1)[np.maximum(self.part_class[b], 0)]
        held = self.part_held[b] & (self.part_class[b] >= 0)
        self._excused_bin[b] = np.where(held, due, self._excused_bin[b])
