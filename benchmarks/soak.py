"""Half an hour of driving in realtime, episode after episode: does memory grow, do rates hold, do queues grow?

    python benchmarks/soak.py [--minutes 30] [--every 5] [--record] [--policy idm] [--json FILE] [--plot FILE]

The shipped graph through the launcher's own code, this process in the supervisor's place. Every few seconds: resident
and own memory, descriptors and threads of each process, and from the bus the age at which messages reach the
supervisor and each node's inputs: where a queue grows, they grow older. Slopes are least squares after the warm-up,
with 95 % intervals for as many independent samples as the residuals' autocorrelation leaves. The committed result is
benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from visuomotor.launch import run
from visuomotor.launch.collector import RunCollector
from visuomotor.launch.evaluate.score import machine
from visuomotor.launch.profile import load_profile
from visuomotor.messages.bus import Received
from visuomotor.messages.schema import NodeHealth, Trace

WARM_UP = 0.2  # of the whole time, at most WARM_UP_MIN: caches and pools fill
WARM_UP_MIN = 5.0
SLOPE_BAR_MB_PER_MIN = 1.0
RATE_BAR_HZ = 9.8  # of the 10 Hz services
AGE_BAR_MS = 5.0  # by which the median age of messages may be higher at the end than at the beginning
SERVICES = ("truth", "vehicle_state", "tracks", "policy_command", "command")
FIRST_SEED = 2000  # of the evaluation split, beyond those measured or tuned on


class Watch:
    """Samples of this run's processes and of what the supervisor heard since the last sample."""

    def __init__(self, minutes: float, every_s: float) -> None:
        self.samples: list[dict[str, Any]] = []
        self.health: dict[str, NodeHealth] = {}
        self.collector: RunCollector | None = None
        self._end_s, self._every_s = 60.0 * minutes, every_s
        self._ages_ms: dict[str, list[float]] = defaultdict(list)
        self._lock = threading.Lock()
        self._me = psutil.Process()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def hear(self, received: Received) -> None:
        """Take in one message; the first one starts the clock."""
        with self._lock:
            self._ages_ms["supervisor"].append((time.monotonic_ns() - received.t_publish_ns) * 1e-6)
            if isinstance(received.message, Trace):
                self._ages_ms[received.node] += [
                    (end - start) * 1e-6 for name, start, end in received.message.stages if name == "transport"
                ]
            elif isinstance(received.message, NodeHealth):
                self.health[received.node] = received.message
        if self._thread.ident is None:
            self._thread.start()

    def _work(self) -> None:
        started_s = time.monotonic()
        try:
            while (t_s := time.monotonic() - started_s) < self._end_s:
                self.samples.append({"t_s": round(t_s, 1), "processes": self._look(), "age_ms": self._take_ages()})
                time.sleep(self._every_s)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # as a person would end it: the car is braked to a stop

    def _look(self) -> dict[str, dict[str, float]]:
        found = {"supervisor": self._me}
        found |= {Path(p.cmdline()[-1]).name.removesuffix(".job.json"): p for p in self._me.children()}
        seen = {}
        for name, process in found.items():
            memory = process.memory_full_info()
            seen[name] = {
                "rss_mb": round(memory.rss / 1e6, 2),
                "uss_mb": round(memory.uss / 1e6, 2),  # its own: what others share with it comes and goes with them
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
            }
        return seen

    def _take_ages(self) -> dict[str, dict[str, float]]:
        with self._lock:
            ages, self._ages_ms = self._ages_ms, defaultdict(list)
        return {
            name: {"p50": round(float(np.median(a)), 3), "p99": round(float(np.percentile(a, 99)), 3)}
            for name, a in ages.items()
            if a
        }


def slope(t_min: np.ndarray, value: np.ndarray) -> dict[str, float]:
    """Least squares: change per minute and its 95 % interval."""
    n = len(t_min)
    design = np.stack([t_min - t_min.mean(), np.ones(n)], axis=1)
    (per_min, _), *_ = np.linalg.lstsq(design, value, rcond=None)
    residual = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    spread = float((residual**2).sum())
    r = 0.0 if spread == 0.0 else max(0.0, float((residual[1:] * residual[:-1]).sum()) / spread)
    effective = max(3.0, n * (1.0 - r) / (1.0 + r))
    error = math.sqrt(spread / (effective - 2.0) / n) / float(t_min.std())
    return {
        "per_min": round(float(per_min), 4),
        "low": round(float(per_min) - 1.96 * error, 4),
        "high": round(float(per_min) + 1.96 * error, 4),
    }


def summarise(watch: Watch, minutes: float) -> dict[str, Any]:
    """Slopes, rates and ages, and a verdict for each bar."""
    warm_s = 60.0 * min(WARM_UP * minutes, WARM_UP_MIN)
    samples = [s for s in watch.samples if s["t_s"] >= warm_s]
    names = list(samples[0]["processes"])
    t_min = np.array([s["t_s"] for s in samples]) / 60.0
    each = {n: np.array([[s["processes"][n][k] for k in ("rss_mb", "uss_mb")] for s in samples]) for n in names}
    memory = {
        n: {"rss_mb": float(v[-1, 0]), "uss_mb": float(v[-1, 1]), "uss_mb_slope": slope(t_min, v[:, 1])}
        for n, v in each.items()
    }
    total = slope(t_min, sum(v[:, 1] for v in each.values()))
    third = max(1, len(samples) // 3)
    begun, ended = samples[:third], samples[-third:]

    def age(part: list[dict[str, Any]], node: str) -> float:
        return round(float(np.median([s["age_ms"][node]["p50"] for s in part if node in s["age_ms"]])), 3)

    heard = sorted({node for s in begun for node in s["age_ms"]} & {node for s in ended for node in s["age_ms"]})
    ages = {node: {"first_third": age(begun, node), "last_third": age(ended, node)} for node in heard}
    counts = {
        kind: {n: [max(s["processes"][n][kind] for s in part) for part in (begun, ended)] for n in names}
        for kind in ("descriptors", "threads")
    }
    assert watch.collector is not None
    episodes = [e.rates_hz("realtime") for e in watch.collector.episodes[:-1] or watch.collector.episodes]
    rates = {
        s: {"mean": round(float(np.mean(found)), 3), "least": round(min(found), 3)}
        for s in SERVICES
        if (found := [rate[s] for rate in episodes if s in rate])
    }
    steps = {n: {"steps": h.steps, "missed": h.missed_deadlines, "dropped": h.dropped} for n, h in watch.health.items()}
    grown = [f"{kind} of {n}" for kind, by in counts.items() for n, (a, b) in by.items() if b > a]
    older = [n for n, a in ages.items() if a["last_third"] > a["first_third"] + AGE_BAR_MS]
    return {
        "machine": machine(),
        "minutes": minutes,
        "warm_up_min": round(warm_s / 60.0, 2),
        "episodes": len(watch.collector.episodes),
        "memory": memory,
        "total_uss_mb_slope": total,
        "rates_hz": rates,
        "age_ms": ages,
        "counts_first_and_last_third": counts,
        "nodes": steps,
        "verdict": {
            f"memory grows by less than {SLOPE_BAR_MB_PER_MIN:g} MB/min": total["high"] < SLOPE_BAR_MB_PER_MIN,
            f"mean rates of {RATE_BAR_HZ:g} Hz or more": all(r["mean"] >= RATE_BAR_HZ for r in rates.values()),
            "no queue grows": not grown and not older,
        },
        "grown": grown + [f"age of what {n} reads" for n in older],
        "samples": watch.samples,
    }


def draw(result: dict[str, Any], file: Path) -> None:
    """Memory of each process over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    t_min = [s["t_s"] / 60.0 for s in result["samples"]]
    for name in result["memory"]:
        axes.plot(t_min, [s["processes"].get(name, {}).get("uss_mb", np.nan) for s in result["samples"]], label=name)
    axes.axvline(result["warm_up_min"], color="0.7", linewidth=1)
    axes.set(xlabel="minutes", ylabel="own memory (USS), MB", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=6, fontsize="small", frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between samples")
    parser.add_argument("--record", action="store_true", help="with the recorder; the recording is thrown away")
    parser.add_argument("--policy", help="bundle or baseline; default: the profile's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    watch = Watch(options.minutes, options.every)

    class WatchedCollector(RunCollector):
        """The launcher's collector, overheard."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            watch.collector = self

        def add(self, received: Received) -> None:
            super().add(received)
            watch.hear(received)

    run.RunCollector = WatchedCollector  # type: ignore[misc]
    profile = load_profile("drive").override(clock="realtime", policy=options.policy)
    place = Path(tempfile.mkdtemp(prefix="soak"))
    try:
        record = place / "a.mcap" if options.record else None
        seeds = range(FIRST_SEED, FIRST_SEED + math.ceil(10 * options.minutes))  # more than there is time for
        run.launch(profile, run.Options(seeds=seeds, run_dir=place / "run", record=record))
    finally:
        shutil.rmtree(place)
    result = summarise(watch, options.minutes)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot is not None:
        draw(result, options.plot)
    print(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))


if __name__ == "__main__":
    main()
