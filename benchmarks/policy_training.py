"""What one training of the policy from nothing came to: minutes, and success on the tuning cases.

    visuomotor train policy --task drive --out runs/models
    python benchmarks/policy_training.py runs/models/drive-policy

Writes ``results/policy_training.json`` from the bundle that the training made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from visuomotor.deploy.runtime.bundle import load_bundle
from visuomotor.launch.evaluate.score import machine, write_json

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    bundle = load_bundle(parser.parse_args().bundle, "policy")
    training = bundle.meta.training
    data = {
        "command": "visuomotor train policy --task drive",
        "minutes": training["minutes"],
        "algorithm": training["algorithm"],
        "settings": training["settings"],
        "tuning": training["tuning"],
        "metrics": bundle.meta.metrics,
        "bundle": bundle.digest,
        "machine": machine(),
    }
    write_json(RESULTS / "policy_training.json", data)
    print(f"{data['minutes']} minutes, success on truth {bundle.meta.metrics['tune_success_truth']:.1%}")


if __name__ == "__main__":
    main()
