"""Forecaster samples and tracker logs from simulated episodes: tracks as the tracker delivers them, truth as targets.

``python -m visuomotor.perception.train.tracks_data`` writes the data set of the drive task. Episodes of different
splits never share a case.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.schema import Detections, Tracks, VehicleState
from visuomotor.perception.forecaster import HORIZON_STEPS
from visuomotor.perception.history import TICKS_PER_SAMPLE, TrackHistory
from visuomotor.perception.tracker import Tracker
from visuomotor.perception.train.detection_noise import NoisyDetector
from visuomotor.perception.train.fleet import Fleet
from visuomotor.perception.train.forecaster_data import SceneSet
from visuomotor.perception.train.forecaster_metrics import MANOEUVRES
from visuomotor.perception.train.tracking_metrics import assign_nearest
from visuomotor.sim.visibility import CameraArrays, visible

TICK_S = 0.1
PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / "drive"
CAMERAS = ("camera_front", "camera_left", "camera_right")
SPLIT_EPISODES = {"train": 360, "tune": 60, "evaluation": 100}
SAMPLE_TICKS = {"train": 8, "tune": 10, "evaluation": 10}
RARE_TICKS = 2  # scenes in which somebody brakes or crosses are sampled this often
MANOEUVRE_TICKS = 5  # a manoeuvre that lasts this long within the horizon names the sample
PRECEDENCE = ("crossing", "lane_change", "brake")
RARE = (MANOEUVRES.index("crossing"), MANOEUVRES.index("brake"))


@dataclass
class TickLog:
    """One tick: truth of the agents in the map frame, what was detected and what was tracked."""

    ego_pose: np.ndarray  # x, y, yaw in map_
    odom_pose: np.ndarray
    agent_id: np.ndarray
    class_id: np.ndarray
    position_m: np.ndarray
    manoeuvre: np.ndarray
    visible_share: np.ndarray  # [N, cameras]
    detections: Detections
    tracks: Tracks

    def to_odom(self, map_m: np.ndarray) -> np.ndarray:
        """Map positions [..., 2] in ``odom_`` by this tick's pair of poses."""
        turn = self.odom_pose[2] - self.ego_pose[2]
        c, s = np.cos(turn), np.sin(turn)
        delta = map_m - self.ego_pose[:2]
        return (
            np.stack([c * delta[..., 0] - s * delta[..., 1], s * delta[..., 0] + c * delta[..., 1]], -1)
            + (self.odom_pose[:2])
        )


@dataclass
class EpisodeLog:
    """All ticks of one episode."""

    split: str
    seed: int
    ticks: list[TickLog] = field(default_factory=list)


class Follower:
    """Detector noise and tracker of one world."""

    def __init__(self, cameras: Sequence[CameraModel], seed: Sequence[int]) -> None:
        self.detector = NoisyDetector(cameras, np.random.default_rng(list(seed)))
        self.tracker = Tracker(cameras)


def profile_cameras() -> list[CameraModel]:
    """The cameras of the drive profile."""
    return [load_camera(PROFILE / f"{name}.yaml") for name in CAMERAS]


def rollouts(
    split: str, seeds: Sequence[int], *, suite: str = "drive-v1", worlds: int = 8, limit_s: float = 40.0
) -> Iterator[EpisodeLog]:
    """Episodes of the split, driven by IDM + MOBIL on truth with disturbances, one by one as they end.

    All worlds of one call share a driver's temper; an episode is cut off after ``limit_s``.
    """
    cameras = profile_cameras()
    fleet = Fleet(suite, split, min(worlds, len(seeds)), np.random.default_rng([int(seeds[0]), len(seeds), 77]))
    arrays = CameraArrays.from_models(cameras)
    waiting = iter(seeds)
    running: list[tuple[EpisodeLog, Follower] | None] = [None] * fleet.count
    for i in range(fleet.count):
        running[i] = _begin(fleet, i, next(waiting), cameras)
    while any(running):
        fleet.sensors.update()
        shares = visible(fleet.worlds, arrays)
        for i, pair in enumerate(running):
            if pair is not None:
                pair[0].ticks.append(_observe(fleet, i, pair[1], shares[i], len(pair[0].ticks)))
        fleet.step()
        for i, pair in enumerate(running):
            if pair is not None and (fleet.worlds.end[i] or len(pair[0].ticks) >= limit_s / TICK_S):
                yield pair[0]
                seed = next(waiting, None)
                running[i] = None if seed is None else _begin(fleet, i, seed, cameras)
    fleet.worlds.close()


def _begin(fleet: Fleet, i: int, seed: int, cameras: Sequence[CameraModel]) -> tuple[EpisodeLog, Follower]:
    fleet.start(i, int(seed))
    return EpisodeLog(fleet.split, int(seed)), Follower(cameras, (int(seed), 5))


def _observe(fleet: Fleet, i: int, follower: Follower, share: np.ndarray, tick: int) -> TickLog:
    worlds, sensors = fleet.worlds, fleet.sensors
    here = worlds.agent_present[i]
    ego, odom = worlds.ego_pose[i].copy(), sensors.odom_pose[i].copy()
    position = worlds.agent_position_m[i][here].copy()
    c, s = np.cos(ego[2]), np.sin(ego[2])
    delta = position - ego[:2]
    local = np.stack([c * delta[:, 0] + s * delta[:, 1], -s * delta[:, 0] + c * delta[:, 1]], 1)
    ids, classes = worlds.agent_id[i][here].copy(), worlds.agent_class[i][here].copy()
    detections = follower.detector.detect(
        ids, classes, local, worlds.agent_yaw_rad[i][here] - ego[2], worlds.agent_size_m[i][here], share[here]
    )
    vehicle = VehicleState(
        speed_mps=float(sensors.speed_mps[i]),
        odom_x_m=float(odom[0]),
        odom_y_m=float(odom[1]),
        odom_yaw_rad=float(odom[2]),
    )
    tracks = follower.tracker.update(detections, vehicle, tick * TICK_S)
    manoeuvre = worlds.agent_manoeuvre[i][here].copy()
    return TickLog(ego, odom, ids, classes, position, manoeuvre, share[here], detections, tracks)


def ground_distance(truth_m: np.ndarray, track_m: np.ndarray) -> np.ndarray:
    """Distances [N, M] between truths and tracks relative to the car, in units of a gate; NaN outside it.

    The gate is long along the ray and narrow across it, as one camera's errors are: 1 m + 15 % and 1 m + 4 % of range.
    """
    reach = np.maximum(np.linalg.norm(truth_m, axis=1), 1.0)
    ray = truth_m / reach[:, None]
    delta = track_m[None] - truth_m[:, None]
    along = (delta * ray[:, None]).sum(2) / (1.0 + 0.15 * reach)[:, None]
    across = (delta[..., 0] * -ray[:, None, 1] + delta[..., 1] * ray[:, None, 0]) / (1.0 + 0.04 * reach)[:, None]
    distance = np.hypot(along, across)
    distance[distance > 1.0] = np.nan
    return distance


def match_truth(tick: TickLog) -> np.ndarray:
    """Index of the agent that each track follows, -1 where there is none near enough."""
    out = np.full(len(tick.tracks.track_id), -1)
    if not len(out) or not len(tick.agent_id):
        return out
    truth = tick.to_odom(tick.position_m) - tick.odom_pose[:2]
    distance = ground_distance(truth, tick.tracks.odom_position_m - tick.odom_pose[:2])
    clash = (tick.tracks.class_id <= 1)[None] != (tick.class_id <= 1)[:, None]
    agents, tracks = assign_nearest(np.where(clash, np.nan, distance))
    out[tracks] = agents
    return out


def samples(log: EpisodeLog, every: int) -> SceneSet | None:
    """Samples of one episode, a scene every ``every`` ticks, more often while somebody brakes or crosses; or None.

    A sample is named by what its agent does for at least half a second within the horizon: crossing, lane change,
    brake, otherwise static when it stands throughout, otherwise straight.
    """
    history = TrackHistory()
    horizon = HORIZON_STEPS * TICKS_PER_SAMPLE
    where = [{int(a): n for n, a in enumerate(tick.agent_id)} for tick in log.ticks]
    parts: dict[str, list[np.ndarray]] = {f: [] for f in SceneSet.__dataclass_fields__}
    scene = 0
    for k, tick in enumerate(log.ticks):
        past, present = history.update(tick.tracks.track_id, tick.tracks.odom_position_m, tick.tracks.unseen_s)
        rare = np.isin(tick.manoeuvre, RARE).any() and k % RARE_TICKS == 0
        if not (rare or k % every == 0) or k < 3 or not len(past):
            continue
        matched = match_truth(tick)
        count = len(matched)
        future = np.zeros((count, HORIZON_STEPS, 2), np.float32)
        known = np.zeros((count, HORIZON_STEPS), bool)
        label = np.full(count, -1, np.int64)
        for n in np.flatnonzero(matched >= 0):
            agent = int(tick.agent_id[matched[n]])
            doing = []
            for ahead in range(horizon + 1):
                index = where[k + ahead].get(agent) if k + ahead < len(log.ticks) else None
                if index is None:
                    break
                doing.append(int(log.ticks[k + ahead].manoeuvre[index]))
                if ahead and ahead % TICKS_PER_SAMPLE == 0:
                    step = ahead // TICKS_PER_SAMPLE - 1
                    future[n, step] = tick.to_odom(log.ticks[k + ahead].position_m[index])
                    known[n, step] = True
            label[n] = _name(doing)
        parts["history_m"].append(past)
        parts["present"].append(present)
        parts["class_id"].append(tick.tracks.class_id.astype(np.int64))
        parts["future_m"].append(future)
        parts["future_present"].append(known)
        parts["manoeuvre"].append(label)
        parts["scene"].append(np.full(count, scene, np.int64))
        parts["group"].append(np.full(count, 0, np.int64))
        parts["scored"].append(known.sum(1) >= 5)
        scene += 1
    if not scene:
        return None
    return SceneSet(**{name: np.concatenate(values) for name, values in parts.items()})


def _name(doing: list[int]) -> int:
    for name in PRECEDENCE:
        index = MANOEUVRES.index(name)
        if doing.count(index) >= MANOEUVRE_TICKS:
            return index
    return MANOEUVRES.index("static" if all(d == MANOEUVRES.index("static") for d in doing) else "straight")


def make_dataset(folder: Path, episodes: dict[str, int], report: Callable[[str], None] = print) -> None:
    """Write ``train.npz``, ``tune.npz`` and ``evaluation.npz``; the numbers say how many episodes of each split."""
    for split, count in episodes.items():
        if not count:
            continue
        started, parts = time.monotonic(), []
        for log in rollouts(split, range(count)):
            part = samples(log, SAMPLE_TICKS[split])
            if part is not None:
                parts.append(part)
        data = SceneSet.concatenate(parts)
        data.save(folder / f"{split}.npz")
        names = {name: int((data.manoeuvre[data.scored] == i).sum()) for i, name in enumerate(MANOEUVRES)}
        (folder / f"{split}.json").write_bytes(msgspec.json.encode({"episodes": count, "samples": names}))
        report(f"{split}: {count} episodes, {len(data)} tracks, {names}, {time.monotonic() - started:.0f} s")


def main(arguments: list[str] | None = None) -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/tracks"))
    for split, count in SPLIT_EPISODES.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="episodes; 0: leave out")
    options = parser.parse_args(arguments)
    make_dataset(options.out, {split: getattr(options, split) for split in SPLIT_EPISODES})


if __name__ == "__main__":
    main()
