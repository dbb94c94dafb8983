"""Training and scoring on ETH/UCY, leave one scene out: ``python -m visuomotor.perception.train.eth_ucy --data DIR``.

Five networks, one for each held-out scene, and one more on all scenes' training parts that becomes the bundle. Stops
and goes on: a scene whose score is in the results file is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visuomotor.perception.train.eth_ucy_data import (
    OBSERVED,
    PREDICTED,
    SCENES,
    STEP_S,
    load_split,
)
from visuomotor.perception.train.forecaster_data import Augmentation, SceneSet
from visuomotor.perception.train.forecaster_loss import LossWeights
from visuomotor.perception.train.forecaster_metrics import interval, score_agents
from visuomotor.perception.train.forecaster_model import ForecasterConfig, ForecasterNetwork
from visuomotor.perception.train.forecaster_train import CHECKPOINT, TrainingSettings, predict_batches, train

CONFIG = ForecasterConfig(
    history_samples=OBSERVED,
    horizon_steps=PREDICTED,
    step_s=STEP_S,
    steps_per_cell=4,
    speed_scale_mps=1.0,
    length_scale_m=3.0,
    dropout=0.2,
)
SETTINGS = TrainingSettings(
    epochs=25,
    agents_per_batch=512,
    learning_rate=2e-3,
    patience=8,
    steps_per_epoch=100,
    time_limit_s=260.0,
    weights=LossWeights(central=1.0, others=0.05, choice=0.1),
    augmentation=Augmentation(scale_low=0.8, scale_high=1.4, noise_m=0.01, drop_share=0.02),
)
RULES = {"windows with at least 2 complete pedestrians": 2, "windows with at least 1 complete pedestrian": 1}


def constant_velocity(history_m: np.ndarray, steps: int) -> np.ndarray:
    """The benchmark's usual baseline: the last displacement repeated, [N, T, 2] (Schoeller et al. 2020)."""
    move = history_m[:, -1] - history_m[:, -2]
    return history_m[:, -1:] + move[:, None] * np.arange(1, steps + 1)[:, None]


def score_scene(network: ForecasterNetwork, data: SceneSet) -> dict[str, Any]:
    """Scores of one scene's test set beside constant velocity, with intervals."""
    position, spread, probability, scored = predict_batches(network, data)
    scores = score_agents(position, spread, probability, scored.future_m, scored.future_present)
    line = constant_velocity(scored.history_m, PREDICTED)
    error = np.linalg.norm(line - scored.future_m, axis=-1)
    scores |= {"cv_ade_m": error.mean(1), "cv_fde_m": error[:, -1]}
    return {name: interval(values, scored.group) for name, values in scores.items()}


def run_scene(
    root: Path, scene: str, folder: Path, settings: TrainingSettings, report: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train without ``scene`` and score on it under both counting rules."""
    train_set = load_split(root, scene, "train", min_complete=1)
    validation_set = load_split(root, scene, "val", min_complete=1)
    resume = (folder / CHECKPOINT).is_file()
    result = train(train_set, validation_set, CONFIG, settings, folder, resume=resume, report=report)
    out: dict[str, Any] = {
        rule: score_scene(result.network, load_split(root, scene, "test", least)) for rule, least in RULES.items()
    }
    out["training"] = {"epochs": result.epochs, "best_epoch": result.best_epoch, "seconds": round(result.seconds)}
    return out


def mean_scores(scenes: dict[str, Any], rule: str) -> dict[str, float]:
    """Mean over the scenes, as the literature averages."""
    names = next(iter(scenes.values()))[rule]
    return {name: float(np.mean([scenes[scene][rule][name]["mean"] for scene in scenes])) for name in names}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with raw/train, raw/val, raw/all_data")
    parser.add_argument("--out", type=Path, default=Path("runs/eth_ucy"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/eth_ucy.json"))
    parser.add_argument("--scenes", nargs="*", default=list(SCENES), choices=list(SCENES))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    scenes: dict[str, Any] = {}
    for scene in options.scenes:
        path = options.out / f"{scene}.json"
        if not path.is_file():
            path.write_text(json.dumps(run_scene(options.data, scene, options.out / scene, SETTINGS)))
        scenes[scene] = json.loads(path.read_text())
        for rule in RULES:
            got = scenes[scene][rule]
            print(scene, rule, *(f"{k} {v['mean']:.3f}" for k, v in got.items()), got["ade_m"]["n"], flush=True)
    results = {"scenes": scenes, "mean": {rule: mean_scores(scenes, rule) for rule in RULES}}
    print(json.dumps(results["mean"], indent=1))
    if list(scenes) == list(SCENES):
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
