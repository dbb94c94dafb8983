"""Which detections belong together and to which track: gates, class compatibility, optimal assignment."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from visuomotor.messages.schema import CAR, CLASS_NAMES, CONE, CYCLIST, PEDESTRIAN, TRUCK

GATE_SQUARE = 11.8  # chi-square, 2 degrees of freedom, 0.9973: reports of one object
TRACK_GATE_SQUARE = 16.0  # 0.9997: a detection lost to its track begins another beside it
FORBIDDEN = 1e6
# Cost, in units of squared sigma, of matching a track of one class with a detection of another.
CLASS_COST = np.full((len(CLASS_NAMES), len(CLASS_NAMES)), FORBIDDEN)
np.fill_diagonal(CLASS_COST, 0.0)
for _a, _b, _cost in ((CAR, TRUCK, 2.0), (CYCLIST, PEDESTRIAN, 2.0), (PEDESTRIAN, CONE, 5.0), (CAR, CYCLIST, 5.0)):
    CLASS_COST[_a, _b] = CLASS_COST[_b, _a] = _cost
# Two reports closer than this (m) can be one object, whatever their covariances say.
MERGE_RADIUS_M = np.array([1.6, 2.2, 0.9, 0.5, 0.3])


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
) -> np.ndarray:
    """Group [N] of each detection: the index of the strongest report of the same object, itself when alone.

    Only reports of different cameras are joined, at most one of each camera: suppression within one is the detector's.
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
    radius = np.maximum(MERGE_RADIUS_M[class_id][:, None], MERGE_RADIUS_M[class_id][None])
    distance = np.hypot(delta[..., 0], delta[..., 1])
    same = (square < GATE_SQUARE) & (distance < 3 * radius) | (distance < radius)
    same &= (camera_index[:, None] != camera_index[None]) & (CLASS_COST[class_id[:, None], class_id[None]] < FORBIDDEN)
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
