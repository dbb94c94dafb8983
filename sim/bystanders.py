"""Extra agents for data sets: people, cyclists, cones, and vehicles at odd angles, put into free slots of one tick.

The suites hold few of the rare classes and show them from few sides; a detector needs all of them near and far, from
every side. A snapshot is a copy of one world's state that the renderer and the labels take in place of the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visuomotor.messages.schema import CAR, CONE, CYCLIST, PEDESTRIAN, TRUCK
from visuomotor.sim.renderer import WorldState
from visuomotor.sim.road import Road

FIRST_ID = 100_000  # agent ids of extra agents start here
CLASSES = np.array([PEDESTRIAN, CYCLIST, CONE, CAR, TRUCK])
VERGE_M = 5.0  # they stand on the road and up to this far beside it
CLEAR_M = 0.5
PLACES = 12  # tried for each group


@dataclass(frozen=True)
class Crowd:
    """How many bystanders, of which kinds and how far off: probabilities of 0, 1, ... groups and of ``CLASSES``."""

    groups: tuple[float, ...]
    classes: tuple[float, ...]
    range_m: tuple[float, float]


CROWDS = {
    "around": Crowd((0.12, 0.2, 0.24, 0.24, 0.2), (0.34, 0.27, 0.2, 0.09, 0.1), (4.0, 48.0)),
    # Small in the picture, where a detector sees people first and has seen the fewest.
    "people-afar": Crowd((0.04, 0.0, 0.16, 0.2, 0.3, 0.3), (0.62, 0.26, 0.12, 0.0, 0.0), (16.0, 52.0)),
}


@dataclass
class Snapshot:
    """The state of one world (B = 1) as the renderer reads it, see ``WorldState``."""

    tick: np.ndarray
    ego_pose: np.ndarray
    ego_roll_rad: np.ndarray
    ego_pitch_rad: np.ndarray
    agent_present: np.ndarray
    agent_id: np.ndarray
    agent_class: np.ndarray
    agent_position_m: np.ndarray
    agent_velocity_mps: np.ndarray
    agent_yaw_rad: np.ndarray
    agent_size_m: np.ndarray

    @classmethod
    def of(cls, worlds: WorldState, index: int) -> Snapshot:
        """A copy of world ``index``."""
        return cls(**{name: np.array(getattr(worlds, name)[index : index + 1]) for name in cls.__dataclass_fields__})


def with_bystanders(
    worlds: WorldState, index: int, road: Road, rng: np.random.Generator, crowd: Crowd, views_rad: list[float]
) -> Snapshot:
    """A snapshot of world ``index`` with a crowd added around directions ``views_rad`` in ``ego_``."""
    count = int(rng.choice(len(crowd.groups), p=crowd.groups))
    state = Snapshot.of(worlds, index)
    next_id = FIRST_ID + 1000 * int(rng.integers(1_000_000))
    for _ in range(count):
        class_id = int(rng.choice(CLASSES, p=crowd.classes))
        group = int(rng.integers(1, 6)) if class_id == CONE else int(rng.choice((1, 1, 1, 2)))
        size, yaw = _draw(rng, class_id), rng.uniform(-np.pi, np.pi)
        place = _place(state, road, rng, crowd.range_m, views_rad)
        row = np.array([rng.uniform(1.5, 5.0), rng.uniform(-0.8, 0.8)])
        spacing = row if class_id == CONE else rng.uniform(-2, 2, 2)
        for i in range(group):
            position = place + i * spacing
            s, d = road.frenet(position)
            if d < road.right_edge_m - VERGE_M or d > road.left_edge_m + VERGE_M:
                continue
            along = float(road.heading(s))
            if class_id in (CYCLIST, CAR, TRUCK) and rng.random() < 0.6:
                yaw = along + rng.normal(0.0, 0.12)
            free = np.flatnonzero(~state.agent_present[0])
            if len(free) == 0 or not _clear(state, position, size):
                continue
            slot = int(free[0])
            speed = rng.uniform(0.0, 1.6) if class_id == PEDESTRIAN else 0.0
            state.agent_present[0, slot] = True
            state.agent_id[0, slot] = next_id
            state.agent_class[0, slot] = class_id
            state.agent_position_m[0, slot] = position
            state.agent_yaw_rad[0, slot] = yaw
            state.agent_velocity_mps[0, slot] = speed * np.array([np.cos(yaw), np.sin(yaw)])
            state.agent_size_m[0, slot] = size
            next_id += 1
            if class_id == PEDESTRIAN:
                size, yaw = _draw(rng, class_id), rng.uniform(-np.pi, np.pi)
    return state


def _place(
    state: Snapshot, road: Road, rng: np.random.Generator, between_m: tuple[float, float], views_rad: list[float]
) -> np.ndarray:
    """A map position near the middle of one view, on or by the road; every octave of range is as likely."""
    view = views_rad[int(rng.integers(len(views_rad)))]
    azimuth = float(state.ego_pose[0, 2]) + view + rng.uniform(-0.75, 0.75, PLACES)
    range_m = np.exp(rng.uniform(np.log(between_m[0]), np.log(between_m[1]), PLACES))
    places = state.ego_pose[0, :2] + range_m[:, None] * np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)
    _, d = road.frenet(places)
    return places[int(np.argmax((d > road.right_edge_m - VERGE_M) & (d < road.left_edge_m + VERGE_M)))]


def _draw(rng: np.random.Generator, class_id: int) -> np.ndarray:
    """Length, width, height of an extra agent, m: a little wider than what the suites draw."""
    low, high = {
        CAR: ((3.6, 1.65, 1.38), (5.0, 1.98, 1.95)),
        TRUCK: ((6.0, 2.1, 2.5), (10.5, 2.5, 3.7)),
        CYCLIST: ((1.65, 0.55, 1.55), (1.9, 0.7, 1.9)),
        PEDESTRIAN: ((0.45, 0.45, 1.45), (0.6, 0.6, 1.95)),
        CONE: ((0.32, 0.32, 0.6), (0.45, 0.45, 0.85)),
    }[class_id]
    return rng.uniform(low, high)


def _clear(state: Snapshot, position: np.ndarray, size: np.ndarray) -> bool:
    """Whether no footprint, nor the ego car's, comes near: compared by circles and by boxes along each one's axes."""
    centres = np.concatenate([state.agent_position_m[0][state.agent_present[0]], state.ego_pose[:, :2]])
    sizes = np.concatenate([state.agent_size_m[0][state.agent_present[0]][:, :2], [[4.5, 1.8]]])
    yaws = np.concatenate([state.agent_yaw_rad[0][state.agent_present[0]], state.ego_pose[:, 2]])
    delta = position - centres
    along = np.abs(delta[:, 0] * np.cos(yaws) + delta[:, 1] * np.sin(yaws))
    across = np.abs(delta[:, 1] * np.cos(yaws) - delta[:, 0] * np.sin(yaws))
    radius = float(np.hypot(size[0], size[1])) / 2 + CLEAR_M
    return bool(((along > sizes[:, 0] / 2 + radius) | (across > sizes[:, 1] / 2 + radius)).all())
