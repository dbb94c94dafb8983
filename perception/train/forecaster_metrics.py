"""Scores of forecasts: ADE, FDE, miss rate, likelihood, with bootstrap intervals, by manoeuvre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MISS_M = 2.0  # nearest endpoint further than this, of road users: Argoverse, Waymo and nuScenes use 2 m
METRICS = ("ade_m", "fde_m", "min_ade_m", "min_fde_m", "miss_rate", "nll")


def score_agents(
    position_m: np.ndarray,
    spread_m: np.ndarray,
    probability: np.ndarray,
    truth_m: np.ndarray,
    known: np.ndarray,
    miss_m: float = MISS_M,
) -> dict[str, np.ndarray]:
    """Per-agent scores [N] of futures [N, K, T, 2], [N, K, T, 3], [N, K] against truth [N, T, 2], known steps [N, T].

    ``ade_m``, ``fde_m`` are of the most probable future, ``min_*`` of the nearest one; ``nll`` is the mixture's mean
    negative log density per step (nats, m^-2); the end is the last known step.
    """
    count, futures = position_m.shape[:2]
    mask = known[:, None].astype(float)
    error = np.linalg.norm(position_m.astype(float) - truth_m[:, None], axis=-1)
    ade = (error * mask).sum(2) / np.maximum(mask.sum(2), 1)
    last = known.shape[1] - 1 - known[:, ::-1].argmax(1)
    fde = np.take_along_axis(error, np.broadcast_to(last[:, None, None], (count, futures, 1)), 2)[..., 0]
    likely = probability.argmax(1)[:, None]
    sx, sy, rho = (spread_m[..., i].astype(float) for i in range(3))
    dx = (truth_m[:, None, :, 0] - position_m[..., 0]) / sx
    dy = (truth_m[:, None, :, 1] - position_m[..., 1]) / sy
    rest = np.maximum(1 - rho**2, 1e-3)
    density = -0.5 * (dx**2 - 2 * rho * dx * dy + dy**2) / rest - np.log(2 * np.pi * sx * sy * np.sqrt(rest))
    weighted = density + np.log(np.maximum(probability, 1e-9))[..., None]
    top = weighted.max(1)
    nll = -(top + np.log(np.exp(weighted - top[:, None]).sum(1)))
    return {
        "ade_m": np.take_along_axis(ade, likely, 1)[:, 0],
        "fde_m": np.take_along_axis(fde, likely, 1)[:, 0],
        "min_ade_m": ade.min(1),
        "min_fde_m": fde.min(1),
        "miss_rate": (fde.min(1) > miss_m).astype(float),
        "nll": (nll * known).sum(1) / np.maximum(known.sum(1), 1),
    }


def interval(values: np.ndarray, group: np.ndarray, rounds: int = 1000, seed: int = 0) -> dict[str, float]:
    """Mean of values [N] with a 95 % bootstrap interval that resamples whole groups (episodes, recording windows)."""
    if len(values) == 0:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    _, index = np.unique(group, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    rng = np.random.default_rng(seed)
    draw = rng.integers(0, len(sums), (rounds, len(sums)))
    means = sums[draw].sum(1) / counts[draw].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


def summarise(scores: dict[str, np.ndarray], group: np.ndarray) -> dict[str, dict[str, float]]:
    """Every metric with its interval."""
    return {name: interval(values, group) for name, values in scores.items()}


def by_manoeuvre(
    scores: dict[str, np.ndarray], manoeuvre: np.ndarray, group: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """``summarise`` for each of the manoeuvres called ``names`` that occurs and for all agents together."""
    out: dict[str, Any] = {"all": summarise(scores, group)}
    for index, name in enumerate(names):
        chosen = manoeuvre == index
        if chosen.any():
            out[name] = summarise({k: v[chosen] for k, v in scores.items()}, group[chosen])
    return out
