"""Which detections belong together and to which track: gates, class compatibility, optimal assignment."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from visuomotor.perception.motion import FORBIDDEN, MotionModel

GATE_SQUARE = 11.8  # chi-square, 2 degrees of freedom, 0.9973: reports of one object
TRACK_GATE_SQUARE = 16.0  # 0.9997: a detection lost to its track begins another beside it
MANOEUVRE_SQUARE = 6.0  # 0.95: what is seen so far from where it should be, was it going on as before, is not


def class_costs(motion: MotionModel) -> np.ndarray:
    """Cost [C, C], in units of squared sigma, of matching a track of one class with a detection of another."""
    cost = np.full((motion.class_count, motion.class_count), motion.confusion)
    np.fill_diagonal(cost, 0.0)
    for a, b, value in motion.confusions:
        cost[a, b] = cost[b, a] = value
    return cost


def assign(cost: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest one-to-one assignment whose every pair costs less than ``limit``."""
    if cost.size == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty
    rows, columns = linear_sum_assignment(np.minimum(cost, limit))
    keep = cost[rows, columns] < limit
    return rows[keep], columns[keep]


def merge_groups(
    position_m: np.ndarray,
    covariance_m2: np.ndarray,
    class_id: np.ndarray,
    score: np.ndarray,
    camera_index: np.ndarray,
    costs: np.ndarray,
    merge_radius_m: np.ndarray,
) -> np.ndarray:
    """Group [N] of each detection: the index of the strongest report of the same object, itself when alone.

    Only reports of different cameras are joined, at most one of each camera: suppression within one is the detector's.
    ``costs`` are those of ``class_costs``, ``merge_radius_m`` [C] those of the motion model.
    """
    count = len(score)
    group = np.arange(count)
    if count < 2 or (camera_index == camera_index[0]).all():
        return group
    delta = position_m[:, None] - position_m[None]
    spread = covariance_m2[:, None] + covariance_m2[None]
    determinant = np.maximum(spread[..., 0, 0] * spread[..., 1, 1] - spread[..., 0, 1] ** 2, 1e-12)
    square = (
        spread[..., 1, 1] * delta[..., 0] ** 2
        - 2 * spread[..., 0, 1] * delta[..., 0] * delta[..., 1]
        + spread[..., 0, 0] * delta[..., 1] ** 2
    ) / determinant
    radius = np.maximum(merge_radius_m[class_id][:, None], merge_radius_m[class_id][None])
    distance = np.hypot(delta[..., 0], delta[..., 1])
    same = (square < GATE_SQUARE) & (distance < 3 * radius) | (distance < radius)
    same &= (camera_index[:, None] != camera_index[None]) & (costs[class_id[:, None], class_id[None]] < FORBIDDEN)
    if not same.any():
        return group
    taken = np.zeros(count, bool)
    for lead in np.argsort(-score, kind="stable"):
        if taken[lead]:
            continue
        taken[lead] = True
        cameras = {int(camera_index[lead])}
        for other in np.flatnonzero(same[lead] & ~taken)[np.argsort(distance[lead][same[lead] & ~taken])]:
            if int(camera_index[other]) not in cameras:
                cameras.add(int(camera_index[other]))
                group[other] = lead
                taken[other] = True
    return group
