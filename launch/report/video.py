"""``<task>.mp4``: cameras with overlays, view from above and instruments, VP9 in MP4 so that browsers play it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from visuomotor.launch.report import palette
from visuomotor.launch.report.capture import EpisodeCapture, TickRecord
from visuomotor.launch.report.draw import draw_text
from visuomotor.launch.report.parts import ReportPart
from visuomotor.messages.camera import CameraModel
from visuomotor.messages.schema import Command, PolicyCommand, Truth

WIDTH, HEIGHT = 1280, 640  # of the composed picture
VIDEO_WIDTH, VIDEO_HEIGHT = 960, 480
TICK_STRIDE, FRAME_RATE_HZ = 2, 5.0  # VP9 costs 0.1 s of a core a frame: every second tick, at the speed of life
_PANEL_X = 800  # left of it the cameras, right of it the view from above


def compose(record: TickRecord, cameras: Mapping[str, CameraModel], part: ReportPart, title: str = "") -> np.ndarray:
    """One video frame, uint8 [640, 1280, 3] BGR."""
    canvas = np.full((HEIGHT, WIDTH, 3), palette.bgr(palette.GROUND_RGB), np.uint8)
    main = max(cameras, key=lambda name: cameras[name].width * cameras[name].height, default=None)
    if main is not None:
        image = record.image(main)
        if image is not None:
            _paste(canvas, part.draw_camera(image, cameras[main], record.messages, 2.0), 8, 8, _PANEL_X - 24, 448)
    others = [name for name in cameras if name != main and record.frames.get(name)]
    width = (_PANEL_X - 32) // max(2, len(others))
    for i, name in enumerate(sorted(others)):
        image = record.image(name)
        if image is not None:
            drawn = part.draw_camera(image, cameras[name], record.messages, 1.5)
            _paste(canvas, drawn, 8 + i * (width + 8), 464, width, 116)
            draw_text(canvas, name.replace("camera_", ""), (14 + i * (width + 8), 480), (220, 220, 220), 0.45)
    canvas[: HEIGHT - 64, _PANEL_X:] = part.draw_top(record.messages, WIDTH - _PANEL_X, HEIGHT - 64)
    _instruments(canvas, record, part, title)
    return canvas


def _paste(canvas: np.ndarray, image: np.ndarray, x: int, y: int, width: int, height: int) -> None:
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    canvas[y : y + image.shape[0], x : x + image.shape[1]] = image


def _instruments(canvas: np.ndarray, record: TickRecord, part: ReportPart, title: str) -> None:
    messages = record.messages
    y = HEIGHT - 34
    command, wish, truth = (messages.get(s) for s in ("command", "policy_command", "truth"))
    texts = [f"{record.tick * 0.1:5.1f} s", *part.instruments(messages)]
    if isinstance(truth, Truth) and truth.end:
        texts.append(truth.end.upper())
    draw_text(canvas, "   ".join(texts), (12, y), (235, 235, 235), 0.6)
    draw_text(canvas, title, (12, HEIGHT - 12), (150, 160, 170), 0.42)
    if isinstance(command, Command) and command.causes:
        draw_text(canvas, "GUARD: " + ", ".join(command.causes), (_PANEL_X + 12, y), (80, 120, 255), 0.55)
    elif isinstance(wish, PolicyCommand) and not wish.header.valid:
        draw_text(canvas, "policy not valid", (_PANEL_X + 12, y), (80, 120, 255), 0.55)


class VideoFile:
    """VP9 in MP4 by OpenCV's own encoder; needs no ffmpeg on the machine."""

    def __init__(self, path: Path, rate_hz: float = FRAME_RATE_HZ) -> None:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"vp09"), rate_hz, (VIDEO_WIDTH, VIDEO_HEIGHT))
        if not self._writer.isOpened():
            raise RuntimeError(f"{path}: OpenCV {cv2.__version__} cannot write VP9 in MP4")

    def write(self, frame: np.ndarray) -> None:
        """Append one frame [640, 1280, 3] BGR."""
        self._writer.write(cv2.resize(frame, (VIDEO_WIDTH, VIDEO_HEIGHT), interpolation=cv2.INTER_AREA))

    def close(self) -> None:
        """Finish the file."""
        self._writer.release()


def write_video(
    path: Path,
    captures: Sequence[EpisodeCapture],
    cameras: Mapping[str, CameraModel],
    part: ReportPart,
    title: str = "",
) -> None:
    """All episodes one after the other."""
    video = VideoFile(path)
    try:
        for capture in captures:
            for record in capture.ticks[::TICK_STRIDE]:
                video.write(compose(record, cameras, part, f"{title}  seed {capture.seed}".strip()))
    finally:
        video.close()
