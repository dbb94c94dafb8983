"""The forecaster as a node: tracks in, forecasts out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import Episode, Forecast, Header, Message, Tracks
from visuomotor.perception.forecaster import Forecaster
from visuomotor.perception.history import TrackHistory, ticks_per_sample

TICK_S = 0.1


class ForecasterNode:
    """Keeps the history of every track and runs a ``Forecaster`` once per tracks message.

    Without a forecaster it publishes zero futures (K = 0) for every track.
    """

    name = "forecaster"
    inputs = (Input("tracks", trigger=True),)
    outputs = ("forecast",)
    period_s: float | None = None

    def __init__(self, forecaster: Forecaster | None) -> None:
        self._forecaster = forecaster
        self.provider: str = getattr(forecaster, "provider", "")
        if forecaster is None:
            self._history = TrackHistory()
        else:
            stride = ticks_per_sample(forecaster.step_s)
            self._history = TrackHistory(
                samples=forecaster.history_samples,
                stride=stride,
                observed_within_s=forecaster.observed_within_s,
            )
        self._last_t_ns: int | None = None

    def warm_up(self) -> None:
        """Predict once, so that the first step is as fast as the rest."""
        if self._forecaster is None:
            return
        samples = self._forecaster.history_samples
        self._forecaster.predict(
            np.zeros((2, samples, 2)), np.ones((2, samples), bool), np.zeros(2, int), np.zeros(2, int)
        )

    def reset(self, episode: Episode) -> None:
        """Forget all histories."""
        self._history.reset()
        self._last_t_ns = None

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """Forecast of this tick's tracks, in their order; valid when the tracks are."""
        tracks = inputs.get_message("tracks", Tracks)
        if tracks is None:
            return {}
        t_ns = tracks.header.t_capture_ns or tick.t_ns
        for _ in range(self._missed_ticks(t_ns)):  # realtime may drop ticks: the time grid must not shrink
            self._history.skip()
        self._last_t_ns = t_ns
        history, observed = self._history.update(tracks.track_id, tracks.odom_position_m, tracks.unseen_s)
        return {"forecast": self._predict(tracks, history, observed)}

    def _missed_ticks(self, t_ns: int) -> int:
        if self._last_t_ns is None:
            return 0
        return max(0, min(round((t_ns - self._last_t_ns) * 1e-9 / TICK_S) - 1, self._history.length))

    def _predict(self, tracks: Tracks, history: np.ndarray, observed: np.ndarray) -> Forecast:
        count = len(tracks.track_id)
        header = Header(valid=tracks.header.valid)
        if self._forecaster is None:
            return Forecast(
                header=header,
                track_id=tracks.track_id,
                probability=np.zeros((count, 0), np.float32),
                odom_position_m=np.zeros((count, 0, 0, 2), np.float32),
                spread_m=np.zeros((count, 0, 0, 3), np.float32),
            )
        futures = self._forecaster.predict(history, observed, tracks.class_id, np.zeros(count, np.int64))
        return Forecast(
            header=header,
            step_s=self._forecaster.step_s,
            track_id=tracks.track_id,
            probability=np.ascontiguousarray(futures.probability, np.float32),
            odom_position_m=np.ascontiguousarray(futures.position_m, np.float32),
            spread_m=np.ascontiguousarray(futures.spread_m, np.float32),
        )

    def close(self) -> None:
        """Nothing to release."""
