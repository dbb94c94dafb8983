"""Live view in Rerun: cameras with boxes, tracks, forecasts and surroundings in ``odom_``, numbers over time."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.launch.report import palette
from visuomotor.launch.report.draw import futures
from visuomotor.launch.report.parts import ReportPart
from visuomotor.messages.schema import CameraFrame, Command, Detections, Forecast, Message, Tracks

_INSTALL = "the live view needs Rerun: pip install 'visuomotor[viz]'"
PORT = 9876  # where Rerun's viewers listen


class LiveView:
    """Sends each tick to a Rerun viewer that it opens, or to an .rrd file when ``save`` is given."""

    def __init__(self, part: ReportPart, cameras: Sequence[str], save: Path | None = None) -> None:
        """``cameras``: the first one is shown large, the others beside each other below it."""
        try:
            import rerun as rr
            import rerun.blueprint as rrb
        except ModuleNotFoundError as error:
            raise ValueError(_INSTALL) from error
        self._rr: Any = rr
        self._part = part
        rr.init("visuomotor", spawn=False)
        if save is not None:
            rr.save(str(save))
        else:
            find_viewer(rr)
        first, *others = (rrb.Spatial2DView(origin=name) for name in cameras)
        pictures = rrb.Vertical(first, rrb.Horizontal(*others)) if others else first
        plots = rrb.TimeSeriesView(origin="plots")
        rr.send_blueprint(
            rrb.Blueprint(rrb.Horizontal(pictures, rrb.Vertical(rrb.Spatial3DView(origin="odom"), plots)))
        )

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
        self._part.log(rr, messages)
        tracks, forecast = messages.get("tracks"), messages.get("forecast")
        if isinstance(tracks, Tracks):
            self._tracks(tracks)
        if isinstance(forecast, Forecast):
            self._fans(forecast)
        command = messages.get("command")
        if isinstance(command, Command) and command.causes:
            rr.log("guard", rr.TextLog(", ".join(command.causes), level="WARN"))

    def _boxes(self, detections: Detections) -> None:
        rr = self._rr
        for index, camera in enumerate(detections.cameras):
            rows = detections.camera_index == index
            names = self._names(detections.class_id[rows])
            rr.log(
                f"{camera}/boxes",
                rr.Boxes2D(
                    array=detections.box_px[rows],
                    array_format=rr.Box2DFormat.XYXY,
                    labels=names,
                    colors=[palette.class_rgb(name) for name in names],
                ),
            )

    def _names(self, class_id: np.ndarray) -> list[str]:
        return [self._part.class_names[i] for i in class_id]

    def _tracks(self, tracks: Tracks) -> None:
        rr = self._rr
        n = len(tracks.track_id)
        half = np.nan_to_num(tracks.odom_heading_rad) / 2
        zeros = np.zeros(n)
        half_height = np.full(n, self._part.height_m / 2)
        names = self._names(tracks.class_id)
        rr.log(
            "odom/tracks",
            rr.Boxes3D(
                centers=np.column_stack([tracks.odom_position_m, half_height]),
                half_sizes=np.column_stack([tracks.size_m / 2, half_height]),
                quaternions=np.column_stack([zeros, zeros, np.sin(half), np.cos(half)]),
                labels=[f"{name} {i}" for name, i in zip(names, tracks.track_id, strict=True)],
                colors=[palette.class_rgb(name) for name in names],
            ),
        )

    def _fans(self, forecast: Forecast) -> None:
        strips, colours = [], []
        for _, probability, path in futures(forecast):
            strips.append(np.column_stack([path, np.full(len(path), self._part.height_m / 7)]))
            colours.append((*palette.FORECAST_RGB, int(60 + 195 * probability)))
        self._rr.log("odom/forecast", self._rr.LineStrips3D(strips, colors=colours))


def find_viewer(rr: Any) -> None:
    """Connect to the viewer that listens on this host, or open one. Raises ValueError where there is no screen."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1.0):
        rr.connect_grpc(f"rerun+http://127.0.0.1:{PORT}/proxy")
        return
    beside = Path(sys.executable).with_name("rerun")  # not on the PATH where the environment is not activated
    program = str(beside) if beside.exists() else None
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ValueError(
            "--view: there is no screen here (neither DISPLAY nor WAYLAND_DISPLAY is set). Start what shows it in a "
            f"browser, '{program or 'rerun'} --serve-web --bind 127.0.0.1', open the address it names, and call again"
        )
    try:
        rr.spawn(port=PORT, memory_limit="2GB", executable_path=program)
    except RuntimeError as error:
        raise ValueError(f"--view: Rerun's viewer did not start: {str(error).strip().splitlines()[0]}") from error
