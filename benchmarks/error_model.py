"""Driving under the perception error model beside driving on the real perception, on the same evaluation seeds.

    OMP_NUM_THREADS=1 python benchmarks/error_model.py [--episodes 100]

The vector environment has no guard: the rows of ``drive_suite.py`` to compare with are those without one
(``--only policy_real_no_guard``), and with their seeds the paired differences are taken. Writes
``results/error_model.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.policy import OnnxPolicy
from visuomotor.control.train.episodes import Expert, describe, play
from visuomotor.control.train.policy import make_forecaster
from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.launch.evaluate.score import Score, load_score, machine, paired_by_seed, write_json
from visuomotor.launch.evaluate.statistics import bootstrap_mean, share

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WORLDS = 64
DRIVERS = ("policy", "idm")


class BundleDriver:
    """The shipped policy, many worlds at a time."""

    def __init__(self) -> None:
        self._policy = OnnxPolicy(load_bundle(ROOT / "models" / "drive-policy", "policy"), device="cpu")

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Nothing to forget."""

    def act(self, inputs: DriveInputs) -> np.ndarray:
        return self._policy.act(inputs)


def drive(name: str, episodes: int) -> dict[str, Any]:
    """Rows ``<name>_truth`` and ``<name>_errors``."""
    driver: Expert = BundleDriver() if name == "policy" else IdmMobilDriver(WORLDS)
    rows: dict[str, Any] = {}
    for perception in ("truth", "errors"):
        played = play(
            driver,
            range(episodes),
            count=WORLDS,
            suite="drive-v1",
            split="evaluation",
            perception=perception,
            forecaster=make_forecaster("drive-forecaster", WORLDS),
        )
        print(f"{name}, {perception}: {describe(played)}", flush=True)
        rows[f"{name}_{perception}"] = {
            "success": share(np.array([e.success for e in played])),
            "collision": share(np.array([e.end == "collision" for e in played])),
            "mean_speed_mps": bootstrap_mean(np.array([e.mean_speed_mps for e in played])),
            "ends": {e.seed: e.end for e in played},
        }
    return rows


def pair(rows: dict[str, Any]) -> dict[str, Any]:
    """Success under the model minus success on the real perception, by seed, with and without the guard there."""
    found: dict[str, Any] = {}
    for name in DRIVERS:
        ends = rows.get(f"{name}_errors", {}).get("ends", {})
        modelled = Score(episodes=[{"seed": int(seed), "success": end == "goal"} for seed, end in ends.items()])
        for real in (f"{name}_real_no_guard", f"{name}_real"):
            path = RESULTS / "suite" / f"{real}.json"
            if not path.exists():
                continue
            difference = paired_by_seed(modelled, load_score(path), "success")
            found[f"{name}_errors - {real}"] = difference
            print(f"{name}_errors - {real}, {difference.n} seeds: {difference.as_points()} points")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100, help="first N seeds of the evaluation split")
    parser.add_argument("--driver", action="append", choices=DRIVERS, help="only this one; the other's rows are kept")
    parser.add_argument("--table", action="store_true", help="drive nothing, only pair anew with the rows of the suite")
    options = parser.parse_args()
    path = RESULTS / "error_model.json"
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    if not options.table:
        for name in options.driver or DRIVERS:
            data["rows"] |= drive(name, options.episodes)
        data["command"] = f"python benchmarks/error_model.py --episodes {options.episodes}"
        data["machine"] = machine()
    data["paired"] = pair(msgspec.to_builtins(data["rows"], str_keys=True))
    write_json(path, msgspec.to_builtins(data, str_keys=True))


if __name__ == "__main__":
    main()
