"""A report's part of a car: lanes, traffic and forecasts around it, its speed and the commands it was given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from visuomotor.launch.report import palette
from visuomotor.launch.report.draw import box_corners, draw_detections, draw_fans, draw_text, futures
from visuomotor.launch.report.numbers import rounded
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import (
    Command,
    Detections,
    Forecast,
    Message,
    PolicyCommand,
    Route,
    Tracks,
    Truth,
    VehicleState,
)
from visuomotor.messages.tasks import Task

EGO_LENGTH_M, EGO_WIDTH_M = 4.5, 1.8
METRES_PER_PX, EGO_DOWN = 0.14, 0.72  # of the view from above: its scale, and where down the picture the car is
CONE = "cone"  # goes nowhere: neither number nor future are drawn


class RoadPart:
    """Pictures and numbers of a drive, see ``report.parts.ReportPart``."""

    script = "road.js"
    digits = 2
    height_m = 1.4

    def __init__(self, task: Task) -> None:
        self.class_names = task.class_names

    def draw_camera(
        self, image: np.ndarray, camera: CameraModel, messages: Mapping[str, Message], scale: float
    ) -> np.ndarray:
        """The frame, enlarged, with detected boxes, ground points, lane centres and the likeliest futures of tracks."""
        canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        state = messages.get("vehicle_state")
        if isinstance(state, VehicleState):
            route, forecast = messages.get("route"), messages.get("forecast")
            if isinstance(route, Route):
                _draw_lanes(canvas, camera, state, route, scale)
            if isinstance(forecast, Forecast):
                self._draw_futures(canvas, camera, state, forecast, messages.get("tracks"), scale)
        if isinstance(detections := messages.get("detections"), Detections):
            draw_detections(canvas, detections, camera.name, self.class_names, scale)
        return canvas

    def _draw_futures(
        self,
        canvas: np.ndarray,
        camera: CameraModel,
        state: VehicleState,
        forecast: Forecast,
        tracks: Message | None,
        scale: float,
    ) -> None:
        classes = dict(zip(tracks.track_id, tracks.class_id, strict=True)) if isinstance(tracks, Tracks) else {}
        if forecast.probability.ndim != 2 or forecast.probability.shape[1] == 0:
            return
        for i, track_id in enumerate(forecast.track_id):
            mode = int(np.argmax(forecast.probability[i]))
            px = _polyline(camera, state, ego_from_odom(forecast.odom_position_m[i, mode], state))
            if px is not None and self.class_names[int(classes.get(track_id, 0))] != CONE:
                line, colour = np.round(px * scale).astype(np.int32), palette.bgr(palette.FORECAST_RGB)
                cv2.polylines(canvas, [line], False, colour, 2, cv2.LINE_AA)

    def draw_top(self, messages: Mapping[str, Message], width: int, height: int) -> np.ndarray:
        """The road around the car, which points up: tracks with velocities and forecast fans, the truth in grey."""
        return BirdsEye(width, height, self.class_names).draw(messages)

    def instruments(self, messages: Mapping[str, Message]) -> list[str]:
        """Speed, command, share of the route."""
        state, command, truth = (messages.get(s) for s in ("vehicle_state", "command", "truth"))
        parts = []
        if isinstance(state, VehicleState):
            parts.append(f"{state.speed_mps * 3.6:3.0f} km/h")
        if isinstance(command, Command):
            parts.append(f"accel {command.acceleration_mps2:+.1f} m/s2")
            parts.append(f"steer {np.degrees(command.steering_angle_rad):+.1f} deg")
        if isinstance(truth, Truth) and truth.route_length_m > 0:
            parts.append(f"{100 * truth.progress_m / truth.route_length_m:3.0f} % of route")
        return parts

    def tick_data(self, messages: Mapping[str, Message]) -> dict[str, Any]:
        """The car, its road, what it was told, and the truth in ``odom_``."""
        out: dict[str, Any] = {}
        state, route, truth = (messages.get(s) for s in ("vehicle_state", "route", "truth"))
        wish, command = messages.get("policy_command"), messages.get("command")
        if isinstance(state, VehicleState):
            out["ego"] = rounded([state.odom_x_m, state.odom_y_m, state.odom_yaw_rad], 3)
            out["v"] = round(state.speed_mps, 2)
            out["a"] = round(state.acceleration_mps2, 2)
            out["s"] = round(state.steering_angle_rad, 4)
        if isinstance(route, Route):
            out["road"] = rounded(route.odom_reference_m[::2])
            out["lanes"] = [route.lane_count, route.lane_width_m]
            out["limit"] = round(route.speed_limit_mps, 2)
        if isinstance(wish, PolicyCommand):
            out["pa"], out["ps"] = round(wish.acceleration_mps2, 2), round(wish.steering_angle_rad, 4)
        if isinstance(command, Command):
            out["ca"], out["cs"] = round(command.acceleration_mps2, 2), round(command.steering_angle_rad, 4)
        if isinstance(truth, Truth):
            out["truth"] = self._truth_data(truth)
            out["progress"] = round(truth.progress_m, 1)
        return out

    def _truth_data(self, truth: Truth) -> list[Any]:
        """Agents of the simulator moved into ``odom_`` by the two poses of the ego."""
        mx, my, myaw = truth.map_ego_pose
        ox, oy, oyaw = truth.odom_ego_pose
        turn = oyaw - myaw
        c, s = math.cos(turn), math.sin(turn)
        position = (truth.map_position_m - np.array([mx, my])) @ np.array([[c, s], [-s, c]]) + (ox, oy)
        return [
            [self.class_names[int(truth.class_id[i])]]
            + rounded(position[i])
            + [round(float(truth.map_yaw_rad[i]) + turn, 3)]
            + rounded(truth.size_m[i, :2])
            for i in range(len(truth.agent_id))
        ]

    def log(self, rr: Any, messages: Mapping[str, Message]) -> None:
        """The car, its route, speed and commanded acceleration."""
        state, route, command = (messages.get(s) for s in ("vehicle_state", "route", "command"))
        if isinstance(state, VehicleState):
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
        if isinstance(route, Route):
            points = np.column_stack([route.odom_reference_m, np.zeros(len(route.odom_reference_m))])
            rr.log("odom/route", rr.LineStrips3D([points], colors=[(150, 200, 120)]))
        if isinstance(command, Command):
            rr.log("plots/command_acceleration_mps2", rr.Scalars(command.acceleration_mps2))


def ego_from_odom(points: np.ndarray, state: VehicleState) -> np.ndarray:
    """Points [..., 2] of ``odom_`` in ``ego_``."""
    c, s = math.cos(state.odom_yaw_rad), math.sin(state.odom_yaw_rad)
    offset = np.asarray(points, np.float64) - (state.odom_x_m, state.odom_y_m)
    return offset @ np.array([[c, -s], [s, c]])


def _polyline(camera: CameraModel, state: VehicleState, ego: np.ndarray) -> np.ndarray | None:
    """Pixels of the part of an ego-frame ground line [P, 2] that lies in front of the camera."""
    points = np.column_stack([ego, np.zeros(len(ego))])
    px, depth = camera.project(points, state.roll_rad, state.pitch_rad)
    keep = (depth > 0.8) & (np.abs(px[:, 0] - camera.cx) < 1.2 * camera.width)
    return px[keep] if keep.sum() > 1 else None


def _lane_normals(reference: np.ndarray) -> np.ndarray:
    """Unit vectors [P, 2] to the left of a line."""
    tangent = np.gradient(reference, axis=0)
    left: np.ndarray = np.column_stack([-tangent[:, 1], tangent[:, 0]])
    return left / np.linalg.norm(tangent, axis=1, keepdims=True)


def _draw_lanes(canvas: np.ndarray, camera: CameraModel, state: VehicleState, route: Route, scale: float) -> None:
    reference = ego_from_odom(route.odom_reference_m, state)
    normal = _lane_normals(reference)
    for lane in range(route.lane_count):
        px = _polyline(camera, state, reference + normal * lane * route.lane_width_m)
        if px is not None:
            cv2.polylines(canvas, [np.round(px * scale).astype(np.int32)], False, (150, 200, 120), 1, cv2.LINE_AA)


class BirdsEye:
    """Metres around the ego, which points up, to pixels of a canvas."""

    def __init__(self, width: int, height: int, class_names: tuple[str, ...]) -> None:
        self.width, self.height, self.scale = width, height, 1.0 / METRES_PER_PX
        self.class_names = class_names
        self._origin = np.array([width / 2, height * EGO_DOWN])

    def px(self, ego: np.ndarray) -> np.ndarray:
        """Points [..., 2] in ``ego_`` to int32 pixels."""
        ego = np.asarray(ego, np.float64)
        return np.round(self._origin + np.stack([-ego[..., 1], -ego[..., 0]], axis=-1) * self.scale).astype(np.int32)

    def draw(self, messages: Mapping[str, Message]) -> np.ndarray:
        """Road, tracks with velocities and forecast fans, and the simulator's truth as grey outlines."""
        canvas = np.full((self.height, self.width, 3), palette.bgr(palette.GROUND_RGB), np.uint8)
        state = messages.get("vehicle_state")
        if not isinstance(state, VehicleState):
            return canvas
        route, tracks, forecast, truth = (messages.get(s) for s in ("route", "tracks", "forecast", "truth"))
        if isinstance(route, Route):
            self._road(canvas, state, route)
        if isinstance(truth, Truth):
            self._truth(canvas, truth)
        if isinstance(forecast, Forecast):
            draw_fans(canvas, ((p, self.px(ego_from_odom(path, state))) for _, p, path in futures(forecast)))
        if isinstance(tracks, Tracks):
            self._tracks(canvas, state, tracks)
        ego = self.px(box_corners(np.zeros(2), 0.0, EGO_LENGTH_M, EGO_WIDTH_M))
        cv2.fillPoly(canvas, [ego], palette.bgr(palette.EGO_RGB), cv2.LINE_AA)
        return canvas

    def _road(self, canvas: np.ndarray, state: VehicleState, route: Route) -> None:
        reference = ego_from_odom(route.odom_reference_m, state)
        normal = _lane_normals(reference)
        edges = (np.arange(route.lane_count + 1) - 0.5) * route.lane_width_m
        outline = np.concatenate([reference + normal * edges[0], (reference + normal * edges[-1])[::-1]])
        cv2.fillPoly(canvas, [self.px(outline)], palette.bgr(palette.ROAD_RGB), cv2.LINE_AA)
        for i, edge in enumerate(edges):
            line = self.px(reference + normal * edge)
            solid = i in (0, len(edges) - 1)
            pieces = [line] if solid else [line[j : j + 2] for j in range(0, len(line) - 1, 3)]
            cv2.polylines(canvas, pieces, False, (190, 190, 190) if solid else (120, 120, 120), 1, cv2.LINE_AA)

    def _truth(self, canvas: np.ndarray, truth: Truth) -> None:
        x, y, yaw = truth.map_ego_pose
        c, s = math.cos(yaw), math.sin(yaw)
        ego = (truth.map_position_m - np.array([x, y])) @ np.array([[c, -s], [s, c]])
        for i in range(len(truth.agent_id)):
            corners = box_corners(ego[i], float(truth.map_yaw_rad[i]) - yaw, *truth.size_m[i, :2])
            cv2.polylines(canvas, [self.px(corners)], True, palette.bgr(palette.TRUTH_RGB), 1, cv2.LINE_AA)

    def _tracks(self, canvas: np.ndarray, state: VehicleState, tracks: Tracks) -> None:
        position = ego_from_odom(tracks.odom_position_m, state)
        tip = ego_from_odom(tracks.odom_position_m + 0.5 * tracks.odom_velocity_mps, state)
        for i, track_id in enumerate(tracks.track_id):
            name = self.class_names[int(tracks.class_id[i])]
            colour = palette.class_bgr(name)
            yaw = float(tracks.odom_heading_rad[i]) - state.odom_yaw_rad
            corners = self.px(box_corners(position[i], yaw, *tracks.size_m[i]))
            if tracks.unseen_s[i] > 0.25:
                cv2.polylines(canvas, [corners], True, colour, 1, cv2.LINE_AA)
            else:
                cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA)
            cv2.line(canvas, tuple(self.px(position[i])), tuple(self.px(tip[i])), colour, 1, cv2.LINE_AA)
            if name != CONE:
                x, y = self.px(position[i])
                draw_text(canvas, str(int(track_id)), (int(x) + 9, int(y) + 4), (200, 200, 200), 0.36)
