"""Bad frames on a CAN bus: what a broken sender, a stuck one, a stranger and a babbling one put there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

FLOOD_FRAMES = 100  # before each own one: at 50 frames a second as many as a bus of 500 kbit/s carries
FOREIGN_FRAMES = 5
FOREIGN_IDS = (0x001, 0x2FF, 0x7DF, 0x7FF)  # not in car.dbc; diagnosis among them


class BadFrames:
    """Stands where a link hands frames to the bus. While ``bad``:

    checksum: one bit of each frame is turned; counter: each message repeats the frame that it sent last; foreign:
    frames of other identifiers and frames of its own with a wrong length stand between the good ones; flood: the bus is
    full of frames of the most urgent identifier.
    """

    def __init__(self, transmit: Callable[[Any], None], kind: str) -> None:
        self._transmit = transmit
        self._kind = kind
        self._last: dict[int, Any] = {}
        self._random = np.random.default_rng(0)
        self.bad = False

    def __call__(self, frame: Any) -> None:
        """Send a frame, or what becomes of it."""
        if not self.bad:
            self._last[frame.arbitration_id] = frame
        elif self._kind == "checksum":
            frame = _copy(frame, data=bytes([frame.data[0] ^ 1, *frame.data[1:]]))
        elif self._kind == "counter":
            frame = self._last.setdefault(frame.arbitration_id, frame)
        elif self._kind == "foreign":
            for _ in range(FOREIGN_FRAMES):
                self._transmit(_copy(frame, arbitration_id=int(self._random.choice(FOREIGN_IDS))))
            self._transmit(_copy(frame, data=bytes(frame.data[:-1])))
        else:
            for _ in range(FLOOD_FRAMES):
                self._transmit(_copy(frame, arbitration_id=0, data=self._random.bytes(8)))
        self._transmit(frame)


def _copy(frame: Any, **changes: Any) -> Any:
    fields = {name: getattr(frame, name) for name in ("arbitration_id", "data", "is_extended_id")}
    return type(frame)(**(fields | changes))
