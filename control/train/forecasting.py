"""The real forecaster over the agents of all training worlds, one call per vector step."""

from __future__ import annotations

import numpy as np

from visuomotor.perception.forecaster import Forecaster
from visuomotor.perception.history import SlotHistory, ticks_per_sample
from visuomotor.sim.error_model import PerceivedTracks


class WorldHistory(SlotHistory):
    """A ``SlotHistory`` whose worlds can also begin anew between two ticks."""

    def begin(self, fresh: np.ndarray, tracks: PerceivedTracks) -> None:
        """Write the first tick of the worlds in the mask, which were reset, into the present sample."""
        self.reset(fresh)
        self._id[fresh] = np.where(tracks.present[fresh], tracks.track_id[fresh], -1)
        self._position_m[self._head, fresh] = tracks.position_m[fresh]
        seen = tracks.present & (tracks.unseen_s <= self._observed_within_s)
        self._observed[self._head, fresh] = seen[fresh]


class BatchedForecaster:
    """``sim.forecasts.BatchForecaster`` over one or several ``perception.forecaster.Forecaster``.

    With several, world i is forecast by the one of index ``i % n``, so that a policy learns to live with any of them.
    Raises ValueError when they differ in samples, futures, steps or the time between these.
    """

    def __init__(self, count: int, slots: int, *forecasters: Forecaster) -> None:
        first = forecasters[0]
        shapes = {(f.history_samples, f.futures, f.horizon_steps, f.step_s) for f in forecasters}
        if len(shapes) != 1:
            raise ValueError(f"forecasters must agree in samples, futures, steps and step_s, got {sorted(shapes)}")
        self._forecasters = forecasters
        stride = ticks_per_sample(first.step_s)
        self._history = WorldHistory(
            count,
            slots,
            samples=first.history_samples,
            stride=stride,
            observed_within_s=first.observed_within_s,
        )
        futures, steps = first.futures, first.horizon_steps
        self._futures_m = np.zeros((count, slots, futures, steps, 2), np.float32)
        self._probability = np.zeros((count, slots, futures), np.float32)

    def reset(self, index: int) -> None:
        """Forget one world."""
        self._history.reset(np.array([index]))

    def update(self, tracks: PerceivedTracks, fresh: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """See the protocol; slots without a track keep zeros."""
        if fresh is None:
            self._history.update(tracks.present, tracks.track_id, tracks.position_m, tracks.unseen_s)
            chosen = tracks.present
            self._futures_m, self._probability = np.zeros_like(self._futures_m), np.zeros_like(self._probability)
        else:
            self._history.begin(fresh, tracks)
            chosen = tracks.present & fresh[:, None]
            self._futures_m, self._probability = self._futures_m.copy(), self._probability.copy()
            self._futures_m[fresh], self._probability[fresh] = 0.0, 0.0
        history, observed = self._history.samples()
        turn = np.arange(len(chosen)) % len(self._forecasters)
        for index, forecaster in enumerate(self._forecasters):
            world, slot = np.nonzero(chosen & (turn == index)[:, None])
            if len(world) == 0:
                continue
            result = forecaster.predict(
                history[world, slot], observed[world, slot], tracks.class_id[world, slot], world
            )
            self._futures_m[world, slot] = result.position_m
            self._probability[world, slot] = result.probability
        return self._futures_m, self._probability
