"""A capture as the compact JSON that the report page draws from: everything in ``odom_``, rounded."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from visuomotor.launch.report.capture import EpisodeCapture, TickRecord
from visuomotor.launch.report.numbers import rounded
from visuomotor.launch.report.parts import ReportPart
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import Command, Forecast, Tracks, Truth

_FUTURES_SHOWN = 3


def episode_data(
    capture: EpisodeCapture,
    cameras: Mapping[str, CameraModel],
    part: ReportPart,
    row: Mapping[str, Any],
    image_stride: int,
) -> dict[str, Any]:
    """One episode: its score row, one entry per tick, and overlaid camera images every ``image_stride`` ticks."""
    ticks = [tick_data(record, part) for record in capture.ticks]
    images: list[dict[str, str]] = []
    if image_stride > 0:
        for record in capture.ticks[::image_stride]:
            images.append(_images(record, cameras, part))
    return {"row": dict(row), "ticks": ticks, "images": images, "imageStride": image_stride}


def _images(record: TickRecord, cameras: Mapping[str, CameraModel], part: ReportPart) -> dict[str, str]:
    encoded: dict[str, str] = {}
    for name, camera in cameras.items():
        image = record.image(name)
        if image is None:
            continue
        scale = 1.5 if camera.height > 150 else 1.0
        drawn = part.draw_camera(image, camera, record.messages, scale)
        done, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 62])
        if done:
            encoded[name] = base64.b64encode(data.tobytes()).decode()
    return encoded


def tick_data(record: TickRecord, part: ReportPart) -> dict[str, Any]:
    """One tick; keys are short because there are hundreds of them."""
    messages = record.messages
    out: dict[str, Any] = {"k": record.tick, **part.tick_data(messages)}
    tracks, forecast, command, truth = (messages.get(s) for s in ("tracks", "forecast", "command", "truth"))
    if isinstance(tracks, Tracks):
        out["tracks"] = [
            [int(tracks.track_id[i]), part.class_names[int(tracks.class_id[i])]]
            + rounded(tracks.odom_position_m[i], part.digits)
            + rounded(tracks.odom_velocity_mps[i], part.digits)
            + [_angle(float(tracks.odom_heading_rad[i]))]
            + rounded(tracks.size_m[i], part.digits)
            + [round(float(tracks.unseen_s[i]), 1)]
            for i in range(len(tracks.track_id))
        ]
    if isinstance(forecast, Forecast) and forecast.probability.size:
        out["fans"] = _fans(forecast, part.digits)
    if isinstance(command, Command) and command.causes:
        out["guard"] = list(command.causes)
    if isinstance(truth, Truth) and truth.end:
        out["end"] = truth.end
    return out


def _angle(yaw_rad: float) -> float | None:
    """JSON knows no NaN, which stands for no heading."""
    return round(yaw_rad, 3) if math.isfinite(yaw_rad) else None


def _fans(forecast: Forecast, digits: int) -> list[Any]:
    fans = []
    for i in range(len(forecast.track_id)):
        order = np.argsort(forecast.probability[i])[::-1][:_FUTURES_SHOWN]
        fans.append(
            [
                [
                    round(float(forecast.probability[i, m]), 2),
                    rounded(forecast.odom_position_m[i, m, 2::3].ravel(), digits),
                ]
                for m in order
                if forecast.probability[i, m] > 0.03
            ]
        )
    return fans
