"""Drawing of what the stack saw and meant to do: camera overlays and the bird's-eye view, with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from visuomotor.launch.report import palette
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import CLASS_NAMES, Detections, Forecast, Message, Route, Tracks, Truth, VehicleState

_FONT = cv2.FONT_HERSHEY_SIMPLEX
EGO_LENGTH_M, EGO_WIDTH_M = 4.5, 1.8


def ego_from_odom(points: np.ndarray, state: VehicleState) -> np.ndarray:
    """Points [..., 2] of ``odom_`` in ``ego_``."""
    c, s = math.cos(state.odom_yaw_rad), math.sin(state.odom_yaw_rad)
    offset = np.asarray(points, np.float64) - (state.odom_x_m, state.odom_y_m)
    return offset @ np.array([[c, -s], [s, c]])


def box_corners(centre: np.ndarray, yaw_rad: float, length_m: float, width_m: float) -> np.ndarray:
    """Corners [4, 2] of an oriented box, front left first."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    corners = 0.5 * np.array([[length_m, width_m], [length_m, -width_m], [-length_m, -width_m], [-length_m, width_m]])
    return np.asarray(centre) + corners @ np.array([[c, s], [-s, c]])


def draw_camera(
    image: np.ndarray, camera: CameraModel, messages: Mapping[str, Message], scale: float = 2.0
) -> np.ndarray:
    """The frame, enlarged, with detected boxes, ground points, lane centres and the most likely futures of tracks."""
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    state = messages.get("vehicle_state")
    if isinstance(state, VehicleState):
        route, forecast = messages.get("route"), messages.get("forecast")
        if isinstance(route, Route):
            _draw_lanes(canvas, camera, state, route, scale)
        if isinstance(forecast, Forecast):
            _draw_futures(canvas, camera, state, forecast, messages.get("tracks"), scale)
    detections = messages.get("detections")
    if isinstance(detections, Detections) and camera.name in detections.cameras:
        index = detections.cameras.index(camera.name)
        for i in np.flatnonzero(detections.camera_index == index):
            x0, y0, x1, y1 = (round(float(v) * scale) for v in detections.box_px[i])
            colour = palette.class_bgr(int(detections.class_id[i]))
            cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, 2, cv2.LINE_AA)
            ground = tuple(round(float(v) * scale) for v in detections.ground_px[i])
            cv2.circle(canvas, ground, 3, colour, -1, cv2.LINE_AA)
            label = f"{CLASS_NAMES[int(detections.class_id[i])]} {float(detections.score[i]):.2f}"
            draw_text(canvas, label, (x0, max(11, y0 - 4)), colour, 0.42)
    return canvas


def _polyline(canvas: np.ndarray, camera: CameraModel, state: VehicleState, ego: np.ndarray) -> np.ndarray | None:
    """Pixels of the part of an ego-frame ground line [P, 2] that lies in front of the camera."""
    points = np.column_stack([ego, np.zeros(len(ego))])
    px, depth = camera.project(points, state.roll_rad, state.pitch_rad)
    keep = (depth > 0.8) & (np.abs(px[:, 0] - camera.cx) < 1.2 * camera.width)
    return px[keep] if keep.sum() > 1 else None


def _draw_lanes(canvas: np.ndarray, camera: CameraModel, state: VehicleState, route: Route, scale: float) -> None:
    reference = ego_from_odom(route.odom_reference_m, state)
    tangent = np.gradient(reference, axis=0)
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]]) / np.linalg.norm(tangent, axis=1, keepdims=True)
    for lane in range(route.lane_count):
        px = _polyline(canvas, camera, state, reference + normal * lane * route.lane_width_m)
        if px is not None:
            cv2.polylines(canvas, [np.round(px * scale).astype(np.int32)], False, (150, 200, 120), 1, cv2.LINE_AA)


def _draw_futures(
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
        px = _polyline(canvas, camera, state, ego_from_odom(forecast.odom_position_m[i, mode], state))
        if px is not None and CLASS_NAMES[int(classes.get(track_id, 0))] != "cone":
            cv2.polylines(
                canvas,
                [np.round(px * scale).astype(np.int32)],
                False,
                palette.bgr(palette.FORECAST_RGB),
                2,
                cv2.LINE_AA,
            )


class BirdsEye:
    """Metres around the ego, which points up, to pixels of a canvas."""

    def __init__(self, width: int, height: int, metres_per_px: float = 0.14, ego_down: float = 0.72) -> None:
        self.width, self.height, self.scale = width, height, 1.0 / metres_per_px
        self._origin = np.array([width / 2, height * ego_down])

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
            self._fans(canvas, state, forecast)
        if isinstance(tracks, Tracks):
            self._tracks(canvas, state, tracks)
        ego = self.px(box_corners(np.zeros(2), 0.0, EGO_LENGTH_M, EGO_WIDTH_M))
        cv2.fillPoly(canvas, [ego], palette.bgr(palette.EGO_RGB), cv2.LINE_AA)
        return canvas

    def _road(self, canvas: np.ndarray, state: VehicleState, route: Route) -> None:
        reference = ego_from_odom(route.odom_reference_m, state)
        tangent = np.gradient(reference, axis=0)
        normal = np.column_stack([-tangent[:, 1], tangent[:, 0]]) / np.linalg.norm(tangent, axis=1, keepdims=True)
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

    def _fans(self, canvas: np.ndarray, state: VehicleState, forecast: Forecast) -> None:
        layer = canvas.copy()
        for i in range(len(forecast.track_id)):
            for mode in np.argsort(forecast.probability[i]):
                p = float(forecast.probability[i, mode])
                if p < 0.05:
                    continue
                line = self.px(ego_from_odom(forecast.odom_position_m[i, mode], state))
                shade = tuple(int(30 + p * (v - 30)) for v in palette.bgr(palette.FORECAST_RGB))
                cv2.polylines(layer, [line], False, shade, 2 if p > 0.4 else 1, cv2.LINE_AA)
        np.copyto(canvas, layer)

    def _tracks(self, canvas: np.ndarray, state: VehicleState, tracks: Tracks) -> None:
        position = ego_from_odom(tracks.odom_position_m, state)
        tip = ego_from_odom(tracks.odom_position_m + 0.5 * tracks.odom_velocity_mps, state)
        for i, track_id in enumerate(tracks.track_id):
            colour = palette.class_bgr(int(tracks.class_id[i]))
            yaw = float(tracks.odom_heading_rad[i]) - state.odom_yaw_rad
            corners = self.px(box_corners(position[i], yaw, *tracks.size_m[i]))
            if tracks.unseen_s[i] > 0.25:
                cv2.polylines(canvas, [corners], True, colour, 1, cv2.LINE_AA)
            else:
                cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA)
            cv2.line(canvas, tuple(self.px(position[i])), tuple(self.px(tip[i])), colour, 1, cv2.LINE_AA)
            if CLASS_NAMES[int(tracks.class_id[i])] != "cone":
                x, y = self.px(position[i])
                draw_text(canvas, str(int(track_id)), (int(x) + 9, int(y) + 4), (200, 200, 200), 0.36)


def draw_text(
    canvas: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int], size: float = 0.5
) -> None:
    """Text with a dark shadow, legible on any ground."""
    cv2.putText(canvas, text, (origin[0] + 1, origin[1] + 1), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(canvas, text, origin, _FONT, size, colour, 1, cv2.LINE_AA)
