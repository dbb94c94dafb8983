"""Live view in Rerun: cameras with boxes, tracks, forecasts and road in ``odom_``, speed and commands over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.launch.report import palette
from visuomotor.launch.report.draw import EGO_LENGTH_M, EGO_WIDTH_M
from visuomotor.messages.schema import (
    CLASS_NAMES,
    CameraFrame,
    Command,
    Detections,
    Forecast,
    Message,
    Route,
    Tracks,
    VehicleState,
)

_INSTALL = "the live view needs Rerun: pip install 'visuomotor[viz]'"


class LiveView:
    """Sends each tick to a Rerun viewer that it opens, or to an .rrd file when ``save`` is given."""

    def __init__(self, save: Path | None = None) -> None:
        try:
            import rerun as rr
            import rerun.blueprint as rrb
        except ModuleNotFoundError as error:
            raise ValueError(_INSTALL) from error
        self._rr: Any = rr
        rr.init("visuomotor", spawn=False)
        if save is not None:
            rr.save(str(save))
        else:
            rr.spawn(memory_limit="2GB")
        cameras = rrb.Vertical(
            rrb.Spatial2DView(origin="camera_front"),
            rrb.Horizontal(rrb.Spatial2DView(origin="camera_left"), rrb.Spatial2DView(origin="camera_right")),
        )
        plots = rrb.TimeSeriesView(origin="plots")
        rr.send_blueprint(rrb.Blueprint(rrb.Horizontal(cameras, rrb.Vertical(rrb.Spatial3DView(origin="odom"), plots))))

    def add(self, episode: int, tick: int, messages: Mapping[str, Message]) -> None:
        """Log the messages of one tick."""
        rr = self._rr
        rr.set_time("episode_time", duration=tick * 0.1)
        rr.set_time("tick", sequence=tick)
        for service, message in messages.items():
            if isinstance(message, CameraFrame):
                rr.log(service, rr.Image(message.image, color_model="BGR").compress(jpeg_quality=85))
        detections = messages.get("detections")
        if isinstance(detections, Detections):
            self._boxes(detections)
        state, route = messages.get("vehicle_state"), messages.get("route")
        if isinstance(state, VehicleState):
            self._ego(state)
        if isinstance(route, Route):
            points = np.column_stack([route.odom_reference_m, np.zeros(len(route.odom_reference_m))])
            rr.log("odom/route", rr.LineStrips3D([points], colors=[(150, 200, 120)]))
        tracks, forecast = messages.get("tracks"), messages.get("forecast")
        if isinstance(tracks, Tracks):
            self._tracks(tracks)
        if isinstance(forecast, Forecast):
            self._fans(forecast)
        command = messages.get("command")
        if isinstance(command, Command):
            rr.log("plots/command_acceleration_mps2", rr.Scalars(command.acceleration_mps2))
            if command.causes:
                rr.log("guard", rr.TextLog(", ".join(command.causes), level="WARN"))

    def _boxes(self, detections: Detections) -> None:
        rr = self._rr
        for index, camera in enumerate(detections.cameras):
            rows = detections.camera_index == index
            rr.log(
                f"{camera}/boxes",
                rr.Boxes2D(
                    array=detections.box_px[rows],
                    array_format=rr.Box2DFormat.XYXY,
                    labels=[CLASS_NAMES[i] for i in detections.class_id[rows]],
                    colors=[palette.CLASS_RGB[CLASS_NAMES[i]] for i in detections.class_id[rows]],
                ),
            )

    def _ego(self, state: VehicleState) -> None:
        rr = self._rr
        half = state.odom_yaw_rad / 2
        rr.log(
            "odom/ego",
            rr.Boxes3D(
                centers=[(state.odom_x_m, state.odom_y_m, 0.75)],
                half_sizes=[(EGO_LENGTH_M / 2, EGO_WIDTH_M / 2, 0.75)],
                quaternions=[rr.Quaternion(xyzw=(0, 0, math.sin(half), math.cos(half)))],
                colors=[palette.EGO_RGB],
            ),
        )
        rr.log("plots/speed_mps", rr.Scalars(state.speed_mps))

    def _tracks(self, tracks: Tracks) -> None:
        rr = self._rr
        n = len(tracks.track_id)
        half = tracks.odom_heading_rad / 2
        zeros = np.zeros(n)
        rr.log(
            "odom/tracks",
            rr.Boxes3D(
                centers=np.column_stack([tracks.odom_position_m, np.full(n, 0.7)]),
                half_sizes=np.column_stack([tracks.size_m / 2, np.full(n, 0.7)]),
                quaternions=np.column_stack([zeros, zeros, np.sin(half), np.cos(half)]),
                labels=[f"{CLASS_NAMES[c]} {i}" for c, i in zip(tracks.class_id, tracks.track_id, strict=True)],
                colors=[palette.CLASS_RGB[CLASS_NAMES[c]] for c in tracks.class_id],
            ),
        )

    def _fans(self, forecast: Forecast) -> None:
        strips, colours = [], []
        for i in range(len(forecast.track_id)):
            for mode, p in enumerate(forecast.probability[i]):
                if p > 0.05:
                    path = forecast.odom_position_m[i, mode]
                    strips.append(np.column_stack([path, np.full(len(path), 0.2)]))
                    colours.append((*palette.FORECAST_RGB, int(60 + 195 * float(p))))
        self._rr.log("odom/forecast", self._rr.LineStrips3D(strips, colors=colours))
