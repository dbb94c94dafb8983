"""Truth and tracks of the same ticks side by side: the data that the error model is fitted to and compared on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from visuomotor.messages.schema import Tracks, Truth
from visuomotor.sim.error_model import PerceivedTracks, PerceptionErrors, odom_kinematics
from visuomotor.sim.error_parameters import ErrorParameters
from visuomotor.sim.visibility import CameraArrays, ego_positions, visible

DT_S = 0.1
FRESH_S = 0.05  # a track matched this recently was detected in this tick
RANGE_MAX_M = 80.0
OTHER_CLASS_M = 1.0  # a track of another class must be this much nearer to be preferred


@dataclass
class Scenes:
    """The truth of T ticks of one episode with a fixed slot per agent; satisfies ``sim.error_model.SceneView``."""

    ego_pose: np.ndarray  # [T, 3] map
    odom_pose: np.ndarray  # [T, 3]
    agent_present: np.ndarray  # [T, N]
    agent_id: np.ndarray  # [T, N]
    agent_class: np.ndarray  # [T, N]
    agent_position_m: np.ndarray  # [T, N, 2] map
    agent_velocity_mps: np.ndarray  # [T, N, 2]
    agent_yaw_rad: np.ndarray  # [T, N]
    agent_size_m: np.ndarray  # [T, N, 3]

    @classmethod
    def of(cls, truths: Sequence[Truth]) -> Scenes:
        """From the messages of consecutive ticks. Raises ValueError when there are none."""
        if not truths:
            raise ValueError("truth: expected at least one tick")
        slot_of: dict[int, int] = {}
        for truth in truths:
            for agent in truth.agent_id:
                slot_of.setdefault(int(agent), len(slot_of))
        shape = (len(truths), max(len(slot_of), 1))
        scenes = cls(
            ego_pose=np.array([t.map_ego_pose for t in truths], np.float64),
            odom_pose=np.array([t.odom_ego_pose for t in truths], np.float64),
            agent_present=np.zeros(shape, bool),
            agent_id=np.full(shape, -1, np.int64),
            agent_class=np.zeros(shape, np.int64),
            agent_position_m=np.full((*shape, 2), 1e4),
            agent_velocity_mps=np.zeros((*shape, 2)),
            agent_yaw_rad=np.zeros(shape),
            agent_size_m=np.ones((*shape, 3)),
        )
        for tick, truth in enumerate(truths):
            slots = np.array([slot_of[int(agent)] for agent in truth.agent_id], np.int64)
            scenes.agent_present[tick, slots] = True
            scenes.agent_id[tick, slots] = truth.agent_id
            scenes.agent_class[tick, slots] = truth.class_id
            scenes.agent_position_m[tick, slots] = truth.map_position_m
            scenes.agent_velocity_mps[tick, slots] = truth.map_velocity_mps
            scenes.agent_yaw_rad[tick, slots] = truth.map_yaw_rad
            scenes.agent_size_m[tick, slots] = truth.size_m
        return scenes

    def at(self, tick: int) -> Scenes:
        """One tick as a batch of one."""
        return Scenes(**{name: value[tick : tick + 1] for name, value in vars(self).items()})


@dataclass
class Pairs:
    """M agent-ticks within range, in order of episode, agent and tick; NaN or -1 where the agent has no track."""

    episode: np.ndarray
    agent: np.ndarray  # unique over episodes
    tick: np.ndarray
    class_id: np.ndarray
    range_m: np.ndarray
    share: np.ndarray  # visible share in the best camera
    camera: np.ndarray  # index of the best camera
    height_px: np.ndarray  # there
    metres_per_px: np.ndarray  # along the line of sight, of the ground point
    lateral_per_px: np.ndarray
    velocity_mps: np.ndarray  # [M, 2] odom
    acceleration_mps2: np.ndarray  # [M, 2]
    track: np.ndarray  # track id, unique over episodes, or -1
    fresh: np.ndarray  # detected in this tick
    unseen_s: np.ndarray
    age_s: np.ndarray
    track_class: np.ndarray
    error_m: np.ndarray  # [M, 2] radial, lateral
    error_mps: np.ndarray  # [M, 2] radial, lateral
    error_odom_m: np.ndarray  # [M, 2]
    sight: np.ndarray  # [M, 2] unit vector from the ego to the agent, odom
    track_velocity_mps: np.ndarray  # [M, 2]
    heading_error_rad: np.ndarray
    size_ratio: np.ndarray  # [M, 2]
    ticks: int = 0
    # Of each false track in each tick: track, tick, class, range, whether it is near an agent, speed.
    false_ticks: np.ndarray = field(default_factory=lambda: np.zeros((0, 6)))

    @property
    def tracked(self) -> np.ndarray:
        """Agent-ticks that have a track."""
        return self.track >= 0


def simulate(
    scenes: Scenes, cameras: CameraArrays, parameters: ErrorParameters, seed: int = 0
) -> list[PerceivedTracks]:
    """Tracks [1, N + 8] of every tick that the error model makes of a logged truth."""
    spare = 8  # slots for false alarms
    padded = Scenes(
        **{
            name: value
            if name in ("ego_pose", "odom_pose")
            else np.concatenate([value, np.zeros((len(value), spare, *value.shape[2:]), value.dtype)], axis=1)
            for name, value in vars(scenes).items()
        }
    )
    padded.agent_size_m[:, -spare:] = 1.0
    errors = PerceptionErrors(1, padded.agent_present.shape[1], cameras, parameters)
    errors.reset(0, [seed, 0xF17])
    return [errors.update(padded.at(t), padded.odom_pose[t : t + 1]) for t in range(len(padded.ego_pose))]


def tracks_of(message: Tracks) -> PerceivedTracks:
    """A message as a batch of one."""
    return PerceivedTracks(
        present=np.ones((1, len(message.track_id)), bool),
        track_id=np.asarray(message.track_id, np.int64)[None],
        class_id=np.asarray(message.class_id, np.int64)[None],
        position_m=np.asarray(message.odom_position_m, np.float64)[None],
        velocity_mps=np.asarray(message.odom_velocity_mps, np.float64)[None],
        heading_rad=np.asarray(message.odom_heading_rad, np.float64)[None],
        size_m=np.asarray(message.size_m, np.float64)[None],
        age_s=np.asarray(message.age_s, np.float64)[None],
        unseen_s=np.asarray(message.unseen_s, np.float64)[None],
    )


def collect(
    episodes: Iterable[tuple[Scenes, Sequence[PerceivedTracks]]], cameras: CameraArrays, gate_m: float = 2.5
) -> Pairs:
    """Assign tracks to agents tick by tick (least total distance within ``gate_m`` + 12 % of the range)."""
    columns: dict[str, list[np.ndarray]] = {}
    false: list[np.ndarray] = []
    ticks = 0
    for number, (scenes, tracks) in enumerate(episodes):
        if len(tracks) != len(scenes.ego_pose):
            raise ValueError(f"episode {number}: {len(scenes.ego_pose)} ticks of truth, {len(tracks)} of tracks")
        ticks += len(tracks)
        rows, unmatched = _episode(number, scenes, tracks, cameras, gate_m)
        for name, value in rows.items():
            columns.setdefault(name, []).append(value)
        false.append(unmatched)
    if not columns:
        raise ValueError("episodes: expected at least one")
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Pairs(**joined, ticks=ticks, false_ticks=np.concatenate(false))


def untracked(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What is known of the tracks of agents [T, N] that have none."""
    return {
        "track": np.full(shape, -1, np.int64),
        "unseen_s": np.full(shape, np.nan),
        "age_s": np.full(shape, np.nan),
        "track_class": np.full(shape, -1, np.int64),
        "track_velocity_mps": np.full((*shape, 2), np.nan),
        "heading_error_rad": np.full(shape, np.nan),
        "size_ratio": np.full((*shape, 2), np.nan),
    }


def _episode(
    number: int, scenes: Scenes, tracks: Sequence[PerceivedTracks], cameras: CameraArrays, gate_m: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    ego_m = ego_positions(scenes)
    _, position, velocity, heading = odom_kinematics(scenes, scenes.odom_pose)
    range_m = np.maximum(np.hypot(ego_m[..., 0], ego_m[..., 1]), 1.0)
    inside = scenes.agent_present & (range_m <= RANGE_MAX_M)
    shape = inside.shape
    acceleration = np.zeros((*shape, 2))
    acceleration[1:] = (scenes.agent_velocity_mps[1:] - scenes.agent_velocity_mps[:-1]) / DT_S
    acceleration[1:][~(scenes.agent_present[1:] & scenes.agent_present[:-1])] = 0.0
    share = visible(scenes, cameras)
    best = share.argmax(axis=2)
    matched = {**untracked(shape), "offset_m": np.full((*shape, 2), np.nan)}
    false: list[tuple[float, ...]] = []
    for tick, perceived in enumerate(tracks):
        here = np.flatnonzero(perceived.present[0])
        agents = np.flatnonzero(scenes.agent_present[tick])  # also beyond the range: their tracks are not false
        distance = np.linalg.norm(
            perceived.position_m[0, here][:, None] - position[tick, agents][None], axis=2, ord=2
        ).reshape(len(here), len(agents))
        gate = gate_m + 0.12 * range_m[tick, agents]
        other = perceived.class_id[0, here][:, None] != scenes.agent_class[tick, agents]
        row, column = linear_sum_assignment(np.where(distance <= gate, distance + OTHER_CLASS_M * other, 1e3))
        good = distance[row, column] <= gate[column] if len(row) else np.zeros(0, bool)
        row, column = row[good], column[good]
        source, slot = here[row], agents[column]
        matched["track"][tick, slot] = perceived.track_id[0, source] + 100_000 * number
        matched["unseen_s"][tick, slot] = perceived.unseen_s[0, source]
        matched["age_s"][tick, slot] = perceived.age_s[0, source]
        matched["track_class"][tick, slot] = perceived.class_id[0, source]
        matched["offset_m"][tick, slot] = perceived.position_m[0, source] - position[tick, slot]
        matched["track_velocity_mps"][tick, slot] = perceived.velocity_mps[0, source]
        turn = perceived.heading_rad[0, source] - heading[tick, slot]
        matched["heading_error_rad"][tick, slot] = (turn + np.pi) % (2 * np.pi) - np.pi
        matched["size_ratio"][tick, slot] = perceived.size_m[0, source] / scenes.agent_size_m[tick, slot, :2]
        for index in np.setdiff1d(np.arange(len(here)), row):
            source_index = here[index]
            away = np.linalg.norm(perceived.position_m[0, source_index] - scenes.odom_pose[tick, :2])
            near = float(distance[index].min(initial=np.inf) < 4.0)
            name = float(perceived.track_id[0, source_index] + 100_000 * number)
            speed = float(np.linalg.norm(perceived.velocity_mps[0, source_index]))
            false.append((name, tick, float(perceived.class_id[0, source_index]), float(away), near, speed))
    sight = position - scenes.odom_pose[:, None, :2]
    sight /= np.maximum(np.linalg.norm(sight, axis=2, keepdims=True), 1.0)
    focal, eye = cameras.focal_px[best], cameras.height_m[best]
    mask = inside.T  # agent by agent, tick by tick
    error_mps = matched["track_velocity_mps"] - velocity
    columns = {
        "episode": np.full(shape, number),
        "agent": np.broadcast_to(np.arange(shape[1]) + 1000 * number, shape),
        "tick": np.broadcast_to(np.arange(shape[0])[:, None], shape),
        "class_id": scenes.agent_class,
        "range_m": range_m,
        "share": share.max(axis=2),
        "camera": best,
        "height_px": focal * scenes.agent_size_m[..., 2] / range_m,
        "metres_per_px": range_m**2 / (focal * eye),
        "lateral_per_px": range_m / focal,
        "velocity_mps": velocity,
        "acceleration_mps2": acceleration,
        "fresh": (matched["track"] >= 0) & (matched["unseen_s"] <= FRESH_S),
        "sight": sight,
        "error_m": polar(matched["offset_m"], sight),
        "error_mps": polar(error_mps, sight),
        "error_odom_m": matched.pop("offset_m"),
        **matched,
    }
    rows = {name: np.swapaxes(value, 0, 1)[mask] for name, value in columns.items()}
    return rows, np.array(false, np.float64).reshape(-1, 6)


def polar(vector: np.ndarray, sight: np.ndarray) -> np.ndarray:
    """Components along and across (left of) the line of sight."""
    along = (vector * sight).sum(axis=-1)
    across = vector[..., 1] * sight[..., 0] - vector[..., 0] * sight[..., 1]
    return np.stack([along, across], axis=-1)
