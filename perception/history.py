"""Ring buffers of track positions on the forecaster's time grid, for one graph and for batches of training worlds."""

from __future__ import annotations

import numpy as np

from visuomotor.messages.services import CONTROL_RATE_HZ
from visuomotor.messages.tasks import DEFAULT_TASK, get_task

_USUAL = get_task(DEFAULT_TASK)


def ticks_per_sample(step_s: float) -> int:
    """Ticks from one sample of a history to the next. Raises ValueError when that is no whole number."""
    ticks = round(step_s * CONTROL_RATE_HZ)
    if ticks < 1 or abs(ticks - step_s * CONTROL_RATE_HZ) > 1e-6:
        raise ValueError(f"step_s: expected a multiple of {1 / CONTROL_RATE_HZ:g} s, got {step_s}")
    return ticks


class SlotHistory:
    """Positions of B x N track slots over the last ticks; a slot whose track id changes starts anew.

    Call ``update`` once per tick; ``samples`` then gives what ``Forecaster.predict`` takes, reshaped to [B * N].
    """

    def __init__(
        self,
        worlds: int,
        slots: int,
        *,
        samples: int | None = None,
        stride: int | None = None,
        observed_within_s: float = _USUAL.observed_within_s,
    ) -> None:
        samples, stride = samples or _USUAL.history_samples, stride or ticks_per_sample(_USUAL.forecast_step_s)
        self._stride = stride
        self._observed_within_s = observed_within_s
        self._length = (samples - 1) * stride + 1
        self._position_m = np.zeros((self._length, worlds, slots, 2), np.float32)
        self._observed = np.zeros((self._length, worlds, slots), bool)
        self._id = np.full((worlds, slots), -1, np.int64)
        self._head = 0
        self._order = np.arange(-(samples - 1) * stride, 1, stride)

    def reset(self, worlds: np.ndarray | slice = slice(None)) -> None:
        """Forget the histories of the worlds selected by a mask, an index array or a slice."""
        self._observed[:, worlds] = False
        self._id[worlds] = -1

    def update(self, present: np.ndarray, track_id: np.ndarray, position_m: np.ndarray, unseen_s: np.ndarray) -> None:
        """Append one tick: present [B, N] bool, track_id [B, N], position_m [B, N, 2] odom, unseen_s [B, N].

        Positions that were only extrapolated (``unseen_s`` above ``observed_within_s``) are kept as unobserved.
        """
        self._head = (self._head + 1) % self._length
        ids = np.where(present, track_id, -1)
        changed = ids != self._id
        if changed.any():
            self._observed[:, changed] = False
            self._id = ids
        self._position_m[self._head] = position_m
        self._observed[self._head] = present & (unseen_s <= self._observed_within_s)

    def skip(self) -> None:
        """Let one tick pass without observations, e.g. one that a realtime graph dropped."""
        self._head = (self._head + 1) % self._length
        self._observed[self._head] = False

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """History [B, N, H, 2] and its observed mask [B, N, H], newest last.

        The newest sample of a present track always counts as observed: it is the tracker's estimate of now.
        """
        index = (self._head + self._order) % self._length
        history = np.moveaxis(self._position_m[index], 0, 2)
        observed = np.moveaxis(self._observed[index], 0, 2)
        observed[:, :, -1] = self._id >= 0
        return history, observed


class TrackHistory:
    """Histories by track id for one graph: maps ids to slots of a ``SlotHistory`` of one world."""

    def __init__(
        self,
        capacity: int = 128,
        *,
        samples: int | None = None,
        stride: int | None = None,
        observed_within_s: float = _USUAL.observed_within_s,
    ) -> None:
        samples, stride = samples or _USUAL.history_samples, stride or ticks_per_sample(_USUAL.forecast_step_s)
        self._slots = SlotHistory(1, capacity, samples=samples, stride=stride, observed_within_s=observed_within_s)
        self._capacity = capacity
        self.length = (samples - 1) * stride + 1
        self._slot_of: dict[int, int] = {}

    def reset(self) -> None:
        """Forget everything."""
        self._slots.reset()
        self._slot_of.clear()

    def skip(self) -> None:
        """Let one tick pass without observations."""
        self._slots.skip()

    def update(
        self, track_id: np.ndarray, position_m: np.ndarray, unseen_s: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Append one tick of A tracks; returns history [A, H, 2] and its observed mask [A, H] in the order given.

        Raises ValueError when there are more tracks than slots.
        """
        ids = [int(i) for i in track_id]
        if len(ids) > self._capacity:
            raise ValueError(f"{len(ids)} tracks: the history holds {self._capacity}")
        kept = {i: self._slot_of[i] for i in ids if i in self._slot_of}
        free = iter(sorted(set(range(self._capacity)) - set(kept.values())))
        for i in ids:
            if i not in kept:
                kept[i] = next(free)
        self._slot_of = kept
        slots = np.array([kept[i] for i in ids], np.int64)
        present = np.zeros((1, self._capacity), bool)
        id_row = np.full((1, self._capacity), -1, np.int64)
        position = np.zeros((1, self._capacity, 2), np.float32)
        unseen = np.zeros((1, self._capacity), np.float32)
        present[0, slots] = True
        id_row[0, slots] = track_id
        position[0, slots] = position_m
        unseen[0, slots] = unseen_s
        self._slots.update(present, id_row, position, unseen)
        history, observed = self._slots.samples()
        return history[0, slots], observed[0, slots]
