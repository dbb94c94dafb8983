"""Marginals of what perception gets wrong about parts, real beside modelled: as numbers, and as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.control.arm.config import CLASS_NAMES
from visuomotor.control.train.error_pairs import DT_S
from visuomotor.control.train.part_error_fit import AWAY_M, PLAIN
from visuomotor.control.train.part_error_pairs import PartPairs
from visuomotor.sim.cell.error_model import SYMMETRY

SHARE_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.98, 1.01)
AT_TOOL_M = 0.045  # where a track passes for the part that is being gripped
UNDER_M = 0.03
LEAST = 20  # a bin with fewer samples is left out (NaN)


def marginals(pairs: PartPairs) -> dict[str, Any]:
    """Figures by visible share (bins of ``SHARE_EDGES``, the first without what is all hidden) and in all.

    On the belt: shares of part-ticks with a track and with a detection; medians and 90th percentiles of the errors of
    fresh positions (m), velocities (m/s) and, by class, headings (rad). Near the tool: shares of wanted parts without
    a track. Of held parts: those with a track, those whose track passes for one at the tool.
    """
    belt, tracked, fresh = pairs.on_belt, pairs.tracked, pairs.fresh
    bins = np.where(pairs.share > 0.0, np.digitize(pairs.share, SHARE_EDGES[1:-1]), -1)
    off_m = np.linalg.norm(pairs.error_m, axis=1)
    off_mps = np.linalg.norm(pairs.track_velocity_mps - pairs.velocity_mps, axis=1)
    plain = belt & fresh & (pairs.share > PLAIN)
    under = belt & pairs.wanted & (pairs.tool_m < UNDER_M) & tracked
    near = belt & pairs.wanted & (pairs.tool_m < 0.1)
    visible = belt & (pairs.share > 0.6)
    false = pairs.false_ticks
    follows = pairs.follows & tracked[1:] & tracked[:-1]
    away = follows & belt[1:] & (pairs.tool_m[1:] > AWAY_M)
    other = pairs.track[1:] != pairs.track[:-1]

    def binned(values: np.ndarray, mask: np.ndarray, quantile: float | None = None) -> list[float]:
        return [_figure(values[mask & (bins == b)], quantile) for b in range(len(SHARE_EDGES) - 1)]

    misses = _runs(pairs, visible & ~tracked)
    near_misses = _runs(pairs, near & ~tracked)
    result: dict[str, Any] = {
        "ticks": pairs.ticks,
        "share_edges": list(SHARE_EDGES),
        "tracked": binned(tracked, belt),
        "detected": binned(fresh, belt),
        "tracked_hidden": _figure(tracked[belt & (pairs.share <= 0.0)]),
        "position_median_m": binned(off_m, belt & fresh, 0.5),
        "position_p90_m": binned(off_m, belt & fresh, 0.9),
        "velocity_median_mps": binned(off_mps, belt & fresh, 0.5),
        "velocity_p90_mps": binned(off_mps, belt & fresh, 0.9),
        "partly_median_m": _figure(off_m[belt & fresh & (pairs.share > 0.2) & (pairs.share < PLAIN)], 0.5),
        "under_tool_median_m": _figure(off_m[under], 0.5),
        "under_tool_p90_m": _figure(off_m[under], 0.9),
        "near_tool_untracked": _figure(~tracked[near]),
        "near_tool_miss_s": _figure(near_misses),
        "miss_s": _figure(misses),
        "miss_p90_s": _figure(misses, 0.9),
        "held_tracked": _figure(tracked[pairs.held]),
        "held_at_tool": _figure((tracked & (off_m < AT_TOOL_M))[pairs.held]),
        "binned_tracked": _figure(tracked[~belt & ~pairs.held & ~pairs.lifted]),
        "class_wrong": [_figure((pairs.track_class != c)[plain & (pairs.class_id == c)]) for c in range(6)],
        "heading_median_rad": _headings(pairs, plain, 0.5),
        "heading_p90_rad": _headings(pairs, plain, 0.9),
        "switches_per_min": 60.0 * float((follows & other).sum()) / max(float(follows.sum()) * DT_S, 1e-9),
        "switches_away_per_min": 60.0 * float((away & other).sum()) / max(float(away.sum()) * DT_S, 1e-9),
        "false_per_tick": len(false) / max(pairs.ticks, 1),
        "ghosts_per_tick": float(((false[:, 6] > 0) & (false[:, 4] > 0)).sum()) / max(pairs.ticks, 1),
        "wanted_ghosts_per_tick": float(((false[:, 6:8] > 0).all(axis=1) & (false[:, 4] > 0)).sum())
        / max(pairs.ticks, 1),
        "alarms_per_tick": float(((false[:, 5:7] == 0).all(axis=1) & (false[:, 4] > 0)).sum()) / max(pairs.ticks, 1),
        "distractors_per_tick": float((false[:, 5] > 0).sum()) / max(pairs.ticks, 1),
        "false_near_share": _figure(false[false[:, 4] > 0, 2]),
    }
    return result


def _figure(values: np.ndarray, quantile: float | None = None) -> float:
    if len(values) < LEAST:
        return float("nan")
    return round(float(np.mean(values) if quantile is None else np.quantile(values, quantile)), 5)


def _headings(pairs: PartPairs, mask: np.ndarray, quantile: float) -> list[float]:
    error = np.abs(pairs.heading_error_rad)
    of = [mask & (pairs.class_id == c) & (SYMMETRY[c] > 0) for c in range(len(CLASS_NAMES))]
    return [_figure(error[rows], quantile) for rows in of]


def _runs(pairs: PartPairs, mask: np.ndarray) -> np.ndarray:
    """Lengths of unbroken runs of the mask, s."""
    starts = mask.copy()
    starts[1:] &= ~(mask[:-1] & pairs.follows)
    return np.bincount(np.cumsum(starts)[mask], minlength=1)[1:] * DT_S


def plot_marginals(sets: Mapping[str, PartPairs], path: Path) -> dict[str, dict[str, Any]]:
    """Draw the marginals of several sets of pairs (``real``, ``model``) beside each other; returns their figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figures = {name: marginals(pairs) for name, pairs in sets.items()}
    middle = 0.5 * (np.array(SHARE_EDGES[1:]) + np.array(SHARE_EDGES[:-1]))
    colours = dict(zip(sets, ("#1f6f8b", "#e07a3f", "#6a994e", "#7b4b94"), strict=False))
    canvas, axes = plt.subplots(2, 4, figsize=(17, 8), layout="constrained")
    lines = (
        ("on the belt: tracked, detected", ("tracked", "detected"), "share of part-ticks"),
        ("position, fresh", ("position_median_m", "position_p90_m"), "m"),
        ("velocity, fresh", ("velocity_median_mps", "velocity_p90_mps"), "m/s"),
    )
    for axis, (title, keys, unit) in zip(axes.flat, lines, strict=False):
        for name, figure in figures.items():
            for key, style in zip(keys, ("-", "--"), strict=True):
                axis.plot(middle, figure[key], style, marker="o", ms=4, color=colours[name], label=f"{name}, {key}")
        axis.set(title=title, xlabel="visible share", ylabel=unit, ylim=(0.0, None))
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    bars = (
        ("heading, 90 %, rad", [f"heading_p90_rad {c}" for c in (0, 2, 4, 5)]),
        ("wrong class", [f"class_wrong {c}" for c in range(6)]),
        ("near and in the hand", ["near_tool_untracked", "held_tracked", "held_at_tool", "binned_tracked"]),
        ("false tracks a tick", ["false_per_tick", "ghosts_per_tick", "wanted_ghosts_per_tick", "alarms_per_tick"]),
        (
            "switches a minute; misses, s",
            ["switches_per_min", "switches_away_per_min", "miss_s", "miss_p90_s", "near_tool_miss_s"],
        ),
    )
    width = 0.8 / max(len(figures), 1)
    for axis, (title, names) in zip(axes.flat[3:], bars, strict=False):
        for index, (name, figure) in enumerate(figures.items()):
            values = [_pick(figure, key) for key in names]
            axis.bar(np.arange(len(names)) + index * width, values, width, color=colours[name], label=name)
        labels = [CLASS_NAMES[int(key.split()[1])] if " " in key else key.replace("_", " ") for key in names]
        axis.set_xticks(np.arange(len(names)) + 0.4 - 0.5 * width, labels, rotation=20, ha="right", fontsize=8)
        axis.set(title=title)
        axis.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=100)
    plt.close(canvas)
    return figures


def _pick(figure: Mapping[str, Any], key: str) -> float:
    name, _, index = key.partition(" ")
    return float(figure[name][int(index)] if index else figure[name])
