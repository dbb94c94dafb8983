"""Forecaster samples and tracker logs from simulated episodes: tracks as the tracker delivers them, truth as targets.

``python -m visuomotor.perception.train.tracks_data`` writes the data set of a task. Episodes of different splits never
share a case. The episodes themselves come from the function that the task's row names.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from visuomotor.messages.schema import Detections, Tracks
from visuomotor.messages.services import CONTROL_RATE_HZ
from visuomotor.messages.tasks import DEFAULT_TASK
from visuomotor.perception.history import TrackHistory, ticks_per_sample
from visuomotor.perception.train.forecaster_data import SceneSet
from visuomotor.perception.train.forecaster_rows import FORECASTERS, ForecasterRow, get_forecaster_row
from visuomotor.perception.train.tracking_metrics import assign_nearest

TICK_S = 1.0 / CONTROL_RATE_HZ
RARE_TICKS = 2  # scenes in which somebody does something rare are sampled this often
MANOEUVRE_TICKS = 5  # a manoeuvre that lasts this long within the horizon names the sample


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


def ground_distance(truth_m: np.ndarray, track_m: np.ndarray, row: ForecasterRow) -> np.ndarray:
    """Distances [N, M] between truths and tracks relative to the robot, in units of the row's gate; NaN outside it."""
    reach = np.maximum(np.linalg.norm(truth_m, axis=1), 1.0)
    ray = truth_m / reach[:, None]
    delta = track_m[None] - truth_m[:, None]
    along = (delta * ray[:, None]).sum(2)
    across = delta[..., 0] * -ray[:, None, 1] + delta[..., 1] * ray[:, None, 0]
    along /= (row.gate_m + row.gate_along_share * reach)[:, None]
    across /= (row.gate_m + row.gate_across_share * reach)[:, None]
    distance = np.hypot(along, across)
    distance[distance > 1.0] = np.nan
    return distance


def match_truth(tick: TickLog, row: ForecasterRow) -> np.ndarray:
    """Index of the agent that each track follows, -1 where there is none near enough."""
    out = np.full(len(tick.tracks.track_id), -1)
    if not len(out) or not len(tick.agent_id):
        return out
    truth = tick.to_odom(tick.position_m) - tick.odom_pose[:2]
    distance = ground_distance(truth, tick.tracks.odom_position_m - tick.odom_pose[:2], row)
    kinds = np.array(row.kinds)
    clash = kinds[tick.tracks.class_id][None] != kinds[tick.class_id][:, None]
    agents, tracks = assign_nearest(np.where(clash, np.nan, distance))
    out[tracks] = agents
    return out


def samples(log: EpisodeLog, every: int, row: ForecasterRow) -> SceneSet | None:
    """Samples of one episode, a scene every ``every`` ticks, more often while somebody does something rare; or None.

    A sample is named by what its agent does for at least half a second within the horizon, see the row.
    """
    task = row.perception.task
    stride, steps = ticks_per_sample(task.forecast_step_s), task.horizon_steps
    history = TrackHistory(samples=task.history_samples, stride=stride, observed_within_s=task.observed_within_s)
    horizon = steps * stride
    rarities = [row.manoeuvres.index(name) for name in row.rare]
    unscored = [row.manoeuvres.index(name) for name in row.unscored]
    where = [{int(a): n for n, a in enumerate(tick.agent_id)} for tick in log.ticks]
    parts: dict[str, list[np.ndarray]] = {f: [] for f in SceneSet.__dataclass_fields__}
    scene = 0
    for k, tick in enumerate(log.ticks):
        past, present = history.update(tick.tracks.track_id, tick.tracks.odom_position_m, tick.tracks.unseen_s)
        rare = np.isin(tick.manoeuvre, rarities).any() and k % RARE_TICKS == 0
        if not (rare or k % every == 0) or k < 3 or not len(past):
            continue
        matched = match_truth(tick, row)
        count = len(matched)
        future = np.zeros((count, steps, 2), np.float32)
        known = np.zeros((count, steps), bool)
        label = np.full(count, -1, np.int64)
        for n in np.flatnonzero(matched >= 0):
            agent = int(tick.agent_id[matched[n]])
            doing = []
            for ahead in range(horizon + 1):
                index = where[k + ahead].get(agent) if k + ahead < len(log.ticks) else None
                if index is None:
                    break
                doing.append(int(log.ticks[k + ahead].manoeuvre[index]))
                if ahead and ahead % stride == 0:
                    step = ahead // stride - 1
                    future[n, step] = tick.to_odom(log.ticks[k + ahead].position_m[index])
                    known[n, step] = True
            label[n] = _name(doing, row)
        parts["history_m"].append(past)
        parts["present"].append(present)
        parts["class_id"].append(tick.tracks.class_id.astype(np.int64))
        parts["future_m"].append(future)
        parts["future_present"].append(known)
        parts["manoeuvre"].append(label)
        parts["scene"].append(np.full(count, scene, np.int64))
        parts["group"].append(np.full(count, 0, np.int64))
        parts["scored"].append((known.sum(1) >= 5) & ~np.isin(label, unscored))
        scene += 1
    if not scene:
        return None
    return SceneSet(**{name: np.concatenate(values) for name, values in parts.items()})


def _name(doing: list[int], row: ForecasterRow) -> int:
    for name in row.precedence:
        index = row.manoeuvres.index(name)
        if doing.count(index) >= MANOEUVRE_TICKS:
            return index
    still = row.manoeuvres.index(row.still)
    return still if all(d == still for d in doing) else row.manoeuvres.index(row.steady)


def make_dataset(
    folder: Path, episodes: dict[str, int], row: ForecasterRow, report: Callable[[str], None] = print
) -> None:
    """Write ``train.npz``, ``tune.npz`` and ``evaluation.npz``; the numbers say how many episodes of each split."""
    rollouts = row.load_rollouts()
    for split, count in episodes.items():
        if not count:
            continue
        started, parts = time.monotonic(), []
        for log in rollouts(split, range(count)):
            part = samples(log, row.sample_ticks[split], row)
            if part is not None:
                parts.append(part)
        data = SceneSet.concatenate(parts)
        data.save(folder / f"{split}.npz")
        names = {name: int((data.manoeuvre[data.scored] == i).sum()) for i, name in enumerate(row.manoeuvres)}
        (folder / f"{split}.json").write_bytes(msgspec.json.encode({"episodes": count, "samples": names}))
        report(f"{split}: {count} episodes, {len(data)} tracks, {names}, {time.monotonic() - started:.0f} s")


def main(arguments: list[str] | None = None) -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(FORECASTERS), default=DEFAULT_TASK)
    parser.add_argument("--out", type=Path, default=Path("data/tracks"))
    for split in FORECASTERS[DEFAULT_TASK].episodes:
        parser.add_argument(f"--{split}", type=int, help="episodes, by default as the task's row says; 0: leave out")
    options = parser.parse_args(arguments)
    row = get_forecaster_row(options.task)
    asked = {split: getattr(options, split) for split in row.episodes}
    episodes = {split: row.episodes[split] if count is None else count for split, count in asked.items()}
    make_dataset(options.out, episodes, row)


if __name__ == "__main__":
    main()
