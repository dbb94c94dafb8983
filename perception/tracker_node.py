"""The tracker as a node: detections and the robot's state in, tracks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import Detections, Episode, Header, Message
from visuomotor.perception.empty import no_detections
from visuomotor.perception.motion import TrackerConfig
from visuomotor.perception.robot_pose import RobotPose, read_pose
from visuomotor.perception.tasks import PerceptionTask
from visuomotor.perception.tracker import Tracker


class TrackerNode:
    """Runs ``Tracker`` once per detections message. Invalid detections count as no camera alive: tracks coast."""

    name = "tracker"
    outputs = ("tracks",)
    period_s: float | None = None

    def __init__(
        self, cameras: Sequence[CameraModel], task: PerceptionTask, config: TrackerConfig | None = None
    ) -> None:
        self._tracker = Tracker(cameras, task, config)
        self._state = task.task.state
        self.inputs = (Input("detections", trigger=True), Input(self._state))

    def warm_up(self) -> None:
        """Run once, so that the first step is as fast as the rest."""
        self._tracker.update(no_detections(), RobotPose(), 0.0)
        self._tracker.reset()

    def reset(self, episode: Episode) -> None:
        """Forget all tracks."""
        self._tracker.reset()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Tracks of this tick; invalid when the detections or the robot's state are."""
        detections = inputs.get_message("detections", Detections)
        state = inputs[self._state].message
        if detections is None or state is None:
            return {}
        usable = detections if detections.header.valid else no_detections()
        t_ns = detections.header.t_capture_ns or tick.t_ns
        tracks = self._tracker.update(usable, read_pose(state), t_ns * 1e-9)
        tracks.header = Header(valid=detections.header.valid and state.header.valid)
        return {"tracks": tracks}

    def close(self) -> None:
        """Nothing to release."""
