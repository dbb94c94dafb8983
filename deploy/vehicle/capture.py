"""What OpenCV opens: a V4L2 device, a video file or a network stream, with its options and the time of each frame."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 1000
STAMP_AGE_MAX_S = 1.0  # a driver's stamp that is older, or of the future, is of another clock
EXPECTED = "expected a video file, a camera index, a device (/dev/video0) or an address (rtsp://..., http://...)"


class CameraError(ValueError):
    """A camera that does not open or stopped delivering; names the source and what was expected."""


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where frames come from.

    ``device``: file, index, device or address. Width, height, rate, fourcc and the driver's number of buffers are asked
    of V4L2 devices; a network stream and a file have their own. ``latency_s``: known time from exposure to the grab
    beyond the driver's stamp, taken off each stamp. ``may_fail``: a run goes on when this one falls silent.
    """

    device: str
    width: int | None = None
    height: int | None = None
    rate_hz: float | None = None
    fourcc: str | None = None
    buffers: int | None = None
    latency_s: float = 0.0
    may_fail: bool = False

    @property
    def is_file(self) -> bool:
        """Whether it is a video file, which has an end and is played at its own rate."""
        return not self.device.isdecimal() and "://" not in self.device and not self.device.startswith("/dev/")


def open_capture(source: SourceSettings) -> cv2.VideoCapture:
    """Open a source with its options. Raises CameraError that says what to do."""
    device = source.device
    if source.is_file and not Path(device).is_file():
        found = "a folder" if Path(device).is_dir() else "no such file"
        raise CameraError(f"camera {device}: {found}; {EXPECTED}")
    if device.startswith("/dev/") and not Path(device).exists():
        raise CameraError(f"camera {device}: no such device; is it plugged in? {_list_devices()}")
    if device.isdecimal() or device.startswith("/dev/"):
        capture = cv2.VideoCapture(int(device) if device.isdecimal() else device, cv2.CAP_V4L2, _wishes(source))
    else:
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
        # decoding in several threads holds back as many frames
        capture = cv2.VideoCapture(device, cv2.CAP_FFMPEG, [*timeouts, cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise CameraError(f"camera {device}: does not open; {EXPECTED}")
    return capture


def _list_devices() -> str:
    found = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"there is {', '.join(found)}" if found else "there is no /dev/video*"


def _wishes(source: SourceSettings) -> list[int]:
    wishes: list[int] = []
    if source.fourcc is not None:  # first: which sizes and rates there are depends on it
        wishes += [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*source.fourcc)]
    for key, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, source.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, source.height),
        (cv2.CAP_PROP_FPS, source.rate_hz),
        (cv2.CAP_PROP_BUFFERSIZE, source.buffers),
    ):
        if value is not None:
            wishes += [key, round(value)]
    return wishes


def check_size(source: SourceSettings, image: np.ndarray) -> None:
    """Raise CameraError when a frame has not the size that was asked for."""
    height, width = image.shape[:2]
    if width != (source.width or width) or height != (source.height or height):
        raise CameraError(
            f"camera {source.device}: gives {width}x{height}, not {source.width or width}x{source.height or height}; "
            "expected a size that it has (v4l2-ctl --list-formats-ext)"
        )


def capture_time(capture: cv2.VideoCapture, grabbed_ns: int) -> tuple[int, bool]:
    """When the frame just grabbed was taken, on the monotonic clock, and whether the driver said so.

    V4L2 stamps its buffers on that clock and OpenCV hands the stamp on as CAP_PROP_POS_MSEC. For files and streams the
    same property is a position in the stream, for MJPEG an invented one: there the time of the grab counts.
    """
    if capture.getBackendName() != "V4L2":
        return grabbed_ns, False
    return choose_stamp(grabbed_ns, capture.get(cv2.CAP_PROP_POS_MSEC))


def choose_stamp(grabbed_ns: int, driver_ms: float) -> tuple[int, bool]:
    """The driver's stamp where it can be of this clock, else the time of the grab."""
    stamp_ns = round(driver_ms * 1e6) if np.isfinite(driver_ms) else 0
    believed = 0 <= grabbed_ns - stamp_ns <= STAMP_AGE_MAX_S * 1e9
    return (stamp_ns, True) if believed else (grabbed_ns, False)


def check_source(source: SourceSettings) -> None:
    """Open the source, read one frame, close it. Raises CameraError when that fails."""
    capture = open_capture(source)
    try:
        ok, image = capture.read()
        if not ok:
            raise CameraError(f"camera {source.device}: opens but delivers no frame; {EXPECTED}")
        check_size(source, image)
    finally:
        capture.release()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """OpenCV's back ends complain on the process's stderr; our own message says it better."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
