"""A capture as the compact JSON that the report page draws from: everything in ``odom_``, rounded to centimetres."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from visuomotor.launch.report.capture import EpisodeCapture, TickRecord
from visuomotor.launch.report.draw import draw_camera
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import (
    CLASS_NAMES,
    Command,
    Forecast,
    PolicyCommand,
    Route,
    Tracks,
    Truth,
    VehicleState,
)

_FUTURES_SHOWN = 3


def _round(values: np.ndarray, digits: int = 2) -> list[Any]:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def episode_data(
    capture: EpisodeCapture, cameras: Mapping[str, CameraModel], row: Mapping[str, Any], image_stride: int
) -> dict[str, Any]:
    """One episode: its score row, one entry per tick, and overlaid camera images every ``image_stride`` ticks."""
    ticks = [tick_data(record) for record in capture.ticks]
    images: list[dict[str, str]] = []
    if image_stride > 0:
        for record in capture.ticks[::image_stride]:
            images.append(_images(record, cameras))
    return {"row": dict(row), "ticks": ticks, "images": images, "imageStride": image_stride}


def _images(record: TickRecord, cameras: Mapping[str, CameraModel]) -> dict[str, str]:
    encoded: dict[str, str] = {}
    for name, camera in cameras.items():
        image = record.image(name)
        if image is None:
            continue
        scale = 1.5 if camera.height > 150 else 1.0
        done, data = cv2.imencode(
            ".jpg", draw_camera(image, camera, record.messages, scale), [cv2.IMWRITE_JPEG_QUALITY, 62]
        )
        if done:
            encoded[name] = base64.b64encode(data.tobytes()).decode()
    return encoded


def tick_data(record: TickRecord) -> dict[str, Any]:
    """One tick; keys are short because there are hundreds of them."""
    out: dict[str, Any] = {"k": record.tick}
    messages = record.messages
    state, route, tracks, forecast = (messages.get(s) for s in ("vehicle_state", "route", "tracks", "forecast"))
    if isinstance(state, VehicleState):
        out["ego"] = _round(np.array([state.odom_x_m, state.odom_y_m, state.odom_yaw_rad]), 3)
        out["v"] = round(state.speed_mps, 2)
        out["a"] = round(state.acceleration_mps2, 2)
        out["s"] = round(state.steering_angle_rad, 4)
    if isinstance(route, Route):
        out["road"] = _round(route.odom_reference_m[::2])
        out["lanes"] = [route.lane_count, route.lane_width_m]
        out["limit"] = round(route.speed_limit_mps, 2)
    if isinstance(tracks, Tracks):
        out["tracks"] = [
            [int(tracks.track_id[i]), CLASS_NAMES[int(tracks.class_id[i])]]
            + _round(tracks.odom_position_m[i])
            + _round(tracks.odom_velocity_mps[i])
            + [round(float(tracks.odom_heading_rad[i]), 3)]
            + _round(tracks.size_m[i])
            + [round(float(tracks.unseen_s[i]), 1)]
            for i in range(len(tracks.track_id))
        ]
    if isinstance(forecast, Forecast) and forecast.probability.size:
        out["fans"] = _fans(forecast)
    _commands(out, record)
    truth = messages.get("truth")
    if isinstance(truth, Truth):
        _truth(out, truth)
    return out


def _fans(forecast: Forecast) -> list[Any]:
    fans = []
    for i in range(len(forecast.track_id)):
        order = np.argsort(forecast.probability[i])[::-1][:_FUTURES_SHOWN]
        fans.append(
            [
                [round(float(forecast.probability[i, m]), 2), _round(forecast.odom_position_m[i, m, 2::3].ravel())]
                for m in order
                if forecast.probability[i, m] > 0.03
            ]
        )
    return fans


def _commands(out: dict[str, Any], record: TickRecord) -> None:
    wish, command = record.messages.get("policy_command"), record.messages.get("command")
    if isinstance(wish, PolicyCommand):
        out["pa"], out["ps"] = round(wish.acceleration_mps2, 2), round(wish.steering_angle_rad, 4)
    if isinstance(command, Command):
        out["ca"], out["cs"] = round(command.acceleration_mps2, 2), round(command.steering_angle_rad, 4)
        if command.causes:
            out["guard"] = list(command.causes)


def _truth(out: dict[str, Any], truth: Truth) -> None:
    """Agents of the simulator moved into ``odom_`` by the two poses of the ego."""
    mx, my, myaw = truth.map_ego_pose
    ox, oy, oyaw = truth.odom_ego_pose
    turn = oyaw - myaw
    c, s = math.cos(turn), math.sin(turn)
    position = (truth.map_position_m - np.array([mx, my])) @ np.array([[c, s], [-s, c]]) + (ox, oy)
    out["truth"] = [
        [CLASS_NAMES[int(truth.class_id[i])]]
        + _round(position[i])
        + [round(float(truth.map_yaw_rad[i]) + turn, 3)]
        + _round(truth.size_m[i, :2])
        for i in range(len(truth.agent_id))
    ]
    out["progress"] = round(truth.progress_m, 1)
    if truth.end:
        out["end"] = truth.end
