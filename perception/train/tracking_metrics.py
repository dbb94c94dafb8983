"""Scores of multi-object tracking: CLEAR MOT (Bernardin and Stiefelhagen 2008) and IDF1 (Ristani et al. 2016).

Any notion of nearness will do: every frame brings a matrix of distances between truths and tracks, with NaN where a
pair may not match.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

FORBIDDEN = 1e9


@dataclass
class FrameObjects:
    """One frame: ids of truths [N], ids of tracks [M] and distances [N, M] with NaN where no match is allowed."""

    truth_id: np.ndarray
    track_id: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class TrackingScore:
    """Shares are of 1; ``motp`` is the mean distance of matched pairs."""

    mota: float
    idf1: float
    recall: float
    precision: float
    switches: int
    false_positives: int
    misses: int
    truths: int
    motp: float


def assign_nearest(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the assignment with most matches and then least distance, NaN never matched."""
    if distance.size == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty
    rows, columns = linear_sum_assignment(np.where(np.isfinite(distance), distance, FORBIDDEN))
    keep = np.isfinite(distance[rows, columns])
    return rows[keep], columns[keep]


def score_sequence(frames: list[FrameObjects]) -> TrackingScore:
    """Scores of one sequence. A match of the frame before is kept as long as it is allowed."""
    return pool([count_sequence(frames)])


@dataclass
class TrackingCounts:
    """Sums over one sequence; they add up over sequences."""

    truths: int = 0
    tracks: int = 0
    matches: int = 0
    switches: int = 0
    distance: float = 0.0
    id_matches: int = 0


def count_sequence(frames: list[FrameObjects]) -> TrackingCounts:
    """Counts of one sequence, with the best one-to-one naming of truths by tracks for IDF1."""
    counts = TrackingCounts()
    named: dict[int, int] = {}  # truth -> the track that had it last
    together: dict[tuple[int, int], int] = {}
    for frame in frames:
        counts.truths += len(frame.truth_id)
        counts.tracks += len(frame.track_id)
        distance = frame.distance.copy()
        for i, j in zip(*np.nonzero(np.isfinite(distance)), strict=True):
            key = (int(frame.truth_id[i]), int(frame.track_id[j]))
            together[key] = together.get(key, 0) + 1
        column_of = {int(track): j for j, track in enumerate(frame.track_id)}
        pairs: list[tuple[int, int]] = []
        for i, truth in enumerate(frame.truth_id):
            j = column_of.pop(named.get(int(truth), -1), -1)
            if j >= 0 and np.isfinite(distance[i, j]):
                pairs.append((i, j))
            elif j >= 0:
                column_of[int(frame.track_id[j])] = j  # too far now: another truth may keep it
        for i, j in pairs:
            counts.distance += float(distance[i, j])
        for i, j in pairs:
            distance[i, :] = np.nan
            distance[:, j] = np.nan
        for i, j in zip(*assign_nearest(distance), strict=True):
            truth, track = int(frame.truth_id[i]), int(frame.track_id[j])
            counts.switches += named.get(truth, track) != track
            counts.distance += float(distance[i, j])
            named[truth] = track
            pairs.append((int(i), int(j)))
        counts.matches += len(pairs)
    counts.id_matches = _best_naming(together)
    return counts


def _best_naming(together: dict[tuple[int, int], int]) -> int:
    if not together:
        return 0
    truths = {t: n for n, t in enumerate(sorted({key[0] for key in together}))}
    tracks = {t: n for n, t in enumerate(sorted({key[1] for key in together}))}
    table = np.zeros((len(truths), len(tracks)))
    for (truth, track), count in together.items():
        table[truths[truth], tracks[track]] = count
    rows, columns = linear_sum_assignment(-table)
    return int(table[rows, columns].sum())


def pool(counts: list[TrackingCounts]) -> TrackingScore:
    """Scores of several sequences together."""
    truths, tracks = sum(c.truths for c in counts), sum(c.tracks for c in counts)
    matches, switches = sum(c.matches for c in counts), sum(c.switches for c in counts)
    misses, false_positives = truths - matches, tracks - matches
    return TrackingScore(
        mota=1 - (misses + false_positives + switches) / max(truths, 1),
        idf1=2 * sum(c.id_matches for c in counts) / max(truths + tracks, 1),
        recall=matches / max(truths, 1),
        precision=matches / max(tracks, 1),
        switches=switches,
        false_positives=false_positives,
        misses=misses,
        truths=truths,
        motp=sum(c.distance for c in counts) / max(matches, 1),
    )


def bootstrap(
    counts: list[TrackingCounts], value: Callable[[TrackingScore], float], rounds: int = 500, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a score over sequences drawn with replacement."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(counts), (rounds, len(counts)))
    low, high = np.quantile([value(pool([counts[i] for i in draw])) for draw in draws], [0.025, 0.975])
    return float(low), float(high)


def box_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union [N, M] of boxes x0, y0, x1, y1."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    return inter / np.maximum(area_a[:, None] + area_b[None] - inter, 1e-9)
