"""``score.json``: the one form in which every run and evaluation states its result, and its tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.launch.evaluate import statistics
from visuomotor.launch.evaluate.metrics import Measures, Ratio, measures_of
from visuomotor.launch.tasks import DEFAULT


class Score(msgspec.Struct, kw_only=True):
    """Result of one or more episodes of one configuration."""

    task: str = DEFAULT.name
    suite: str = DEFAULT.suite
    policy: str = ""
    perception: str = "real"
    clock: str = "lockstep"
    guard: bool = True
    forecaster: str = ""
    episodes: list[dict[str, Any]] = []
    summary: dict[str, statistics.Estimate] = {}
    latency_ms: dict[str, dict[str, float]] = {}
    rate_hz: dict[str, float] = {}
    missed_deadlines: float = 0.0
    guard_interventions: dict[str, int] = {}
    guard_tick_share: float = 0.0
    assumed: list[str] = []
    provenance: dict[str, Any] = {}

    def finish(self) -> Score:
        """Fill the summary and the guard's shares from the episodes; returns itself."""
        self.summary = summarise(self.episodes, measures_of(self.task))
        causes: Counter[str] = Counter()
        for episode in self.episodes:
            causes.update(episode.get("guard_interventions", {}))
        self.guard_interventions = dict(sorted(causes.items()))
        ticks = sum(episode.get("ticks", 0) for episode in self.episodes)
        acted = sum(episode.get("guard_ticks", 0) for episode in self.episodes)
        self.guard_tick_share = acted / ticks if ticks else 0.0
        return self

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(path.suffix + ".tmp")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        partial.replace(path)


def load_score(path: Path) -> Score:
    """Read a score file; ValueError names the file and what is wrong with it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Score)
    except OSError as error:
        raise ValueError(f"{path}: score cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # also what is no text, and what is nested too deep
        raise ValueError(f"{path}: not a score file ({error})") from error


def summarise(episodes: Sequence[Mapping[str, Any]], measures: Measures) -> dict[str, statistics.Estimate]:
    """Every metric with its 95 % interval over episodes."""
    summary: dict[str, statistics.Estimate] = {}
    for name in measures.shares:
        values = [bool(episode[name]) for episode in episodes if name in episode]
        if values:
            summary[name] = statistics.share(np.array(values))
    for ratio in measures.ratios:
        known = [episode for episode in episodes if all(key in episode for key in (*ratio.above, *ratio.below))]
        above, below = sums(known, ratio)
        if below.any():  # a share of nothing is no number
            summary[ratio.name] = statistics.pooled_share(above, below)
    for key, name in measures.groups.items():
        for group in sorted({group for episode in episodes for group in episode.get(key, ())}):
            pairs = np.array([episode[key].get(group, (0, 0)) for episode in episodes if key in episode], np.float64)
            summary[f"{name}, {group}"] = statistics.pooled_share(*pairs.T)
    for name in measures.means:
        values_f = [float(episode[name]) for episode in episodes if episode.get(name) is not None]
        if values_f:
            summary[name] = statistics.bootstrap_mean(np.array(values_f))
    return summary


def sums(episodes: Sequence[Mapping[str, Any]], ratio: Ratio) -> tuple[np.ndarray, np.ndarray]:
    """Above and below the line of a ratio, [n] each."""
    rows = [[sum(float(episode[key]) for key in keys) for keys in (ratio.above, ratio.below)] for episode in episodes]
    above, below = np.array(rows, np.float64).reshape(-1, 2).T
    return above, below


def paired_by_seed(ours: Score, theirs: Score, key: str) -> statistics.Estimate:
    """Difference ``ours - theirs`` of a number of each episode over the seeds that both have."""
    a = {episode["seed"]: float(episode[key]) for episode in ours.episodes}
    b = {episode["seed"]: float(episode[key]) for episode in theirs.episodes}
    seeds = sorted(a.keys() & b.keys())
    return statistics.paired_difference(np.array([a[s] for s in seeds]), np.array([b[s] for s in seeds]))


def paired_ratio(ours: Score, theirs: Score, name: str) -> statistics.Estimate:
    """Difference ``ours - theirs`` of a pooled share of the task's over the seeds that both have."""
    (ratio,) = (ratio for ratio in measures_of(ours.task).ratios if ratio.name == name)
    a, b = ({episode["seed"]: episode for episode in score.episodes} for score in (ours, theirs))
    seeds = sorted(a.keys() & b.keys())
    return statistics.paired_shares(*sums([a[s] for s in seeds], ratio), *sums([b[s] for s in seeds], ratio))


def event_shares(episodes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per scenario event: the share of episodes that contain it, and the success in those."""
    counts: dict[str, list[bool]] = {}
    for episode in episodes:
        for event in set(episode.get("events", ())):
            counts.setdefault(event, []).append(bool(episode["success"]))
    total = max(1, len(episodes))
    return {
        name: {"share": len(flags) / total, "success": float(np.mean(flags)), "n": len(flags)}
        for name, flags in sorted(counts.items())
    }


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max, rounded to microseconds."""
    if not len(values_ms):
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
    p50, p95, p99 = np.percentile(values_ms, [50, 95, 99])
    return {
        "p50": round(float(p50), 3),
        "p95": round(float(p95), 3),
        "p99": round(float(p99), 3),
        "max": round(float(max(values_ms)), 3),
    }


def provenance(bundles: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Code revision, bundle hashes and machine."""
    root = Path(__file__).resolve().parents[2]
    revision = ""
    try:
        revision = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        revision = "unknown"
    return {
        "revision": revision or "unknown",
        "bundles": dict(bundles or {}),
        "machine": machine(),
    }


def machine() -> str:
    """The processor's name and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {platform.system()}, Python {platform.python_version()}"


def write_json(path: Path, data: object) -> None:
    """Write any result file in the house form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, sort_keys=False) + "\n")
