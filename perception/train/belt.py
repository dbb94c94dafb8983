"""Shifts of an arm's cell without pixels: parts ride by, an arm takes some, tracker and forecaster look on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from visuomotor.control.arm.policy_node import create as create_policy
from visuomotor.messages.camera import CameraModel, load_camera
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import ArmState, Command, Episode, Header, Message, PolicyCommand, Truth
from visuomotor.perception.forecaster import load_forecaster
from visuomotor.perception.forecaster_node import ForecasterNode
from visuomotor.perception.robot_pose import RobotPose, find_hidden, read_pose
from visuomotor.perception.tasks import get_perception
from visuomotor.perception.tracker import Tracker
from visuomotor.perception.train.detection_noise import NoisyDetector, get_noise
from visuomotor.perception.train.forecaster_rows import get_forecaster_row
from visuomotor.perception.train.tracks_data import TICK_S, EpisodeLog, TickLog
from visuomotor.sim.cell.node import CellNode

TASK = get_perception("pick")
PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / TASK.name
SUITE = f"{TASK.name}-v1"
CAMERAS = ("camera_top",)
IDLE_SHARE = 0.3  # of the shifts: the arm stays at rest and hides nothing, the belt takes all parts past
LIMB_RADIUS_M = 0.045  # of what really hides; the tracker allows for more
LIFTED_M = 0.06  # the middle of a part that is above this is in the hand, and hidden by it
MANOEUVRES = get_forecaster_row(TASK.name).manoeuvres


class NoisyPerception:
    """Tracks from the truth with a detector's errors; ``ticks`` keeps what an ``EpisodeLog`` needs."""

    name = "perception"
    inputs = (Input("truth", trigger=True), Input(TASK.task.state))
    outputs = ("tracks",)
    period_s: float | None = None

    def __init__(self, cameras: Sequence[CameraModel]) -> None:
        self._cameras = list(cameras)
        self.ticks: list[TickLog] = []
        self._begin(0)

    def _begin(self, seed: int) -> None:
        self.detector = NoisyDetector(self._cameras, np.random.default_rng([seed, 5]), get_noise(TASK.name))
        self.tracker = Tracker(self._cameras, TASK)
        self.ticks = []

    def warm_up(self) -> None:
        """Nothing to load."""

    def reset(self, episode: Episode) -> None:
        """Forget everything, and take the noise of this seed."""
        self._begin(episode.seed)

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Tracks of this tick."""
        truth, state = inputs.get_message("truth", Truth), inputs.get_message(TASK.task.state, ArmState)
        if truth is None or state is None:
            return {}
        robot = read_pose(state)
        here = np.asarray(truth.class_id) >= 0
        ids, classes = np.asarray(truth.agent_id, np.int64)[here], np.asarray(truth.class_id, np.int64)[here]
        position, size = np.asarray(truth.map_position_m, float)[here], np.asarray(truth.size_m, float)[here]
        share = visible(position, np.asarray(truth.height_m)[here], self._cameras, robot)
        detections = self.detector.detect(ids, classes, position, np.asarray(truth.map_yaw_rad)[here], size, share)
        tracks = self.tracker.update(detections, robot, tick.tick * TICK_S)
        tracks.header = Header(valid=True)
        manoeuvre = np.array([MANOEUVRES.index(name) for name in truth.manoeuvre], np.int64)[here]
        still = np.zeros(3)
        self.ticks.append(TickLog(still, still, ids, classes, position, manoeuvre, share, detections, tracks))
        return {"tracks": tracks}

    def close(self) -> None:
        """Nothing to release."""


class PassOn:
    """In place of a guard: what the policy wants, or nothing in a shift in which the arm stays at rest."""

    name = "guard"
    inputs = (Input("policy_command", trigger=True),)
    outputs = ("command",)
    period_s: float | None = None

    def __init__(self) -> None:
        self._idle = False

    def warm_up(self) -> None:
        """Nothing to load."""

    def reset(self, episode: Episode) -> None:
        """Whether the arm works in this shift is the seed's to say."""
        self._idle = episode.seed * 0.618034 % 1.0 < IDLE_SHARE

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """The command of this tick."""
        wanted = inputs.get_message("policy_command", PolicyCommand)
        if wanted is None or self._idle:
            return {}
        return {
            "command": Command(
                header=Header(valid=True),
                joint_velocity_radps=wanted.joint_velocity_radps,
                gripper_width_m=wanted.gripper_width_m,
            )
        }

    def close(self) -> None:
        """Nothing to release."""


def profile_cameras() -> list[CameraModel]:
    """The cameras of the task's profile."""
    return [load_camera(PROFILE / f"{name}.yaml") for name in CAMERAS]


def visible(
    position_m: np.ndarray, height_m: np.ndarray, cameras: Sequence[CameraModel], robot: RobotPose
) -> np.ndarray:
    """Share of parts [N, cameras] at positions [N, 2] that is seen: all, or nothing under the arm and in the hand."""
    share = np.zeros((len(position_m), len(cameras)))
    for c, camera in enumerate(cameras):
        px, depth = camera.project(np.pad(position_m, ((0, 0), (0, 1))))
        inside = (depth > 0) & ((px > 0) & (px < np.array([camera.width, camera.height]))).all(1)
        hidden = find_hidden(camera, position_m, robot.limbs_m, LIMB_RADIUS_M)
        share[:, c] = inside & ~hidden & (height_m < LIFTED_M)
    return share


def rollouts(split: str, seeds: Sequence[int], *, suite: str = SUITE, limit_s: float = 40.0) -> Iterator[EpisodeLog]:
    """Shifts of the split, picked by the scripted baseline on noisy tracks, one by one; cut off after ``limit_s``."""
    perception = NoisyPerception(profile_cameras())
    graph = Graph(
        [
            CellNode([], suite=suite, split=split),
            perception,
            ForecasterNode(load_forecaster("cv", task=TASK)),
            create_policy({"policy": "scripted"}),
            PassOn(),
        ],
        digest=False,
    )
    try:
        for index, seed in enumerate(seeds):
            graph.reset(Episode(phase="reset", index=index, suite=suite, split=split, seed=int(seed)))
            for _ in range(round(limit_s / TICK_S)):
                truth = graph.tick().get("truth")
                if isinstance(truth, Truth) and truth.end:
                    break
            yield EpisodeLog(split, int(seed), perception.ticks)
    finally:
        graph.close()
