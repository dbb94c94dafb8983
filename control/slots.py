"""Tracks and their forecasts in a fixed number of slots, as the inputs of a policy hold them (one robot, B = 1)."""

from __future__ import annotations

import numpy as np

from visuomotor.messages.schema import Forecast, Tracks


class TrackSlots:
    """The ``count`` tracks nearest to a place in slots of their own, in the order in which they are published."""

    def __init__(self, tracks: Tracks | None, here_m: np.ndarray, count: int) -> None:
        self.count = count
        self._tracks = tracks
        self._keep = np.array([], np.intp) if tracks is None else find_nearest(tracks.odom_position_m, here_m, count)

    @property
    def present(self) -> np.ndarray:
        """Which slots hold a track, bool [1, N]."""
        return np.arange(self.count)[None] < len(self._keep)

    def fill(self, field: str, *tail: int, dtype: type = np.float32) -> np.ndarray:
        """A field of the tracks, [1, N, *tail]; zeros in empty slots."""
        out: np.ndarray = np.zeros((1, self.count, *tail), dtype)
        if self._tracks is not None:
            out[:, : len(self._keep)] = getattr(self._tracks, field)[self._keep]
        return out

    def match(self, forecast: Forecast | None) -> tuple[np.ndarray, np.ndarray]:
        """Futures [1, N, K, T, 2] and probabilities [1, N, K] by the tracks' ids; K = 0 without a forecast.

        A track without one is forecast to stand where it is, with probability zero.
        """
        if forecast is None or forecast.probability.shape[1] == 0:
            return np.empty((1, self.count, 0, 0, 2), np.float32), np.empty((1, self.count, 0), np.float32)
        _, k, steps, _ = forecast.odom_position_m.shape
        out = np.zeros((1, self.count, k, steps, 2), np.float32)
        probability = np.zeros((1, self.count, k), np.float32)
        row = {int(track): index for index, track in enumerate(forecast.track_id)}
        (ids,), (places,) = self.fill("track_id", dtype=np.int64), self.fill("odom_position_m", 2)
        for slot, track in enumerate(ids[: len(self._keep)]):
            index = row.get(int(track))
            if index is None:
                out[:, slot] = places[slot]
            else:
                out[:, slot] = forecast.odom_position_m[index]
                probability[:, slot] = forecast.probability[index]
        return out, probability


def find_nearest(position_m: np.ndarray, here_m: np.ndarray, count: int) -> np.ndarray:
    """Rows of the at most ``count`` nearest positions, in the order they are in; of equally near ones the first."""
    away = ((np.asarray(position_m, np.float32) - here_m) ** 2).sum(axis=1)
    return np.sort(np.lexsort((away,))[:count])
