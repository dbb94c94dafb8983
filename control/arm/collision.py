"""What the arm may not touch, and how far away it is: plate, belt, bins and the arm itself, for many postures at once.

Each link is a capsule that holds the hull of its mesh, and a capsule is a row of balls: every distance is one between
a ball and a plane, a box or another ball.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from visuomotor.control.arm.config import CELL, JOINTS, CellGeometry
from visuomotor.control.arm.kinematics import FINGER_TIPS_M, link_frames

FOOT, TOOL = -1, JOINTS  # frames beside those of the joints, 0 to 6
BALL_SPACING = 0.9  # radii, along a capsule; the balls are a tenth larger, so that nothing shows between them
BIN_WALL_M = 0.006  # outside of a bin's inner size; its floor is as thick
TIP_LENGTH_M = 0.0073  # of the fingers, beyond the point between their pads
TIP_HALF_WIDTHS_M = (0.0105, 0.067)  # of both fingers wide open, along x and y of the tool


class Capsule(NamedTuple):
    """A link's hull: all points within ``radius_m`` of a segment in the frame of its joint."""

    frame: int
    start_m: tuple[float, float, float]
    end_m: tuple[float, float, float]
    radius_m: float


# Fitted to the vertices of the URDF's meshes that ship with pybullet_data, which are those of franka_description.
CAPSULES: dict[str, Capsule] = {
    "link0": Capsule(FOOT, (0.001, 0.0, 0.051), (-0.058, -0.002, 0.018), 0.106),
    "link1": Capsule(0, (0.0, -0.053, 0.001), (-0.008, -0.005, -0.151), 0.077),
    "link2": Capsule(1, (-0.001, -0.146, 0.003), (0.0, 0.003, 0.054), 0.077),
    "link3": Capsule(2, (0.082, 0.042, 0.0), (0.001, 0.001, -0.080), 0.071),
    "link4": Capsule(3, (0.010, -0.010, 0.048), (-0.082, 0.083, 0.001), 0.070),
    "link5": Capsule(4, (0.0, 0.066, 0.001), (-0.001, 0.004, -0.251), 0.070),
    "link6": Capsule(5, (0.030, 0.001, 0.001), (0.071, 0.003, 0.002), 0.083),
    "link7": Capsule(6, (-0.013, -0.014, 0.070), (0.033, 0.033, 0.084), 0.050),
    "hand": Capsule(TOOL, (-0.001, -0.073, 0.022 - FINGER_TIPS_M), (-0.001, 0.060, 0.031 - FINGER_TIPS_M), 0.051),
    "fingers": Capsule(TOOL, (0.0, -0.056, 0.0853 - FINGER_TIPS_M), (0.0, 0.056, 0.0853 - FINGER_TIPS_M), 0.031),
}
WRIST_MIN_RAD = 0.9  # of the sixth joint: below, the hand may touch the forearm, whatever the seventh does
SELF = {  # links that can meet otherwise
    "link5": ("link0", "link1", "link2"),
    "link6": ("link0", "link1", "link2"),
    "link7": ("link0", "link1", "link2", "link3", "link4"),
    "hand": ("link0", "link1", "link2", "link3", "link4"),
    "fingers": ("link0", "link1", "link2", "link3", "link4", "link5"),
}
ABOVE_PLATE = ("link3", "link4", "link5", "link6", "link7", "hand")  # the others cannot reach it; fingers by their tips
BESIDE_BINS = ("link5", "link6", "link7", "hand")  # for these a bin is solid: only the fingers fit into one


class Clearance(NamedTuple):
    """Distances of N postures, m, negative inside."""

    tips_m: np.ndarray  # [N] of the lowest finger tip above the belt
    plate_m: np.ndarray  # [N] of the other links from belt and plate
    bins_m: np.ndarray  # [N]
    self_m: np.ndarray  # [N] between links
    tool_m: np.ndarray  # [N, 3] position of the tool


def _balls(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame [P], middle [P, 4] (homogeneous) and radius [P] of the balls of some capsules."""
    frames, middles, radii = [], [], []
    for name in names:
        capsule = CAPSULES[name]
        start, end = np.array(capsule.start_m), np.array(capsule.end_m)
        steps = math.ceil(float(np.linalg.norm(end - start)) / (BALL_SPACING * capsule.radius_m))
        half = 0.5 * float(np.linalg.norm(end - start)) / steps
        for share in np.linspace(0.0, 1.0, steps + 1):
            frames.append(capsule.frame)
            middles.append(np.append(start + share * (end - start), 1.0))
            radii.append(math.hypot(capsule.radius_m, half))
    return np.array(frames), np.array(middles), np.array(radii)


def bin_boxes(cell: CellGeometry = CELL) -> tuple[np.ndarray, np.ndarray]:
    """Middles and half sizes [M, 5, 3] of each bin's floor and walls."""
    length, width, height = cell.bin_size_m
    wall = BIN_WALL_M
    along, across = 0.5 * length + wall, 0.5 * width + wall
    parts = [  # offset of the middle, half size
        ((0.0, 0.0, 0.5 * wall), (along, across, 0.5 * wall)),
        ((along - 0.5 * wall, 0.0, 0.5 * height), (0.5 * wall, across, 0.5 * height)),
        ((-along + 0.5 * wall, 0.0, 0.5 * height), (0.5 * wall, across, 0.5 * height)),
        ((0.0, across - 0.5 * wall, 0.5 * height), (along, 0.5 * wall, 0.5 * height)),
        ((0.0, -across + 0.5 * wall, 0.5 * height), (along, 0.5 * wall, 0.5 * height)),
    ]
    middles = [[(x + dx, y + dy, z) for (dx, dy, z), _ in parts] for x, y in cell.bin_centre_m]
    return np.array(middles), np.array([[half for _, half in parts]] * len(middles))


def _distance_to_boxes(points_m: np.ndarray, middles_m: np.ndarray, halves_m: np.ndarray) -> np.ndarray:
    """Distance [N, P] of points [N, P, 3] from the nearest of M boxes, 0 inside."""
    outside = np.abs(points_m[:, :, None] - middles_m)
    outside -= halves_m
    np.maximum(outside, 0.0, out=outside)
    return np.sqrt(np.einsum("npmi,npmi->npm", outside, outside).min(axis=2))


class Surroundings:
    """The arm beside a cell's fixtures."""

    def __init__(self, cell: CellGeometry = CELL) -> None:
        names = tuple(CAPSULES)
        self._frames, self._middles, self._radii = _balls(names)
        owner = np.concatenate([np.full(len(_balls((name,))[2]), place) for place, name in enumerate(names)])

        def of(links: tuple[str, ...]) -> np.ndarray:
            return np.flatnonzero(np.isin(owner, [names.index(link) for link in links]))

        self._above, self._beside, self._fingers = of(ABOVE_PLATE), of(BESIDE_BINS), of(("fingers",))
        pairs = [(a, b) for link, others in SELF.items() for a in of((link,)) for b in of(others)]
        self._first, self._second = np.array(pairs).T
        self._reach = self._radii[self._first] + self._radii[self._second]
        middles, halves = bin_boxes(cell)
        self._parts = middles.reshape(-1, 3), halves.reshape(-1, 3)
        top = np.array([1.0, 1.0, cell.bin_size_m[2] / BIN_WALL_M])  # from the floor's size to the whole bin's
        self._bins = middles[:, 0] * top, halves[:, 0] * top
        x, y = TIP_HALF_WIDTHS_M
        self._tips = np.array([(sx * x, sy * y, TIP_LENGTH_M, 1.0) for sx in (-1, 1) for sy in (-1, 1)])

    def measure(self, joint_position_rad: np.ndarray) -> Clearance:
        """Distances of postures [N, 7]."""
        frames = link_frames(joint_position_rad)
        frames = np.concatenate([frames, np.tile(np.eye(4), (len(frames), 1, 1, 1))], axis=1)  # the foot's is the last
        balls = (frames[:, self._frames, :3] @ self._middles[:, :, None])[..., 0]
        tool = frames[:, TOOL, :3]
        links = _distance_to_boxes(balls[:, self._beside], *self._bins) - self._radii[self._beside]
        fingers = _distance_to_boxes(balls[:, self._fingers], *self._parts) - self._radii[self._fingers]
        between = balls[:, self._first] - balls[:, self._second]
        apart = np.sqrt(np.einsum("npi,npi->np", between, between)) - self._reach
        return Clearance(
            tips_m=(tool[:, 2:3] @ self._tips.T)[:, 0].min(axis=1),
            plate_m=(balls[:, self._above, 2] - self._radii[self._above]).min(axis=1),
            bins_m=np.minimum(links.min(axis=1), fingers.min(axis=1)),
            self_m=apart.min(axis=1),
            tool_m=tool[:, :, 3],
        )
