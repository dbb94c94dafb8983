"""Cells at an instant, drawn at random without physics: what the detector's data set shows.

Parts lie scattered, turned, touching, tumbled and in the bins; the arm rests, reaches over them, closes on one, or
carries one. Places and poses are what the task can bring about, but nobody has to wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from visuomotor.control.arm.config import CELL, CONTROL_PERIOD_S, LIMITS, REST_RAD
from visuomotor.control.arm.kinematics import forward, solve_velocity
from visuomotor.sim.cell.parts import CATALOGUE, DISTRACTOR, DISTRACTORS, PartSpec, draw_part, kind_of_class
from visuomotor.sim.cell.posture import plan_view, quaternion_from_turn, turn_from_quaternion
from visuomotor.sim.cell.shapes import part_mesh

BELT_Y_M = (-0.55, 1.00)  # a little more than the camera above the belt sees
PARTS_RANGE = (4, 17)
DISTRACTOR_SHARE = 0.22
TOUCHING_SHARE = 0.35
TUMBLED_SHARE = 0.10
OFF_LANE_SHARE = 0.12  # pushed towards the edge of the belt
BINNED_SHARE = 0.35  # of the cells with something in a bin
HELD, OVER, ASTRIDE, TRAVEL, REST = "held", "over", "astride", "travel", "rest"
ARM_SHARES = {HELD: 0.28, OVER: 0.28, ASTRIDE: 0.14, TRAVEL: 0.18, REST: 0.12}
CLEARANCE_M = 0.075  # around the tool, when it is low, no part but the one it is about to grip
CLASSES = sum(kind.class_id != DISTRACTOR for kind in CATALOGUE)
_SOLVER_STEPS = 60


@dataclass
class Placed:
    """One part and how it lies: middle (m), quaternion x, y, z, w and footprint [n, 2] in ``base_``."""

    spec: PartSpec
    position_m: np.ndarray
    quaternion: np.ndarray
    footprint_m: np.ndarray


@dataclass
class Still:
    """One cell at an instant; satisfies ``sim.cell.renderer.CellState`` with B = 1."""

    tick: np.ndarray
    joint_position_rad: np.ndarray
    gripper_width_m: np.ndarray
    belt_travel_m: np.ndarray
    parts: list[Placed]
    part_present: np.ndarray = field(init=False)
    part_id: np.ndarray = field(init=False)
    part_class: np.ndarray = field(init=False)
    part_position_m: np.ndarray = field(init=False)
    part_quaternion: np.ndarray = field(init=False)
    part_yaw_rad: np.ndarray = field(init=False)
    part_size_m: np.ndarray = field(init=False)
    part_spec: list[list[PartSpec]] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.parts)
        self.part_present = np.ones((1, count), bool)
        self.part_id = np.arange(count)[None]
        self.part_spec = [[part.spec for part in self.parts]]
        self.part_class = np.array([[part.spec.class_id for part in self.parts]], np.int64).reshape(1, count)
        self.part_position_m = np.array([part.position_m for part in self.parts]).reshape(1, count, 3)
        self.part_quaternion = np.array([part.quaternion for part in self.parts]).reshape(1, count, 4)
        kind = np.array([[part.spec.kind for part in self.parts]], np.int64).reshape(1, count)
        size = np.array([part.spec.size_m for part in self.parts]).reshape(1, count, 3)
        self.part_yaw_rad, self.part_size_m = plan_view(self.part_quaternion, size, kind)


def draw_still(split: str, rng: np.random.Generator) -> Still:
    """One cell; ``split`` names the colours of the parts."""
    parts: list[Placed] = []
    for _ in range(int(rng.integers(*PARTS_RANGE))):
        spec = _draw_spec(split, rng)
        near = parts[int(rng.integers(len(parts)))] if parts and rng.random() < TOUCHING_SHARE else None
        placed = _beside(near, spec, rng) if near is not None else _scattered(spec, rng)
        if placed is not None and all(not _overlap(placed, other) for other in parts):
            parts.append(placed)
    arm = str(rng.choice(list(ARM_SHARES), p=list(ARM_SHARES.values())))
    joints, width, parts = _pose_arm(arm, parts, split, rng)
    if rng.random() < BINNED_SHARE:
        parts += _binned(split, rng)
    return Still(
        tick=rng.integers(1000, size=1),
        joint_position_rad=joints[None],
        gripper_width_m=np.array([width]),
        belt_travel_m=rng.uniform(0.0, 12.0, 1),
        parts=parts,
    )


# --------------------------------------------------------------------------------------------------------------- parts
def _draw_spec(split: str, rng: np.random.Generator) -> PartSpec:
    if rng.random() < DISTRACTOR_SHARE:
        return draw_part(int(rng.choice(DISTRACTORS)), split, rng)
    return draw_part(kind_of_class(int(rng.integers(CLASSES))), split, rng)


def _place(spec: PartSpec, x_m: float, y_m: float, turn: np.ndarray, floor_m: float = 0.0) -> Placed:
    """A part that stands on ``floor_m`` with its middle over a point."""
    corners = part_mesh(spec).arrays()[0] @ turn.T
    hull = cv2.convexHull(corners[:, :2].astype(np.float32)).reshape(-1, 2) + np.array([x_m, y_m], np.float32)
    position = np.array([x_m, y_m, floor_m - corners[:, 2].min()])
    return Placed(spec, position, np.array(quaternion_from_turn(turn)), hull)


def _overlap(one: Placed, other: Placed) -> bool:
    """Whether two footprints meet: no edge of either has the other one wholly outside."""
    if np.hypot(*(one.position_m - other.position_m)[:2]) > 0.16:  # farther than two of the longest parts reach
        return False
    for hull, points in ((one.footprint_m, other.footprint_m), (other.footprint_m, one.footprint_m)):
        edge = np.roll(hull, -1, axis=0) - hull
        normal = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
        own, theirs = hull @ normal.T, points @ normal.T  # [point, edge]
        if ((own.max(axis=0) < theirs.min(axis=0)) | (own.min(axis=0) > theirs.max(axis=0))).any():
            return False
    return True


def _orientation(spec: PartSpec, rng: np.random.Generator) -> np.ndarray:
    """Upright and turned, or on another side."""
    turn = _about_z(rng.uniform(-np.pi, np.pi))
    if CATALOGUE[spec.kind].shape != "sphere" and rng.random() < TUMBLED_SHARE:
        quarter = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # about x
        turn = turn @ (quarter if rng.random() < 0.6 else quarter.T)
        turn = turn @ _about_z(float(rng.choice((0.0, np.pi / 2)))) if rng.random() < 0.4 else turn
    return turn


def _scattered(spec: PartSpec, rng: np.random.Generator) -> Placed:
    low, high = CELL.lane_x_m if rng.random() > OFF_LANE_SHARE else (CELL.belt_x_m[0] + 0.03, CELL.belt_x_m[1] - 0.03)
    return _place(spec, rng.uniform(low, high), rng.uniform(*BELT_Y_M), _orientation(spec, rng))


def _beside(near: Placed, spec: PartSpec, rng: np.random.Generator) -> Placed | None:
    """A part that touches another or nearly so: end to end, side by side or askew; None when the belt ends there."""
    turn = _orientation(spec, rng)
    own = turn_from_quaternion(near.quaternion)
    if rng.random() < 0.6:  # along one of its sides
        turn = _about_z(np.arctan2(own[1, 0], own[0, 0]) + rng.normal(0.0, 0.05))
        way = own[:2, int(rng.integers(2))] * rng.choice((-1.0, 1.0))
    else:
        angle = rng.uniform(-np.pi, np.pi)
        way = np.array([np.cos(angle), np.sin(angle)])
    length = float(np.hypot(*way))
    if length < 0.5:  # a side that points up
        return None
    way = way / length
    placed = _place(spec, float(near.position_m[0]), float(near.position_m[1]), turn)
    while _overlap(placed, near):
        placed.position_m[:2] += 0.001 * way
        placed.footprint_m += (0.001 * way).astype(np.float32)
    x, y = (placed.position_m[:2] + rng.uniform(0.0, 0.004) * way).tolist()
    inside = CELL.belt_x_m[0] + 0.02 < x < CELL.belt_x_m[1] - 0.02
    return _place(spec, x, y, turn) if inside else None


def _binned(split: str, rng: np.random.Generator) -> list[Placed]:
    """Parts that were dropped into a bin and lie there as they fell."""
    parts: list[Placed] = []
    length, width, _ = CELL.bin_size_m
    for _ in range(int(rng.integers(1, 4))):
        x, y = CELL.bin_centre_m[int(rng.integers(len(CELL.bin_centre_m)))]
        spec = _draw_spec(split, rng)
        room = 0.5 * max(spec.size_m)
        x += rng.uniform(-1.0, 1.0) * (0.5 * length - room)
        y += rng.uniform(-1.0, 1.0) * (0.5 * width - room)
        placed = _place(spec, x, y, _orientation(spec, rng), 0.006)
        if all(not _overlap(placed, other) for other in parts):
            parts.append(placed)
    return parts


# ----------------------------------------------------------------------------------------------------------------- arm
def _pose_arm(
    arm: str, parts: list[Placed], split: str, rng: np.random.Generator
) -> tuple[np.ndarray, float, list[Placed]]:
    """Joints [7], gripper width and the parts with what the arm's pose changes about them."""
    low, high = np.array(CELL.workspace_min_m), np.array(CELL.workspace_max_m)
    near = [part for part in parts if CELL.reach_y_m[0] < part.position_m[1] < CELL.reach_y_m[1]]
    width = float(rng.choice((LIMITS.gripper_width_m, rng.uniform(0.0, LIMITS.gripper_width_m))))
    if arm == REST or (arm in (OVER, ASTRIDE) and not near):
        return np.array(REST_RAD) + rng.normal(0.0, 0.03, 7), width, parts
    yaw = float(rng.uniform(-np.pi / 2, np.pi / 2))
    point = np.array([rng.uniform(0.14, 0.66), rng.uniform(-0.45, 0.45), rng.uniform(0.10, 0.40)])
    target: Placed | None = None
    if arm in (OVER, ASTRIDE):
        target = near[int(rng.integers(len(near)))]
        turn = turn_from_quaternion(target.quaternion)
        yaw = float(np.arctan2(turn[1, 0], turn[0, 0])) + rng.normal(0.0, 0.05)
        spread, z = (0.025, rng.uniform(0.05, 0.25)) if arm == OVER else (0.003, rng.uniform(0.012, 0.05))
        point = np.array([*(target.position_m[:2] + rng.normal(0.0, spread, 2)), z])
        if arm == ASTRIDE:
            width = float(rng.uniform(min(target.spec.size_m[1] + 0.004, 0.079), LIMITS.gripper_width_m))
    elif arm == HELD:
        point[:2] = rng.uniform((0.38, -0.40), (0.62, 0.40)) if rng.random() < 0.5 else point[:2]
        point[2] = rng.uniform(0.015, 0.30)
    joints = reach(np.clip(point, low, high), yaw, rng)
    tool = forward(joints[None])
    at = tool.position_m[0]
    if at[2] < 0.07:
        parts = [p for p in parts if p is target or np.hypot(*(p.position_m - at)[:2]) > CLEARANCE_M]
    if arm == HELD:
        spec = draw_part(kind_of_class(int(rng.integers(CLASSES))), split, rng)
        parts = [*parts, _in_hand(spec, at, tool.rotation[0], rng)]
        width = spec.size_m[1]
    return joints, width, parts


def _in_hand(spec: PartSpec, tool_m: np.ndarray, tool_turn: np.ndarray, rng: np.random.Generator) -> Placed:
    """A part between the fingers, gripped near its middle across its width, as level as a grip leaves it."""
    upside = tool_turn @ np.diag([1.0, -1.0, -1.0])  # the tool's z points down
    turn = upside @ cv2.Rodrigues(rng.normal(0.0, (0.04, 0.12, 0.04)))[0]  # it can swing about the fingers' axis
    if rng.random() < 0.5:
        turn = turn @ _about_z(np.pi)  # the other way round
    offset = np.array([rng.normal(0.0, 0.007), 0.0, rng.normal(0.0, 0.006)])
    position = tool_m + upside @ offset
    placed = _place(spec, float(position[0]), float(position[1]), turn)
    placed.position_m[2] = max(float(position[2]), placed.position_m[2])  # never below the belt
    return placed


def reach(tool_m: np.ndarray, yaw_rad: float, rng: np.random.Generator) -> np.ndarray:
    """Joints [7] that bring the tool near a point [3], pointing down with a yaw, from somewhere near the rest pose."""
    joints = np.array([REST_RAD]) + rng.normal(0.0, 0.1, (1, 7))
    low, high = np.array(LIMITS.position_min_rad), np.array(LIMITS.position_max_rad)
    for _ in range(_SOLVER_STEPS):
        tool = forward(joints)
        turn = (yaw_rad - tool.yaw_rad[0] + np.pi / 2) % np.pi - np.pi / 2  # the fingers are two of a kind
        twist = np.array([[*(3.0 * (tool_m - tool.position_m[0])), 3.0 * turn]])
        joints = np.clip(joints + CONTROL_PERIOD_S * solve_velocity(joints, twist), low, high)
    found: np.ndarray = joints[0]
    return found


def _about_z(angle_rad: float) -> np.ndarray:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
