"""Marginals of perception errors, real beside modelled: as numbers, and as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.control.train.error_pairs import DT_S, Pairs
from visuomotor.messages.schema import CLASS_NAMES

RANGE_EDGES_M = (0.0, 10.0, 20.0, 30.0, 40.0, 55.0, 80.0)
IN_VIEW = 0.3  # visible share from which an agent ought to be seen
LEAST = 20  # a bin with fewer samples is left out (NaN)


def marginals(pairs: Pairs) -> dict[str, Any]:
    """Figures per range bin and in all; lists follow the bins of ``RANGE_EDGES_M``, NaN where there is too little data.

    ``recall``: share of agent-ticks in view that have a track; per class and over all. Errors of freshly detected
    tracks: median and 90th percentile of their size, m and m/s.
    """
    view = pairs.share >= IN_VIEW
    bins = np.digitize(pairs.range_m, RANGE_EDGES_M[1:-1])
    count = len(RANGE_EDGES_M) - 1

    def per_bin(values: np.ndarray, mask: np.ndarray, quantile: float | None = None) -> list[float]:
        chosen = [values[mask & (bins == b)] for b in range(count)]
        return [
            float("nan")
            if len(part) < LEAST
            else float(np.mean(part) if quantile is None else np.quantile(np.abs(part), quantile))
            for part in chosen
        ]

    fresh = pairs.fresh
    follows = (pairs.agent[1:] == pairs.agent[:-1]) & (pairs.tick[1:] == pairs.tick[:-1] + 1)
    follows &= pairs.tracked[1:] & pairs.tracked[:-1]
    switches = float((follows & (pairs.track[1:] != pairs.track[:-1])).sum())
    result: dict[str, Any] = {
        "range_edges_m": list(RANGE_EDGES_M),
        "ticks": pairs.ticks,
        "recall": per_bin(pairs.tracked, view),
        "recall_hidden": float(pairs.tracked[~view].mean()) if (~view).any() else float("nan"),
        "identity_switches_per_min": 60.0 * switches / max(float(follows.sum()) * DT_S, 1e-9),
        "false_tracks_per_tick": len(pairs.false_ticks) / max(pairs.ticks, 1),
        "class_wrong": float((pairs.track_class[fresh] != pairs.class_id[fresh]).mean())
        if fresh.any()
        else float("nan"),
    }
    for index, name in enumerate(CLASS_NAMES):
        result[f"recall_{name}"] = per_bin(pairs.tracked, view & (pairs.class_id == index))
    for axis, name in enumerate(("radial", "lateral")):
        for quantile, label in ((0.5, "median"), (0.9, "p90")):
            result[f"{name}_{label}_m"] = per_bin(pairs.error_m[:, axis], fresh, quantile)
            result[f"{name}_{label}_mps"] = per_bin(pairs.error_mps[:, axis], fresh, quantile)
    return result


def plot_marginals(sets: Mapping[str, Pairs], path: Path) -> dict[str, dict[str, Any]]:
    """Draw the marginals of several sets of pairs (``real``, ``model``) beside each other; returns their figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figures = {name: marginals(pairs) for name, pairs in sets.items()}
    middle = 0.5 * (np.array(RANGE_EDGES_M[1:]) + np.array(RANGE_EDGES_M[:-1]))
    colours = dict(zip(sets, ("#1f6f8b", "#e07a3f", "#6a994e", "#7b4b94"), strict=False))
    canvas, axes = plt.subplots(3, 4, figsize=(16, 10.5), layout="constrained")
    panels = [
        *((f"recall, {name}", (f"recall_{name}",), "share of ticks in view") for name in CLASS_NAMES),
        ("position along the sight", ("radial_median_m", "radial_p90_m"), "m"),
        ("position across", ("lateral_median_m", "lateral_p90_m"), "m"),
        ("speed along the sight", ("radial_median_mps", "radial_p90_mps"), "m/s"),
        ("speed across", ("lateral_median_mps", "lateral_p90_mps"), "m/s"),
    ]
    for axis, (title, keys, unit) in zip(axes.flat, panels, strict=False):
        for name, figure in figures.items():
            for key, style in zip(keys, ("-", "--"), strict=False):
                label = name if style == "-" else None
                axis.plot(middle, figure[key], style, marker="o", ms=4, color=colours[name], label=label)
        axis.set(title=title, ylabel=unit, xlabel="range (m)", ylim=(0.0, 1.05 if "share" in unit else None))
        axis.grid(alpha=0.3)
    axes.flat[5].legend(title="solid: median, dashed: 90 %")
    axes.flat[0].legend()
    _histograms(axes.flat[9], axes.flat[10], sets, colours)
    _bars(axes.flat[11], figures, colours)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)
    return figures


def _histograms(position: Any, velocity: Any, sets: Mapping[str, Pairs], colours: Mapping[str, str]) -> None:
    """Signed errors along the line of sight within 40 m."""
    for name, pairs in sets.items():
        mask = pairs.fresh & (pairs.range_m < 40.0)
        for axis, values, limit in ((position, pairs.error_m, 3.0), (velocity, pairs.error_mps, 5.0)):
            axis.hist(
                np.clip(values[mask, 0], -limit, limit),
                bins=np.linspace(-limit, limit, 61),
                density=True,
                histtype="step",
                color=colours[name],
                label=name,
            )
    position.set(title="position along the sight, < 40 m", xlabel="m")
    velocity.set(title="speed along the sight, < 40 m", xlabel="m/s")


def _bars(axis: Any, figures: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    keys = ("identity_switches_per_min", "false_tracks_per_tick", "class_wrong", "recall_hidden")
    width = 0.8 / max(len(figures), 1)
    for index, (name, figure) in enumerate(figures.items()):
        axis.bar(
            np.arange(len(keys)) + index * width, [figure[k] for k in keys], width, color=colours[name], label=name
        )
    axis.set_xticks(
        np.arange(len(keys)) + 0.4 - 0.5 * width, ["switches/min", "false/tick", "wrong class", "hidden, kept"]
    )
    axis.tick_params(axis="x", labelrotation=15)
    axis.set(title="rates")
