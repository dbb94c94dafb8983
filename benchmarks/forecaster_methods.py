"""What an adversarial term and an L1 penalty change in the drive forecaster, from the same seed and data.

    OMP_NUM_THREADS=1 python benchmarks/forecaster_methods.py [--epochs 12] [--only plain adversarial l1] [--json FILE]

Every method trains one network on data/tracks and is scored on the evaluation split; a finished one is not trained
again, a begun one goes on. Beside the usual errors: the RMS jerk of the most probable future and of the truth, over
agents that are known to the end (the discriminator judges shape, and jerk is what a wrong shape shows first). One
short training of one seed shows that a method works, not what it is worth. The committed result is
benchmarks/results/forecaster_methods.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visuomotor.launch.evaluate.score import machine
from visuomotor.perception.train.forecaster_adversarial import AdversarialSettings, Adversary
from visuomotor.perception.train.forecaster_data import SceneSet
from visuomotor.perception.train.forecaster_metrics import score_agents, summarise
from visuomotor.perception.train.forecaster_model import ForecasterConfig
from visuomotor.perception.train.forecaster_rows import FORECASTERS
from visuomotor.perception.train.forecaster_train import CHECKPOINT, Predictions, predict_batches, train

CONFIG = ForecasterConfig()
ADVERSARIAL = AdversarialSettings(weight=0.1, warm_up_steps=100)  # a full training waits longer
METHODS = {"plain": 0.0, "adversarial": 0.0, "l1": 0.2}  # L1 of each


def rms_jerk(path_m: np.ndarray) -> np.ndarray:
    """Root mean square jerk [N] in m/s^3 of paths [N, T, 2]."""
    jerk = np.diff(path_m.astype(float), n=3, axis=1) / CONFIG.step_s**3
    return np.sqrt((jerk**2).sum(2).mean(1))


def scores(found: Predictions) -> dict[str, Any]:
    """Errors and jerk with intervals over episodes."""
    agents = found.agents
    errors = score_agents(*found[:3], agents.future_m, agents.future_present)
    out: dict[str, Any] = summarise(errors, agents.group)
    whole = agents.future_present.all(1)
    likely = found.position_m[np.arange(len(agents)), found.probability.argmax(1)]
    jerk = {"jerk_mps3": rms_jerk(likely[whole]), "truth_jerk_mps3": rms_jerk(agents.future_m[whole])}
    return out | summarise(jerk, agents.group[whole])


def run(name: str, data: Path, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Train one method, or go on with it, and score it."""
    settings = replace(FORECASTERS["drive"].settings, epochs=epochs, seed=seed, l1=METHODS[name])
    adversary = Adversary(CONFIG, ADVERSARIAL, seed) if name == "adversarial" else None
    train_set, tune_set = SceneSet.load(data / "train.npz"), SceneSet.load(data / "tune.npz")
    begun = (folder / CHECKPOINT).is_file()
    result = train(train_set, tune_set, CONFIG, settings, folder, resume=begun, extra_loss=adversary)
    return {
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "processor_seconds": round(result.seconds),
        "zero_share": result.zero_share,
        "scores": scores(predict_batches(result.network, SceneSet.load(data / "evaluation.npz"))),
    }


def main() -> None:
    """Run what is missing, then write the results of all methods that are finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/tracks"))
    parser.add_argument("--runs", type=Path, default=Path("runs/forecaster-methods"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "forecaster_methods.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        place = options.runs / name
        if not (place / "scores.json").is_file():
            found = run(name, options.data, place, options.epochs, options.seed)
            (place / "scores.json").write_text(json.dumps(found))
    finished = {name: options.runs / name / "scores.json" for name in METHODS}
    methods = {name: json.loads(path.read_text()) for name, path in finished.items() if path.is_file()}
    for name, found in methods.items():
        print(name, *(f"{metric} {value['mean']:.3f}" for metric, value in found["scores"].items()))
    settings = {"adversarial": asdict(ADVERSARIAL), "l1": METHODS["l1"]}
    result = {
        "task": "drive",
        "data": {split: json.loads((options.data / f"{split}.json").read_text()) for split in ("train", "evaluation")},
        "seed": options.seed,
        "settings": settings,
        "machine": machine(),
        "methods": methods,
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
