"""Whether a camera still shows the world: a picture that stands still while the robot moves, and one that is dark."""

from __future__ import annotations

import numpy as np

STRIDE = 8  # of the pixels that are looked at first
FRAMES = 3  # in a row, until it counts: 0.3 s at 10 Hz, as long as a message may be old
MOVING_MPS = 1.0  # of the slowest robot that must change its picture; a rendered one that stands need not
DARK_MEAN, DARK_SPREAD = 12.0, 6.0  # of 255: a night street is as dark on the whole, but has lamps and markings in it
BLANK_SPREAD = 1.0  # whatever its brightness, such a picture shows nothing; a sensor's noise alone is more


class CameraHealth:
    """Judges the frames of one camera, in their order. ``fault`` is "" or what is wrong.

    A stuck picture is known by identical pixels while the robot says that it moves, and stays one, also at rest,
    until a pixel changes: so a robot that it has stopped does not start again on it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self.fault = ""
        self._last: np.ndarray | None = None
        self._same = 0
        self._dark = 0

    def look(self, image: np.ndarray, speed_mps: float) -> str:
        """Take in a frame, uint8 [H, W, 3], and the speed of what moves in it; returns ``fault``."""
        few = image[::STRIDE, ::STRIDE]
        if self._last is None or not _same(image, few, self._last):
            self._same = 0
        elif abs(speed_mps) >= MOVING_MPS or self._same >= FRAMES:
            self._same += 1
        self._last = image
        self._dark = self._dark + 1 if _is_dark(few) else 0
        if self._dark >= FRAMES:
            self.fault = "is dark: its frames show nothing"
        elif self._same >= FRAMES:
            self.fault = "is stuck: its frames do not change, though the robot moves"
        else:
            self.fault = ""
        return self.fault


def _same(image: np.ndarray, few: np.ndarray, last: np.ndarray) -> bool:
    if image.shape != last.shape or not np.array_equal(few, last[::STRIDE, ::STRIDE]):
        return False  # by far the most frames end here
    return np.array_equal(image, last)


def _is_dark(few: np.ndarray) -> bool:
    spread = float(few.std())
    return spread < BLANK_SPREAD or (spread < DARK_SPREAD and float(few.mean()) < DARK_MEAN)
