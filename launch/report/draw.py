"""Drawing that serves every robot: boxes, texts and detections, with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from visuomotor.launch.report import palette
from visuomotor.messages.schema import Detections, Forecast

_FONT = cv2.FONT_HERSHEY_SIMPLEX
PROBABLE = 0.05  # futures below it are not drawn


def box_corners(centre: np.ndarray, yaw_rad: float, length_m: float, width_m: float) -> np.ndarray:
    """Corners [4, 2] of an oriented box, front left first."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    corners = 0.5 * np.array([[length_m, width_m], [length_m, -width_m], [-length_m, -width_m], [-length_m, width_m]])
    return np.asarray(centre) + corners @ np.array([[c, s], [-s, c]])


def draw_detections(
    canvas: np.ndarray, detections: Detections, camera: str, class_names: Sequence[str], scale: float
) -> None:
    """Boxes, ground points, classes and scores of one camera's detections, on its enlarged frame."""
    if camera not in detections.cameras:
        return
    for i in np.flatnonzero(detections.camera_index == detections.cameras.index(camera)):
        x0, y0, x1, y1 = (round(float(v) * scale) for v in detections.box_px[i])
        name = class_names[int(detections.class_id[i])]
        colour = palette.class_bgr(name)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, 2, cv2.LINE_AA)
        ground = tuple(round(float(v) * scale) for v in detections.ground_px[i])
        cv2.circle(canvas, ground, 3, colour, -1, cv2.LINE_AA)
        draw_text(canvas, f"{name} {float(detections.score[i]):.2f}", (x0, max(11, y0 - 4)), colour, 0.42)


def futures(forecast: Forecast) -> Iterator[tuple[int, float, np.ndarray]]:
    """Track's place in the message, probability and path [T, 2] in ``odom_`` of each future, the likeliest last."""
    for i in range(len(forecast.track_id)):
        for mode in np.argsort(forecast.probability[i]):
            probability = float(forecast.probability[i, mode])
            if probability >= PROBABLE:
                yield i, probability, forecast.odom_position_m[i, mode]


def draw_fans(canvas: np.ndarray, lines: Iterator[tuple[float, np.ndarray]]) -> None:
    """Futures as probability and int32 pixels [T, 2]: the likelier, the brighter."""
    for probability, line in lines:
        shade = tuple(int(30 + probability * (v - 30)) for v in palette.bgr(palette.FORECAST_RGB))
        cv2.polylines(canvas, [line], False, shade, 2 if probability > 0.4 else 1, cv2.LINE_AA)


def draw_text(
    canvas: np.ndarray, text: str, origin: tuple[int, int], colour: tuple[int, int, int], size: float = 0.5
) -> None:
    """Text with a dark shadow, legible on any ground."""
    cv2.putText(canvas, text, (origin[0] + 1, origin[1] + 1), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(canvas, text, origin, _FONT, size, colour, 1, cv2.LINE_AA)
