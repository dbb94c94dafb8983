"""Driving under the perception error model beside driving on the real perception, on the same evaluation seeds.

    OMP_NUM_THREADS=1 python benchmarks/error_model.py [--episodes 100]

The vector environment has no guard: the rows of ``drive_suite.py`` to compare with are those without one
(``--only policy_real_no_guard``), and with their seeds the paired differences are taken. Writes
``results/error_model.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.policy import OnnxPolicy
from visuomotor.control.train.episodes import Driver, describe, play
from visuomotor.control.train.policy import make_forecaster
from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.launch.evaluate.score import load_score, machine, write_json
from visuomotor.launch.evaluate.statistics import bootstrap_mean, paired_difference, share

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WORLDS = 64


class BundleDriver:
    """The shipped policy, many worlds at a time."""

    def __init__(self) -> None:
        self._policy = OnnxPolicy(load_bundle(ROOT / "models" / "drive-policy", "policy"), device="cpu")

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Nothing to forget."""

    def act(self, inputs: DriveInputs) -> np.ndarray:
        return self._policy.act(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="first N seeds of the evaluation split")
    options = parser.parse_args()
    drivers: dict[str, Driver] = {"policy": BundleDriver(), "idm": IdmMobilDriver(WORLDS)}
    rows: dict[str, Any] = {}
    paired: dict[str, Any] = {}
    for name, driver in drivers.items():
        found: dict[str, dict[int, bool]] = {}
        for perception in ("truth", "errors"):
            episodes = play(
                driver,
                range(options.episodes),
                count=WORLDS,
                suite="drive-v1",
                split="evaluation",
                perception=perception,
                forecaster=make_forecaster("drive-forecaster", WORLDS),
            )
            print(f"{name}, {perception}: {describe(episodes)}", flush=True)
            found[perception] = {e.seed: e.success for e in episodes}
            rows[f"{name}_{perception}"] = {
                "success": share(np.array([e.success for e in episodes])),
                "collision": share(np.array([e.end == "collision" for e in episodes])),
                "mean_speed_mps": bootstrap_mean(np.array([e.mean_speed_mps for e in episodes])),
                "ends": {e.seed: e.end for e in episodes},
            }
        for real in (f"{name}_real_no_guard", f"{name}_real"):
            path = RESULTS / "suite" / f"{real}.json"
            if path.exists():
                success = {row["seed"]: bool(row["success"]) for row in load_score(path).episodes}
                seeds = sorted(success.keys() & found["errors"].keys())
                ours, theirs = (np.array([float(flags[s]) for s in seeds]) for flags in (found["errors"], success))
                paired[f"{name}_errors - {real}"] = difference = paired_difference(ours, theirs)
                print(f"{name}_errors - {real}, {len(seeds)} seeds: {difference.as_percent()} points")
    command = f"python benchmarks/error_model.py --episodes {options.episodes}"
    data = {"rows": rows, "paired": paired, "machine": machine(), "command": command}
    write_json(RESULTS / "error_model.json", msgspec.to_builtins(data, str_keys=True))


if __name__ == "__main__":
    main()
