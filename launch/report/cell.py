"""A report's part of an arm beside a belt: bins, belt and parts around it, its links, its fingers and its joints."""

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
    ArmState,
    Command,
    Detections,
    Forecast,
    Message,
    Order,
    PolicyCommand,
    Tracks,
    Truth,
)
from visuomotor.messages.tasks import Task

MARGIN_M = 0.06  # around what is shown from above
SHOWN_Y_M = (-0.6, 1.0)  # of the belt, which goes on beyond
UNSEEN_S = 0.25  # a track that was not seen for longer is drawn as an outline
LINK_RGB = (214, 220, 228)
REACH_RGB = (120, 170, 140)


class CellPart:
    """Pictures and numbers of a shift, see ``report.parts.ReportPart``."""

    script = "cell.js"
    digits = 3
    height_m = 0.04

    def __init__(self, task: Task) -> None:
        self.class_names = task.class_names

    def draw_camera(
        self, image: np.ndarray, camera: CameraModel, messages: Mapping[str, Message], scale: float
    ) -> np.ndarray:
        """The frame, enlarged, with detected boxes, tracks by number and yaw, their futures, and the ends of reach."""
        canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        if camera.on_hand:  # where it looks is in no message
            return canvas
        order, forecast = messages.get("order"), messages.get("forecast")
        if isinstance(order, Order):
            x0, y0, x1, y1 = order.base_reach_m
            for y in (y0, y1):
                _draw_line(canvas, camera, np.array([[x0, y], [x1, y]]), REACH_RGB, scale)
        if isinstance(forecast, Forecast):
            for _, probability, path in futures(forecast):
                thick = 2 if probability > 0.4 else 1
                _draw_line(canvas, camera, path, palette.FORECAST_RGB, scale, thick)
        if isinstance(detections := messages.get("detections"), Detections):
            draw_detections(canvas, detections, camera.name, self.class_names, scale)
        if isinstance(tracks := messages.get("tracks"), Tracks):
            self._mark_tracks(canvas, camera, tracks, scale)
        return canvas

    def _mark_tracks(self, canvas: np.ndarray, camera: CameraModel, tracks: Tracks, scale: float) -> None:
        for i, track_id in enumerate(tracks.track_id.tolist()):
            middle = tracks.odom_position_m[i].astype(np.float64)
            half = 0.5 * float(tracks.size_m[i, 0]) * _direction(float(tracks.odom_heading_rad[i]))
            colour = palette.class_rgb(self.class_names[int(tracks.class_id[i])])
            _draw_line(canvas, camera, np.array([middle - half, middle + half]), colour, scale)
            px, depth = camera.project(np.array([[*middle, 0.0]]))
            if depth[0] > 0.0:
                x, y = np.round(px[0] * scale).astype(int).tolist()
                draw_text(canvas, str(track_id), (x + 6, y + 12), (235, 235, 235), 0.4)

    def draw_top(self, messages: Mapping[str, Message], width: int, height: int) -> np.ndarray:
        """The cell from above, x to the right and the belt running down: tracks, futures, truth in grey, the arm."""
        return _TopView(width, height, self.class_names).draw(messages)

    def instruments(self, messages: Mapping[str, Message]) -> list[str]:
        """What is still wanted, parts binned, the belt, the fingers."""
        order, state, truth = (messages.get(s) for s in ("order", "arm_state", "truth"))
        parts = []
        if isinstance(truth, Truth):
            parts.append(f"{truth.parts_binned} of {truth.parts_ordered} binned, {truth.wrong_parts} wrong")
            parts.append(f"belt {truth.belt_speed_mps:.2f} m/s")
        if isinstance(state, ArmState):
            parts.append(f"fingers {1e3 * state.gripper_width_m:.0f} mm, {state.gripper_force_n:.0f} N")
        if isinstance(order, Order):
            parts.append(order.refused or f"wanted: {self._wanted(order)}")
        return parts

    def _wanted(self, order: Order) -> str:
        names = [name for name, count in zip(self.class_names, order.wanted.tolist(), strict=False) if count > 0]
        return ", ".join(names) or "nothing"

    def tick_data(self, messages: Mapping[str, Message]) -> dict[str, Any]:
        """The arm, its cell and order, how fast its joints were wanted, told and measured to turn, and the truth."""
        out: dict[str, Any] = {}
        state, order, truth = (messages.get(s) for s in ("arm_state", "order", "truth"))
        wish, command = messages.get("policy_command"), messages.get("command")
        if isinstance(state, ArmState):
            out["arm"] = rounded(state.base_link_points_m, 3)
            out["width"] = round(state.gripper_width_m, 4)
            out["force"] = round(state.gripper_force_n, 1)
            out["joints"] = _fastest(state.joint_velocity_radps)
            if len(state.base_link_points_m):
                out["tool"] = round(float(state.base_link_points_m[-1, 2]), 3)
        if isinstance(order, Order):
            out["wanted"] = [
                [self.class_names[i], int(n), int(order.bin_index[i])]
                for i, n in enumerate(order.wanted[: len(self.class_names)])
                if n > 0
            ]
            out["bins"] = rounded(order.base_bin_m[:, :2], 3)
            out["cell"] = [list(order.bin_size_m), list(order.base_belt_m), list(order.base_reach_m)]
            if order.refused:
                out["refused"] = order.refused
        if isinstance(wish, PolicyCommand):
            out["pj"] = _fastest(wish.joint_velocity_radps)
        if isinstance(command, Command):
            out["cj"] = _fastest(command.joint_velocity_radps)
            out["cw"] = round(command.gripper_width_m, 4)
        if isinstance(truth, Truth):
            out["belt"] = round(truth.belt_speed_mps, 3)
            out["count"] = [truth.parts_binned, truth.parts_ordered, truth.wrong_parts]
            out["truth"] = [
                [_class_name(self.class_names, int(truth.class_id[i]))]
                + rounded(truth.map_position_m[i], 3)
                + [round(float(truth.map_yaw_rad[i]), 3)]
                + rounded(truth.size_m[i, :2], 3)
                for i in range(len(truth.agent_id))
            ]
        return out

    def log(self, rr: Any, messages: Mapping[str, Message]) -> None:
        """Belt, bins and links; fingers, belt and joints over time."""
        state, order, truth, command = (messages.get(s) for s in ("arm_state", "order", "truth", "command"))
        if isinstance(order, Order):
            x0, y0, x1, y1 = order.base_belt_m
            length, width = order.bin_size_m
            centres = [((x0 + x1) / 2, (y0 + y1) / 2, -0.01), *((x, y, z / 2) for x, y, z in order.base_bin_m)]
            sizes = [((x1 - x0) / 2, (y1 - y0) / 2, 0.01)]
            sizes += [(length / 2, width / 2, float(z) / 2) for z in order.base_bin_m[:, 2]]
            rr.log("odom/cell", rr.Boxes3D(centers=centres, half_sizes=sizes, colors=[palette.TRUTH_RGB]))
            if order.refused:
                rr.log("order", rr.TextLog(order.refused, level="WARN"))
        if isinstance(state, ArmState):
            rr.log("odom/arm", rr.LineStrips3D([state.base_link_points_m], radii=[0.02], colors=[palette.EGO_RGB]))
            rr.log("plots/gripper_width_m", rr.Scalars(state.gripper_width_m))
            rr.log("plots/fastest_joint_radps", rr.Scalars(_fastest(state.joint_velocity_radps)))
        if isinstance(truth, Truth):
            rr.log("plots/belt_speed_mps", rr.Scalars(truth.belt_speed_mps))
        if isinstance(command, Command):
            rr.log("plots/command_gripper_width_m", rr.Scalars(command.gripper_width_m))


def _class_name(names: tuple[str, ...], class_id: int) -> str:
    return names[class_id] if 0 <= class_id < len(names) else ""


def _fastest(joint_velocity_radps: Any) -> float:
    """The largest speed of a joint, rad/s."""
    return round(float(np.abs(np.asarray(joint_velocity_radps, np.float64)).max(initial=0.0)), 3)


def _direction(yaw_rad: float) -> np.ndarray:
    """Unit vector [2]; none for a part that looks the same from all sides (NaN)."""
    return np.array([math.cos(yaw_rad), math.sin(yaw_rad)]) if math.isfinite(yaw_rad) else np.zeros(2)


def _draw_line(
    canvas: np.ndarray,
    camera: CameraModel,
    points_m: np.ndarray,
    rgb: tuple[int, int, int],
    scale: float,
    thick: int = 1,
) -> None:
    """A line [P, 2] on the belt, where it lies in front of the camera."""
    px, depth = camera.project(np.column_stack([points_m, np.zeros(len(points_m))]))
    inside = (depth > 0.0) & (np.abs(px - (camera.cx, camera.cy)) < (2.0 * camera.width, 2.0 * camera.height)).all(
        axis=1
    )
    if inside.all():
        cv2.polylines(canvas, [np.round(px * scale).astype(np.int32)], False, palette.bgr(rgb), thick, cv2.LINE_AA)


class _TopView:
    """Metres of ``base_`` to pixels: x to the right, y up."""

    def __init__(self, width: int, height: int, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names
        self._canvas = np.full((height, width, 3), palette.bgr(palette.GROUND_RGB), np.uint8)
        self._low, self._scale = np.zeros(2), 1.0

    def draw(self, messages: Mapping[str, Message]) -> np.ndarray:
        """All of it, the arm on top."""
        order, tracks, forecast = (messages.get(s) for s in ("order", "tracks", "forecast"))
        if not isinstance(order, Order):
            return self._canvas
        self._fit(order)
        self._ground(order)
        if isinstance(truth := messages.get("truth"), Truth):
            self._truth(truth)
        if isinstance(forecast, Forecast):
            draw_fans(self._canvas, ((p, self._px(path)) for _, p, path in futures(forecast)))
        if isinstance(tracks, Tracks):
            self._tracks(tracks, order)
        if isinstance(state := messages.get("arm_state"), ArmState):
            self._arm(state)
        return self._canvas

    def _fit(self, order: Order) -> None:
        """Scale and place of what must be seen: foot, bins and belt."""
        x0, y0, x1, y1 = order.base_belt_m
        x0 = min(0.0, x0, *(order.base_bin_m[:, 0] - order.bin_size_m[0] / 2).tolist())
        low = np.array([x0, max(y0, SHOWN_Y_M[0])]) - MARGIN_M
        high = np.array([x1, min(y1, SHOWN_Y_M[1])]) + MARGIN_M
        height, width = self._canvas.shape[:2]
        self._scale = float(np.min((width, height) / np.maximum(high - low, 1e-3)))
        self._low = low - 0.5 * ((width, height) / np.array(self._scale) - (high - low))

    def _px(self, base_m: np.ndarray) -> np.ndarray:
        """Points [..., 2] in ``base_`` to int32 pixels."""
        offset = (np.asarray(base_m, np.float64)[..., :2] - self._low) * self._scale
        return np.round(np.stack([offset[..., 0], self._canvas.shape[0] - offset[..., 1]], axis=-1)).astype(np.int32)

    def _box(self, low: tuple[float, float], high: tuple[float, float], rgb: tuple[int, int, int], thick: int) -> None:
        a, b = (tuple(self._px(np.array(corner)).tolist()) for corner in (low, high))
        cv2.rectangle(self._canvas, a, b, palette.bgr(rgb), thick, cv2.LINE_AA)

    def _ground(self, order: Order) -> None:
        x0, y0, x1, y1 = order.base_belt_m
        self._box((x0, y0), (x1, y1), palette.ROAD_RGB, -1)
        x0, y0, x1, y1 = order.base_reach_m
        self._box((x0, y0), (x1, y1), REACH_RGB, 1)
        for i, (x, y, _) in enumerate(order.base_bin_m.tolist()):
            length, width = order.bin_size_m
            self._box((x - length / 2, y - width / 2), (x + length / 2, y + width / 2), palette.TRUTH_RGB, 2)
            wanted = zip(self.class_names, order.wanted.tolist(), order.bin_index.tolist(), strict=False)
            for line, name in enumerate(name for name, count, place in wanted if count > 0 and place == i):
                left, top = self._px(np.array([x - length / 2, y + width / 2])).tolist()
                draw_text(self._canvas, name, (left + 5, top + 16 + 15 * line), palette.class_bgr(name), 0.4)

    def _truth(self, truth: Truth) -> None:
        for i in range(len(truth.agent_id)):
            corners = box_corners(truth.map_position_m[i], float(truth.map_yaw_rad[i]), *truth.size_m[i, :2])
            cv2.polylines(self._canvas, [self._px(corners)], True, palette.bgr(palette.TRUTH_RGB), 1, cv2.LINE_AA)

    def _tracks(self, tracks: Tracks, order: Order) -> None:
        """Filled where they are wanted and seen, outlined otherwise, with the way of the next half second."""
        for i, track_id in enumerate(tracks.track_id.tolist()):
            class_id, middle = int(tracks.class_id[i]), tracks.odom_position_m[i].astype(np.float64)
            colour = palette.class_bgr(self.class_names[class_id])
            yaw = float(tracks.odom_heading_rad[i])
            corners = self._px(box_corners(middle, yaw if math.isfinite(yaw) else 0.0, *tracks.size_m[i]))
            wanted = class_id < len(order.wanted) and order.wanted[class_id] > 0
            if wanted and tracks.unseen_s[i] <= UNSEEN_S:
                cv2.fillPoly(self._canvas, [corners], colour, cv2.LINE_AA)
            else:
                cv2.polylines(self._canvas, [corners], True, colour, 1, cv2.LINE_AA)
            at, tip = self._px(np.array([middle, middle + 0.5 * tracks.odom_velocity_mps[i]])).tolist()
            cv2.line(self._canvas, tuple(at), tuple(tip), colour, 1, cv2.LINE_AA)
            draw_text(self._canvas, str(track_id), (at[0] + 9, at[1] + 4), (200, 200, 200), 0.36)

    def _arm(self, state: ArmState) -> None:
        """Links from the foot to the tool, and the tool as a circle as wide as its fingers are apart."""
        points = self._px(state.base_link_points_m)
        if len(points):
            cv2.polylines(self._canvas, [points], False, palette.bgr(LINK_RGB), 3, cv2.LINE_AA)
            for x, y in points.tolist():
                cv2.circle(self._canvas, (x, y), 4, palette.bgr(LINK_RGB), -1, cv2.LINE_AA)
            radius = max(4, round(0.5 * state.gripper_width_m * self._scale))
            cv2.circle(self._canvas, tuple(points[-1].tolist()), radius, palette.bgr(palette.EGO_RGB), 2, cv2.LINE_AA)
