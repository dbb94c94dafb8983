"""Scores of the tracker beside plain SORT on the same detections, by distance on the ground.

``python -m visuomotor.perception.train.tracking_eval``. Truths that count are at least 30 % visible, 10 px high and
within 60 m in some camera. A track that lies on any other agent is neither right nor wrong: it is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.messages.camera import CameraModel
from visuomotor.perception.robot_pose import RobotPose
from visuomotor.perception.tracker import Tracker
from visuomotor.perception.train.fleet import TASK, profile_cameras, rollouts
from visuomotor.perception.train.forecaster_rows import get_forecaster_row
from visuomotor.perception.train.sort_baseline import Sort
from visuomotor.perception.train.tracking_metrics import (
    FrameObjects,
    TrackingCounts,
    assign_nearest,
    bootstrap,
    count_sequence,
    pool,
)
from visuomotor.perception.train.tracks_data import TICK_S, EpisodeLog, TickLog, ground_distance

VISIBLE_MIN = 0.3
RANGE_MAX_M = 60.0
TRUTH_HEIGHT_M = np.array([1.5, 3.0, 1.7, 1.75, 0.7])
HEIGHT_MIN_PX = 10.0

Hypotheses = tuple[np.ndarray, np.ndarray]  # ids [M], positions in odom [M, 2]


def frame_objects(tick: TickLog, hypotheses: Hypotheses, cameras: Sequence[CameraModel]) -> FrameObjects:
    """One frame for the metrics, with tracks on agents that don't count left out."""
    ids, position = hypotheses
    truth = tick.to_odom(tick.position_m)
    reach = np.linalg.norm(truth - tick.odom_pose[:2], axis=1)
    focal = np.array([camera.fy for camera in cameras])
    tall = focal[None] * TRUTH_HEIGHT_M[tick.class_id][:, None] / np.maximum(reach, 1.0)[:, None] >= HEIGHT_MIN_PX
    counted = ((tick.visible_share >= VISIBLE_MIN) & tall).any(1) & (reach <= RANGE_MAX_M)
    gap = ground_distance(truth - tick.odom_pose[:2], position - tick.odom_pose[:2], get_forecaster_row(TASK.name))
    _, taken = assign_nearest(gap[counted])
    _, beside = assign_nearest(gap[~counted])
    drop = np.zeros(len(ids), bool)
    drop[beside] = True
    drop[taken] = False
    far = np.linalg.norm(position - tick.odom_pose[:2], axis=1) > RANGE_MAX_M
    drop |= far & ~np.isin(np.arange(len(ids)), taken)
    return FrameObjects(tick.agent_id[counted], ids[~drop], gap[counted][:, ~drop])


def run_tracker(log: EpisodeLog, make: Callable[[], Tracker]) -> list[Hypotheses]:
    """Our tracks of every tick."""
    tracker = make()
    out = []
    for k, tick in enumerate(log.ticks):
        tracks = tracker.update(tick.detections, robot_pose(log, k), k * TICK_S)
        out.append((tracks.track_id.astype(np.int64), tracks.odom_position_m.astype(np.float64)))
    return out


def run_sort(log: EpisodeLog, cameras: int) -> list[Hypotheses]:
    """SORT in every camera's image; a box stands where its detection stands on the ground."""
    sorts = [Sort() for _ in range(cameras)]
    out = []
    for tick in log.ticks:
        ids, places = [], []
        for c, sort in enumerate(sorts):
            mine = (tick.detections.camera_index == c) & (tick.detections.score >= 0.35)
            number, _ = sort.update(tick.detections.box_px[mine])
            ids.append(np.where(number >= 0, number * cameras + c, -1))
            places.append(tick.detections.ego_position_m[mine])
        number, place = np.concatenate(ids), np.concatenate(places).astype(np.float64)
        yaw = tick.odom_pose[2]
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        out.append((number[number >= 0], place[number >= 0] @ turn.T + tick.odom_pose[:2]))
    return out


def robot_pose(log: EpisodeLog, k: int) -> RobotPose:
    """The pose of a logged tick, as far as the tracker reads it."""
    pose = log.ticks[k].odom_pose
    moved = np.linalg.norm(pose[:2] - log.ticks[k - 1].odom_pose[:2]) / TICK_S if k else 0.0
    return RobotPose(speed_mps=float(moved), x_m=float(pose[0]), y_m=float(pose[1]), yaw_rad=float(pose[2]))


def count_episode(log: EpisodeLog, hypotheses: list[Hypotheses], cameras: Sequence[CameraModel]) -> TrackingCounts:
    """Counts of one episode."""
    return count_sequence([frame_objects(t, h, cameras) for t, h in zip(log.ticks, hypotheses, strict=True)])


def summarise_counts(counts: list[TrackingCounts]) -> dict[str, Any]:
    """Pooled scores with 95 % intervals over episodes."""
    score = pool(counts)
    return {
        **asdict(score),
        "mota_interval": bootstrap(counts, lambda s: s.mota),
        "idf1_interval": bootstrap(counts, lambda s: s.idf1),
        "episodes": len(counts),
    }


def evaluate(logs: Iterable[EpisodeLog], cameras: Sequence[CameraModel]) -> dict[str, Any]:
    """Scores of the tracker and of SORT over the same episodes."""
    ours, plain = [], []
    for log in logs:
        ours.append(count_episode(log, run_tracker(log, lambda: Tracker(cameras, TASK)), cameras))
        plain.append(count_episode(log, run_sort(log, len(cameras)), cameras))
    return {"tracker": summarise_counts(ours), "sort": summarise_counts(plain)}


def main(arguments: list[str] | None = None) -> None:
    """Measure on the first episodes of the evaluation split and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--detections", choices=("simulated", "rendered"), default="simulated")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    seeds = range(options.episodes)
    if options.detections == "rendered":
        from visuomotor.perception.train.graph_logs import rendered_rollouts  # needs the shipped detectors

        logs = rendered_rollouts("evaluation", seeds)
    else:
        logs = rollouts("evaluation", seeds)
    results = {"detections": options.detections, **evaluate(logs, profile_cameras())}
    text = json.dumps(results, indent=1)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
