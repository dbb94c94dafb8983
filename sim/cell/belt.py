"""The belt's programme: its speed over time, in ramps, and how far it has run."""

from __future__ import annotations

import msgspec
import numpy as np

SPEED_MAX_MPS = 0.30
RAMP_MPS2 = 0.5  # the drive's acceleration


class BeltProgram(msgspec.Struct, frozen=True, kw_only=True):
    """Speed (m/s towards -y) at instants (s), linear between them, constant before the first and after the last."""

    time_s: tuple[float, ...] = (0.0,)
    speed_mps: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        """Raise ValueError that names what is wrong with the instants or the speeds."""
        if len(self.time_s) != len(self.speed_mps) or not self.time_s:
            raise ValueError(f"expected as many speeds as instants, got {len(self.speed_mps)} and {len(self.time_s)}")
        if any(later <= earlier for earlier, later in zip(self.time_s, self.time_s[1:], strict=False)):
            raise ValueError(f"time_s: expected ascending instants, got {self.time_s}")
        if not all(0.0 <= speed <= SPEED_MAX_MPS for speed in self.speed_mps):
            raise ValueError(f"speed_mps: expected 0..{SPEED_MAX_MPS}, got {self.speed_mps}")

    def speed(self, time_s: np.ndarray | float) -> np.ndarray:
        """Speed at some instants, m/s."""
        return np.asarray(np.interp(time_s, self.time_s, self.speed_mps))

    def travel(self, time_s: np.ndarray | float) -> np.ndarray:
        """How far the belt has run from time 0 to some instants (>= 0), m."""
        ends = np.array([0.0, *[t for t in self.time_s if t > 0.0]])
        speeds = self.speed(ends)
        run = np.concatenate([[0.0], np.cumsum(0.5 * (speeds[1:] + speeds[:-1]) * np.diff(ends))])
        time = np.asarray(time_s, np.float64)
        piece = np.clip(np.searchsorted(ends, time, side="right") - 1, 0, len(ends) - 1)
        return run[piece] + 0.5 * (speeds[piece] + self.speed(time)) * (time - ends[piece])

    @property
    def varies(self) -> bool:
        """Whether the belt does not keep one speed."""
        return len(set(self.speed_mps)) > 1
