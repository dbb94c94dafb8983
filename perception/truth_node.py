"""Perfect and blind perception, for controls in the experiment table: tracks from the simulator's truth, or none.

This is the only place of perception that reads ``truth``; the loop on real perception never contains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import Episode, Header, Message, Tracks, Truth
from visuomotor.perception.empty import no_tracks
from visuomotor.perception.tasks import PerceptionTask


class TruthPerceptionNode:
    """``tracks`` of tick k from ``truth`` of tick k: every agent of a class within range, regardless of occlusion."""

    name = "truth_perception"
    inputs = (Input("truth", trigger=True),)
    outputs = ("tracks",)
    period_s: float | None = None

    def __init__(self, task: PerceptionTask, cameras: Sequence[str] = ()) -> None:
        self._cameras = tuple(cameras)
        self._range_m = task.truth_range_m
        self._born_ns: dict[int, int] = {}

    def warm_up(self) -> None:
        """Nothing to load."""

    def reset(self, episode: Episode) -> None:
        """Forget when each agent was first seen."""
        self._born_ns.clear()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Tracks in ``odom_``; valid when the truth is."""
        truth = inputs.get_message("truth", Truth)
        if truth is None:
            return {}
        t_ns = truth.header.t_capture_ns or tick.t_ns
        tracks = truth_tracks(truth, self._range_m, self._cameras)
        ids = [int(i) for i in tracks.track_id]
        self._born_ns = {i: self._born_ns.get(i, t_ns) for i in ids}
        tracks.age_s = np.array([(t_ns - self._born_ns[i]) * 1e-9 for i in ids], np.float32)
        tracks.header = Header(valid=truth.header.valid)
        return {"tracks": tracks}

    def close(self) -> None:
        """Nothing to release."""


class BlindPerceptionNode:
    """Valid but empty ``tracks``: what a task is like without seeing anything."""

    name = "blind_perception"
    outputs = ("tracks",)
    period_s: float | None = None

    def __init__(self, task: PerceptionTask, cameras: Sequence[str] = ()) -> None:
        self._cameras = tuple(cameras)
        self._state = task.task.state
        self.inputs = (Input(self._state, trigger=True),)

    def warm_up(self) -> None:
        """Nothing to load."""

    def reset(self, episode: Episode) -> None:
        """Nothing to forget."""

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """No tracks; valid when the robot's state is."""
        state = inputs[self._state].message
        if state is None:
            return {}
        tracks = no_tracks(self._cameras)
        tracks.header = Header(valid=state.header.valid)
        return {"tracks": tracks}

    def close(self) -> None:
        """Nothing to release."""


def truth_tracks(truth: Truth, range_m: float, cameras: tuple[str, ...] = ()) -> Tracks:
    """Tracks in ``odom_`` of all agents within ``range_m`` of the ego that are of a class; ages are zero."""
    ego_x, ego_y, ego_yaw = truth.map_ego_pose
    odom_x, odom_y, odom_yaw = truth.odom_ego_pose
    delta = np.asarray(truth.map_position_m, np.float64).reshape(-1, 2) - (ego_x, ego_y)
    near = np.hypot(delta[:, 0], delta[:, 1]) <= range_m
    near &= np.asarray(truth.class_id) >= 0  # what is of no class is there to be ignored
    turn_rad = odom_yaw - ego_yaw
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    turn = np.array([[c, -s], [s, c]])
    count = int(near.sum())
    heading = np.asarray(truth.map_yaw_rad, np.float64)[near] + turn_rad
    f32 = np.float32
    return Tracks(
        cameras=cameras,
        track_id=np.asarray(truth.agent_id, np.int32)[near],
        class_id=np.asarray(truth.class_id, np.int32)[near],
        score=np.ones(count, f32),
        odom_position_m=(delta[near] @ turn.T + (odom_x, odom_y)).astype(f32),
        odom_velocity_mps=(np.asarray(truth.map_velocity_mps, np.float64)[near] @ turn.T).astype(f32),
        odom_heading_rad=((heading + np.pi) % (2 * np.pi) - np.pi).astype(f32),
        size_m=np.ascontiguousarray(np.asarray(truth.size_m, f32)[near, :2]),
        covariance=np.broadcast_to(np.diag([1e-4, 1e-4, 1e-4, 1e-4]).astype(f32), (count, 4, 4)).copy(),
        age_s=np.zeros(count, f32),
        unseen_s=np.zeros(count, f32),
    )
