"""Plain SORT (Bewley, Ge, Ott, Ramos, Upcroft: Simple Online and Realtime Tracking, ICIP 2016), written from the paper.

What our tracker is measured against: boxes in one image, no ground, no score, no class.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from visuomotor.perception.train.tracking_metrics import box_overlap

STATE, MEASURED = 7, 4  # centre x, y, area, aspect ratio; and the speeds of the first three


class Sort:
    """Boxes of one frame in, ids out: -1 for boxes whose track is not yet or no longer believed."""

    def __init__(self, max_age: int = 1, min_hits: int = 3, iou_min: float = 0.3) -> None:
        self._max_age, self._min_hits, self._iou_min = max_age, min_hits, iou_min
        self._move = np.eye(STATE)
        self._move[[0, 1, 2], [4, 5, 6]] = 1.0
        self._process = np.diag([1.0, 1.0, 1.0, 1.0, 1e-2, 1e-2, 1e-4])
        self._noise = np.diag([1.0, 1.0, 10.0, 10.0])
        self.reset()

    def reset(self) -> None:
        """Forget all tracks."""
        self._state = np.zeros((0, STATE))
        self._covariance = np.zeros((0, STATE, STATE))
        self._id = np.zeros(0, np.int64)
        self._streak = np.zeros(0, np.int64)
        self._unseen = np.zeros(0, np.int64)
        self._frame = 0
        self._next_id = 1

    def update(self, box_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [M, 4] of a frame; returns each box's track id [M] (-1: none to report) and filtered boxes [M, 4]."""
        self._frame += 1
        box_px = np.asarray(box_px, np.float64).reshape(-1, 4)
        self._predict()
        rows, columns = self._match(box_px)
        self._unseen += 1
        missed = np.ones(len(self._id), bool)
        missed[rows] = False
        self._streak[missed] = 0
        if len(rows):
            self._correct(rows, _to_measure(box_px[columns]))
            self._unseen[rows] = 0
            self._streak[rows] += 1
        ids = np.full(len(box_px), -1, np.int64)
        filtered = box_px.copy()
        sure = (self._streak[rows] >= self._min_hits) | (self._frame <= self._min_hits)
        ids[columns[sure]] = self._id[rows[sure]]
        filtered[columns] = _to_box(self._state[rows])
        new = np.ones(len(box_px), bool)
        new[columns] = False
        born = self._begin(box_px[new])
        if self._frame <= self._min_hits:
            ids[new] = born
        keep = self._unseen <= self._max_age
        for name in ("_state", "_covariance", "_id", "_streak", "_unseen"):
            setattr(self, name, getattr(self, name)[keep])
        return ids, filtered

    def _predict(self) -> None:
        shrinking = self._state[:, 2] + self._state[:, 6] <= 0
        self._state[shrinking, 6] = 0.0
        self._state = self._state @ self._move.T
        self._covariance = self._move @ self._covariance @ self._move.T + self._process

    def _match(self, box_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(box_px) or not len(self._id):
            empty = np.zeros(0, np.int64)
            return empty, empty
        overlap = box_overlap(_to_box(self._state), box_px)
        rows, columns = linear_sum_assignment(-overlap)
        keep = overlap[rows, columns] >= self._iou_min
        return rows[keep], columns[keep]

    def _correct(self, rows: np.ndarray, measured: np.ndarray) -> None:
        covariance = self._covariance[rows]
        spread = covariance[:, :MEASURED, :MEASURED] + self._noise
        gain = covariance[:, :, :MEASURED] @ np.linalg.inv(spread)
        innovation = measured - self._state[rows, :MEASURED]
        self._state[rows] += (gain @ innovation[:, :, None])[:, :, 0]
        self._covariance[rows] = covariance - gain @ covariance[:, :MEASURED, :]

    def _begin(self, box_px: np.ndarray) -> np.ndarray:
        count = len(box_px)
        ids = np.arange(self._next_id, self._next_id + count)
        self._next_id += count
        state = np.zeros((count, STATE))
        state[:, :MEASURED] = _to_measure(box_px)
        # unknown speeds: the paper starts them at zero with large covariance
        covariance = np.tile(np.diag([10.0] * MEASURED + [1e4] * 3), (count, 1, 1))
        self._state = np.concatenate([self._state, state])
        self._covariance = np.concatenate([self._covariance, covariance])
        self._id = np.concatenate([self._id, ids])
        self._streak = np.concatenate([self._streak, np.zeros(count, np.int64)])
        self._unseen = np.concatenate([self._unseen, np.zeros(count, np.int64)])
        return ids


def _to_measure(box_px: np.ndarray) -> np.ndarray:
    size = np.maximum(box_px[:, 2:] - box_px[:, :2], 1e-3)
    centre = 0.5 * (box_px[:, :2] + box_px[:, 2:])
    return np.stack([centre[:, 0], centre[:, 1], size[:, 0] * size[:, 1], size[:, 0] / size[:, 1]], 1)


def _to_box(state: np.ndarray) -> np.ndarray:
    area, ratio = np.maximum(state[:, 2], 1e-6), np.maximum(state[:, 3], 1e-6)
    width = np.sqrt(area * ratio)
    half = 0.5 * np.stack([width, area / width], 1)
    return np.concatenate([state[:, :2] - half, state[:, :2] + half], 1)
