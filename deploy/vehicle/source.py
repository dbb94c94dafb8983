"""Frames from a video file, a camera or a network stream, at the source's own rate, every one of them counted."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import cv2
import msgspec
import numpy as np

from visuomotor.deploy.vehicle.capture import (
    READ_TIMEOUT_MS,
    CameraError,
    SourceSettings,
    capture_time,
    check_size,
    open_capture,
    quiet,
)

SILENCE_S = 0.5  # a live source that delivers nothing for so long is opened anew
BACKOFF_S, BACKOFF_MAX_S = 0.25, 4.0
LATE_S = 0.01  # a frame may come so much later than expected and is still waited for
SMOOTHING = 0.2  # weight of the newest interval between frames
WHOLE_SHARE = 0.95  # of the declared frames: headers count a few that no decoder gives
KEPT = 4  # newest frames among which the one nearest to another camera's is chosen


class Frame(msgspec.Struct, frozen=True):
    """One image, BGR uint8 [H, W, 3], and when it was taken on the monotonic clock."""

    index: int
    t_capture_ns: int
    image: np.ndarray


class Counts(msgspec.Struct):
    """What became of the frames. ``read`` = ``taken`` + ``between`` + those that may still be asked for."""

    read: int = 0
    taken: int = 0
    between: int = 0  # newer ones came before the reader asked: the source is faster than the graph's 10 Hz
    stamped: int = 0  # by the driver, not at the grab
    reconnects: int = 0


class VideoSource:
    """Plays a source in a thread of its own and keeps the newest frames.

    A file is played at its recorded rate, whatever the reader does, as a camera would; its end sets ``ended``. A live
    source that breaks off or falls silent is opened anew, with growing pauses, for as long as it takes; ``silent_s``
    tells how long nothing has come. One that ``may_fail`` need not open at first, either.
    """

    def __init__(
        self, settings: SourceSettings, prepare: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray
    ) -> None:
        self.settings = settings
        self.name = settings.device
        self.is_file = settings.is_file
        self.counts = Counts()
        self.ended = False
        self._prepare = prepare
        self._capture: cv2.VideoCapture | None = None
        try:
            with quiet():
                self._capture = open_capture(settings)
        except CameraError:
            if not settings.may_fail or self.is_file:
                raise
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS) if self._capture is not None else 0.0
        self.rate_hz = rate_hz if np.isfinite(rate_hz) and 1.0 <= rate_hz <= 240.0 else 30.0
        self.frames_declared = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if self._capture is not None and self.is_file else 0
        )
        self._kept: deque[Frame] = deque()
        self._heard_ns = 0
        self._interval_s = 1.0 / self.rate_hz  # between frames, as they come
        self._error: Exception | None = None
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, name=f"camera {self.name}", daemon=True)

    def start(self) -> None:
        """Begin to play."""
        self._started_ns = self._heard_ns = time.monotonic_ns()
        self._thread.start()

    def forget(self) -> None:
        """Drop what came so far, and its counts."""
        with self._arrived:
            self._kept.clear()
            self.counts = Counts()

    def wait(self, limit_s: float) -> bool:
        """Wait for a frame that was not taken yet; whether there is one."""
        with self._arrived:
            self._arrived.wait_for(lambda: bool(self._kept) or self.ended or self._error is not None, limit_s)
            return bool(self._kept)

    def wait_for_newer(self, limit_s: float) -> None:
        """Wait for the frame that is due next where that is within ``limit_s``: it is worth more than the one kept."""
        with self._arrived:
            known, due_s = self._kept[-1] if self._kept else None, self._interval_s - self.silent_s
            if known is not None and due_s > limit_s:
                return

            def newer() -> bool:
                return bool(self._kept) and self._kept[-1] is not known

            patience_s = limit_s if known is None else min(limit_s, due_s + LATE_S)
            self._arrived.wait_for(lambda: newer() or self.ended or self._error is not None, max(0.0, patience_s))

    def take(self, wait_s: float = 0.0) -> Frame | None:
        """The newest frame that was not taken yet, or None. ``wait_s``: for how long to wait for one."""
        with self._arrived:
            self.wait(wait_s)
            return self._take(len(self._kept) - 1)

    def take_nearest(self, t_ns: int, within_s: float, wait_s: float = 0.0) -> Frame | None:
        """The frame captured nearest to ``t_ns`` of those not taken yet, or None when none is within ``within_s``.

        ``wait_s``: for how long to wait for one that is twice as near.
        """

        def distances() -> list[float]:
            return [abs(frame.t_capture_ns - t_ns) * 1e-9 for frame in self._kept]

        def enough() -> bool:
            return min(distances(), default=math.inf) <= 0.5 * within_s or self.ended or self._error is not None

        with self._arrived:
            self._arrived.wait_for(enough, wait_s)
            found = distances()
            return self._take(found.index(min(found)) if found and min(found) <= within_s else -1)

    def _take(self, position: int) -> Frame | None:
        """Hand out the kept frame at ``position``; those before it are skipped. -1: there is none."""
        if self._error is not None:
            raise self._error
        if position < 0:
            return None
        for _ in range(position):
            self._kept.popleft()
        self.counts.between += position
        self.counts.taken += 1
        return self._kept.popleft()

    @property
    def silent_s(self) -> float:
        """Time since the last frame, or since the start."""
        return (time.monotonic_ns() - self._heard_ns) * 1e-9

    @property
    def exhausted(self) -> bool:
        """Whether the source has ended and its last frame was taken."""
        return self.ended and not self._kept

    @property
    def ended_early(self) -> bool:
        """Whether a file has ended well before the last frame that its header declares: it was not copied whole."""
        played = self.is_file and self.ended and not self._stop.is_set()
        return played and self.counts.read < WHOLE_SHARE * self.frames_declared

    def close(self) -> None:
        """Stop playing; the thread releases the device."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0 * READ_TIMEOUT_MS * 1e-3)  # one that is still opening ends with the process
        elif self._capture is not None:
            self._capture.release()

    def _play(self) -> None:
        try:
            for frame in self._frames():
                with self._arrived:
                    self.counts.read += 1
                    if len(self._kept) == KEPT:
                        self._kept.popleft()
                        self.counts.between += 1
                    self._kept.append(frame)
                    self._interval_s += SMOOTHING * (min(self.silent_s, SILENCE_S) - self._interval_s)
                    self._heard_ns = time.monotonic_ns()
                    self._arrived.notify_all()
        except Exception as error:  # handed to the reader by take(), which raises it in the node's own thread
            self._error = error
        finally:
            if self._capture is not None:
                self._capture.release()
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
            frame = self._grab(index)
            if frame is not None:
                yield frame
                index, silent_since_ns = index + 1, time.monotonic_ns()
            elif self.is_file:
                return
            elif self._capture is None or (time.monotonic_ns() - silent_since_ns) * 1e-9 > SILENCE_S:
                self._open_anew()
                silent_since_ns = time.monotonic_ns()
            else:
                self._stop.wait(0.01)

    def _grab(self, index: int) -> Frame | None:
        capture = self._capture
        if capture is None or not capture.grab():
            return None
        t_ns, of_driver = capture_time(capture, time.monotonic_ns())  # decoding comes after
        ok, image = capture.retrieve()
        if not ok or image is None:
            return None
        if index == 0:
            check_size(self.settings, image)
        self.counts.stamped += of_driver
        return Frame(index, t_ns - round(self.settings.latency_s * 1e9), self._prepare(image))

    def _open_anew(self) -> None:
        pause_s = BACKOFF_S
        if self._capture is not None:
            self._capture.release()
            self._capture = None
        while not self._stop.wait(pause_s):
            try:
                self._capture = open_capture(self.settings)
            except CameraError:
                pause_s = min(2.0 * pause_s, BACKOFF_MAX_S)
                continue
            self.counts.reconnects += 1
            return
