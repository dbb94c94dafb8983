"""Frames from a video file, a camera or a network stream, at the source's own rate, every one of them counted."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np

OPEN_TIMEOUT_MS = 5000
SILENCE_S = 2.0  # a live source that delivers nothing for so long is lost


class CameraError(ValueError):
    """A camera that does not open or stopped delivering; names the source and what was expected."""


class Frame(msgspec.Struct, frozen=True):
    """One image, BGR uint8 [H, W, 3], stamped with the monotonic clock when it was taken."""

    index: int
    t_capture_ns: int
    image: np.ndarray


class Counts(msgspec.Struct):
    """What became of the frames. ``read`` = ``taken`` + ``between`` + at most one that nobody asked for yet."""

    read: int = 0
    taken: int = 0
    between: int = 0  # newer ones came before the reader asked: the source is faster than the graph's 10 Hz


class VideoSource:
    """Plays a source in a thread of its own and keeps the newest frame.

    A file is played at its recorded rate, whatever the reader does, as a camera would; its end sets ``ended``. A live
    source that falls silent for ``SILENCE_S`` makes ``take`` raise CameraError.
    """

    def __init__(self, name: str, prepare: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray) -> None:
        self.name = name
        self.is_file = is_file(name)
        self.counts = Counts()
        self.ended = False
        self._prepare = prepare
        self._capture = _open(name)
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate_hz if np.isfinite(rate_hz) and 1.0 <= rate_hz <= 240.0 else 30.0
        self.frames_declared = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if self.is_file else 0
        self._newest: Frame | None = None
        self._error: Exception | None = None
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name=f"camera {name}", daemon=True)

    def start(self) -> None:
        """Begin to play."""
        self._started_ns = time.monotonic_ns()
        self._thread.start()

    def take(self, wait_s: float = 0.0) -> Frame | None:
        """The newest frame that was not taken yet, or None. ``wait_s``: for how long to wait for one."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._newest is not None or self.ended or self._error is not None, wait_s)
            if self._error is not None:
                raise self._error
            frame, self._newest = self._newest, None
            self.counts.taken += frame is not None
            return frame

    @property
    def exhausted(self) -> bool:
        """Whether the source has ended and its last frame was taken."""
        return self.ended and self._newest is None

    def close(self) -> None:
        """Stop playing and release the device."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(SILENCE_S)
        self._capture.release()

    def _play(self) -> None:
        try:
            for frame in self._frames():
                with self._arrived:
                    self.counts.read += 1
                    self.counts.between += self._newest is not None
                    self._newest = frame
                    self._arrived.notify_all()
        except Exception as error:  # handed to the reader by take(), which raises it in the node's own thread
            self._error = error
        with self._arrived:
            self.ended = True
            self._arrived.notify_all()

    def _frames(self) -> Iterator[Frame]:
        index, silent_since_ns = 0, time.monotonic_ns()
        while not self._stop.is_set():
            if self.is_file:
                due_ns = self._started_ns + round(index * 1e9 / self.rate_hz)
                if self._stop.wait(max(0, due_ns - time.monotonic_ns()) * 1e-9):
                    return
            grabbed = self._capture.grab()
            now_ns = time.monotonic_ns()  # of the exposure's end; decoding comes after
            ok, image = self._capture.retrieve() if grabbed else (False, None)
            if ok and image is not None:
                yield Frame(index, now_ns, self._prepare(image))
                index, silent_since_ns = index + 1, now_ns
            elif self.is_file:
                return
            elif (now_ns - silent_since_ns) * 1e-9 > SILENCE_S:
                raise CameraError(f"camera {self.name}: delivered nothing for {SILENCE_S:.0f} s")
            else:
                self._stop.wait(0.01)


def is_file(name: str) -> bool:
    """Whether a source is a file: neither an index nor an address."""
    return not name.isdecimal() and "://" not in name


def check_source(name: str) -> None:
    """Open the source, read one frame, close it. Raises CameraError when that fails."""
    capture = _open(name)
    try:
        ok, _ = capture.read()
        if not ok:
            raise CameraError(f"camera {name}: opens but delivers no frame")
    finally:
        capture.release()


def _open(name: str) -> cv2.VideoCapture:
    if is_file(name) and not Path(name).is_file():
        raise CameraError(
            f"camera {name}: no such file; expected a video file, a camera index or an address (rtsp://...)"
        )
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, OPEN_TIMEOUT_MS]
    with _quiet():
        if name.isdecimal():
            capture = cv2.VideoCapture(int(name))
        else:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, timeouts)
    if not capture.isOpened():
        raise CameraError(
            f"camera {name}: does not open; expected a video file, a camera index or an address (rtsp://...)"
        )
    return capture


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """OpenCV's back ends complain on the process's stderr; our own message says it better."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
