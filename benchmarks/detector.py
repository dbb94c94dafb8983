"""Scores and speed of the shipped detectors on the evaluation split: a table, and ``results/detector.json``.

visuomotor render drive --out data/drive --frames 16000 --seed 1
python benchmarks/detector.py --data data/drive
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from visuomotor.deploy.runtime.bundle import Bundle, load_bundle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.perception.train.detector_eval import eval_detector

BUNDLES = ("drive-detector-front", "drive-detector-side")
RESULTS = Path(__file__).parent / "results" / "detector.json"
BARS = {  # name in the summary -> bar, True where more is better
    "ap50": (0.85, True),
    "ap50_95": (0.55, True),
    "position_lateral_median_m": (0.3, False),
    "position_range_excess_median": (1.0, False),  # of max(0.5 m, 5 %)
}


def measure_latency(bundle: Bundle, frames: int = 300) -> dict[str, float]:
    """One CPU thread, frames of noise (the graph's shapes are static: the content does not matter), ms."""
    session = make_session(bundle, device="cpu", threads=1)
    shape = session.input_shapes["frame"]
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    wall, processor = [], []
    for _ in range(frames):
        start, used = time.perf_counter(), time.process_time()
        session.run({"frame": frame})
        wall.append((time.perf_counter() - start) * 1e3)
        processor.append((time.process_time() - used) * 1e3)
    result = {f"wall_p{p}": round(float(np.percentile(wall, p)), 2) for p in (5, 50, 95)}
    return {**result, "processor_p50": round(float(np.percentile(processor, 50)), 2)}


def describe_machine() -> dict[str, Any]:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load_1_min": round(os.getloadavg()[0], 1),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/drive"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    scores = eval_detector(BUNDLES, options.data, options.split, device="cpu")
    scores["data"] = str(options.data)
    latency = {name: measure_latency(load_bundle(name)) for name in BUNDLES}
    met = {}
    for name, (bar, more) in BARS.items():
        value = scores["summary"][name]
        met[name] = value["mean"] >= bar if more else value["mean"] <= bar
        interval = f"[{value['low']:.3f}, {value['high']:.3f}]"
        print(f"{name:32s} {value['mean']:.3f} {interval} bar {bar} {'met' if met[name] else 'MISSED'}")
    for name, values in latency.items():
        print(f"{name:32s} {values['wall_p50']:.1f} ms (processor time {values['processor_p50']:.1f} ms) on one thread")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": describe_machine(), "bars_met": met, "latency_one_thread_ms": latency, "scores": scores}
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
