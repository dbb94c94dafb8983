"""The tracker as a node: detections and vehicle state in, tracks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visuomotor.messages.camera import CameraModel
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import Detections, Episode, Header, Message, VehicleState
from visuomotor.perception.empty import no_detections
from visuomotor.perception.tracker import Tracker, TrackerConfig


class TrackerNode:
    """Runs ``Tracker`` once per detections message. Invalid detections count as no camera alive: tracks coast."""

    name = "tracker"
    inputs = (Input("detections", trigger=True), Input("vehicle_state"))
    outputs = ("tracks",)
    period_s: float | None = None

    def __init__(self, cameras: Sequence[CameraModel], config: TrackerConfig | None = None) -> None:
        self._tracker = Tracker(cameras, config)

    def warm_up(self) -> None:
        """Run once, so that the first step is as fast as the rest."""
        self._tracker.update(no_detections(), VehicleState(), 0.0)
        self._tracker.reset()

    def reset(self, episode: Episode) -> None:
        """Forget all tracks."""
        self._tracker.reset()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Tracks of this tick; invalid when the detections or the vehicle state are."""
        detections = inputs.get_message("detections", Detections)
        vehicle = inputs.get_message("vehicle_state", VehicleState)
        if detections is None or vehicle is None:
            return {}
        usable = detections if detections.header.valid else no_detections()
        t_ns = detections.header.t_capture_ns or tick.t_ns
        tracks = self._tracker.update(usable, vehicle, t_ns * 1e-9)
        tracks.header = Header(valid=detections.header.valid and vehicle.header.valid)
        return {"tracks": tracks}

    def close(self) -> None:
        """Nothing to release."""
