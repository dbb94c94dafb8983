"""Futures of perceived tracks in batches of worlds: what the environment asks for, and constant velocity."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from visuomotor.sim.track_errors import PerceivedTracks

STEPS = 15  # of driving
STEP_S = 0.2


class BatchForecaster(Protocol):
    """Forecasts for B worlds with N track slots; the learned one is ``control.train.forecasting``."""

    def reset(self, index: int) -> None:
        """Forget one world."""

    def update(self, tracks: PerceivedTracks, fresh: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Positions in ``odom_`` [B, N, K, T, 2] and probabilities [B, N, K].

        One tick of every world, or, with the mask ``fresh`` [B], the first tick of the worlds that were just reset.
        """
        ...


class ConstantVelocityFutures:
    """One future per track: on with the tracker's velocity. Keeps no state."""

    def __init__(self, steps: int = STEPS, step_s: float = STEP_S) -> None:
        self._ahead_s = (np.arange(steps, dtype=np.float32) + 1.0) * step_s

    def reset(self, index: int) -> None:
        """Nothing to forget."""

    def update(self, tracks: PerceivedTracks, fresh: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """See ``BatchForecaster``; K = 1."""
        position = tracks.position_m[:, :, None, None].astype(np.float32)
        velocity = tracks.velocity_mps[:, :, None, None].astype(np.float32)
        futures = position + velocity * self._ahead_s[:, None]
        return futures, tracks.present[..., None].astype(np.float32)
