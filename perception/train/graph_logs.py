"""Episode logs from the whole graph with rendered frames and the real detector, for tracker and forecaster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import numpy as np

from visuomotor.control.guard_node import create as create_guard
from visuomotor.control.policy_node import create as create_policy
from visuomotor.messages.graph import Graph
from visuomotor.messages.schema import Detections, Episode, Message, Tracks, Truth
from visuomotor.perception.detector_node import create as create_detector
from visuomotor.perception.forecaster_node import ForecasterNode
from visuomotor.perception.tracker_node import TrackerNode
from visuomotor.perception.train.detector_tasks import get_detector_task
from visuomotor.perception.train.fleet import CAMERAS, PROFILE, SUITE, TASK, profile_cameras
from visuomotor.perception.train.forecaster_rows import get_forecaster_row
from visuomotor.perception.train.tracks_data import EpisodeLog, TickLog
from visuomotor.sim.node import create as create_world
from visuomotor.sim.visibility import CameraArrays, visible

DETECTOR = {camera: get_detector_task(TASK.name).bundles[camera] for camera in CAMERAS}
MANOEUVRES = get_forecaster_row(TASK.name).manoeuvres


def rendered_rollouts(
    split: str,
    seeds: Sequence[int],
    *,
    suite: str = SUITE,
    detector: Mapping[str, str] | None = None,
    policy: str = "idm",
    limit_s: float = 90.0,
) -> Iterator[EpisodeLog]:
    """Episodes of the split driven by ``policy`` on what the real detector and tracker see, one by one."""
    files = [str(PROFILE / f"{name}.yaml") for name in CAMERAS]
    cameras = profile_cameras()
    graph = Graph(
        [
            create_world({"suite": suite, "split": split, "cameras": files, "render": True}),
            create_detector({"cameras": files, "detector": dict(detector or DETECTOR), "device": "cpu", "threads": 1}),
            TrackerNode(cameras, TASK),
            ForecasterNode(None),
            create_policy({"policy": policy}),
            create_guard({"enabled": True}),
        ],
        digest=False,
    )
    arrays = CameraArrays.from_models(cameras)
    graph.warm_up()
    try:
        for index, seed in enumerate(seeds):
            graph.reset(Episode(phase="reset", index=index, suite=suite, split=split, seed=int(seed)))
            log = EpisodeLog(split, int(seed))
            for _ in range(round(limit_s * 10)):
                sent = graph.tick()
                if not sent:
                    break
                log.ticks.append(tick_log(sent, arrays))
                truth = sent["truth"]
                if isinstance(truth, Truth) and truth.end:
                    break
            yield log
    finally:
        graph.close()


def tick_log(sent: Mapping[str, Message], cameras: CameraArrays) -> TickLog:
    """The log of one tick from its messages."""
    truth, detections, tracks = sent["truth"], sent["detections"], sent["tracks"]
    if not (isinstance(truth, Truth) and isinstance(detections, Detections) and isinstance(tracks, Tracks)):
        raise TypeError("expected truth, detections and tracks of the tick")
    scene = SimpleNamespace(
        ego_pose=np.array([truth.map_ego_pose]),
        agent_present=np.ones((1, len(truth.agent_id)), bool),
        agent_position_m=np.asarray(truth.map_position_m, np.float64)[None],
        agent_yaw_rad=np.asarray(truth.map_yaw_rad, np.float64)[None],
        agent_size_m=np.asarray(truth.size_m, np.float64)[None],
    )
    return TickLog(
        ego_pose=np.array(truth.map_ego_pose),
        odom_pose=np.array(truth.odom_ego_pose),
        agent_id=np.asarray(truth.agent_id, np.int64),
        class_id=np.asarray(truth.class_id, np.int64),
        position_m=np.asarray(truth.map_position_m, np.float64),
        manoeuvre=np.array([MANOEUVRES.index(name) for name in truth.manoeuvre], np.int64),
        visible_share=visible(scene, cameras)[0],
        detections=detections,
        tracks=tracks,
    )
