"""Latency of the shipped networks beside bare ONNX Runtime, OpenCV and torch: ``visuomotor bench``, all in one file.

python benchmarks/latency.py [--calls 300]        # -> results/latency.json
python benchmarks/latency.py --only drive-policy --threads 1      # measures this one anew, keeps the others
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec

from visuomotor.launch.bench import Settings, print_bench, run_bench
from visuomotor.launch.evaluate.score import write_json

RESULTS = Path(__file__).parent / "results" / "latency.json"
BUNDLES = ("drive-detector-front", "drive-forecaster", "drive-policy")
THREADS = (1, 2)
FASTER_BAR, OVERHEAD_BAR = 1.5, 1.05  # torch best / ours, ours / bare; for the detector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--only", choices=BUNDLES, nargs="+", default=BUNDLES)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    runs = json.loads(options.json.read_text())["runs"] if options.json.exists() else {}
    for bundle in options.only:
        for threads in options.threads:
            result = run_bench(bundle, Settings(device="cpu", threads=threads, calls=options.calls), quiet=True)
            print_bench(result)
            runs[f"{bundle}, {threads} thread(s)"] = msgspec.to_builtins(result)
            write_json(options.json, {"bars": {"faster": FASTER_BAR, "overhead": OVERHEAD_BAR}, "runs": runs})
    for name, run in runs.items():
        ratios = ", ".join(f"{key} {value:.2f}" for key, value in run["ratios"].items())
        print(f"{name}: {ratios}")


if __name__ == "__main__":
    main()
