"""k-fold cross-validation of the forecaster: the spread of its scores over which episodes were held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from visuomotor.perception.baseline_forecasters import ConstantVelocity
from visuomotor.perception.tasks import PerceptionTask
from visuomotor.perception.train.forecaster_data import SceneSet
from visuomotor.perception.train.forecaster_metrics import METRICS, MISS_M, score_agents
from visuomotor.perception.train.forecaster_model import ForecasterConfig
from visuomotor.perception.train.forecaster_train import (
    CHECKPOINT,
    ExtraLoss,
    Predictions,
    TrainingSettings,
    predict_batches,
    train,
)

RESULTS = "folds.json"
Scores = dict[str, dict[str, float]]  # of the network and of constant velocity


def split_groups(group: np.ndarray, folds: int, seed: int = 0) -> list[np.ndarray]:
    """Groups of each fold, drawn at random: every group of the agents [N] is in exactly one.

    Raises ValueError when there are fewer than two folds, or fewer groups than folds.
    """
    groups = np.unique(group)
    if folds < 2:
        raise ValueError(f"folds: expected 2 or more, got {folds}")
    if folds > len(groups):
        raise ValueError(f"folds: expected at most one for each of the {len(groups)} groups (episodes), got {folds}")
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(groups), folds)]


def fold_sets(data: SceneSet, held_out: np.ndarray) -> tuple[SceneSet, SceneSet]:
    """What a fold is trained on and what it is scored on: the agents of all other groups, and of those held out."""
    out = np.isin(data.group, held_out)
    return data.take(~out), data.take(out)


def cross_validate(
    data: SceneSet,
    tune_set: SceneSet,
    config: ForecasterConfig,
    settings: TrainingSettings,
    folds: int,
    folder: Path,
    *,
    resume: bool = False,
    report: Callable[[str], None] = print,
    make_extra_loss: Callable[[], ExtraLoss | None] = lambda: None,
    task: PerceptionTask | None = None,
    miss_m: float = MISS_M,
    note: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a network without each fold of ``data`` and score it on that fold, beside constant velocity.

    ``tune_set`` chooses the epoch of every fold, so the held-out fold has had no say in its network. Writes
    ``folds.json`` after every fold; ``resume`` keeps the folds in it and goes on with the one that was begun. ``note``
    is kept in the file and, with folds and settings, must be the same to resume (else ValueError).
    """
    parts = split_groups(data.group, folds, settings.seed)
    plan = {"folds": folds, "settings": _plain(settings), **(note or {})}
    done = _finished(folder / RESULTS, plan) if resume else []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(done) + 1, folds + 1):
        place = folder / f"fold-{number}"
        train_set, held_out = fold_sets(data, parts[number - 1])
        report(f"fold {number} of {folds}: {len(parts[number - 1])} groups held out")
        begun = resume and (place / CHECKPOINT).is_file()
        result = train(
            train_set, tune_set, config, settings, place, resume=begun, report=report, extra_loss=make_extra_loss()
        )
        scores = {
            "lstm": _mean_scores(predict_batches(result.network, held_out), miss_m),
            "cv": _mean_scores(_constant_velocity(held_out, config, task), miss_m),
        }
        done.append({"groups": parts[number - 1].tolist(), "best_epoch": result.best_epoch, "scores": scores})
        _write(folder / RESULTS, {"plan": plan, "finished": done, "summary": summary([f["scores"] for f in done])})
    for line in table([f["scores"] for f in done]):
        report(line)
    found: dict[str, Any] = json.loads((folder / RESULTS).read_text())
    return found


def summary(scores: list[Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """Forecaster -> metric -> mean and sample standard deviation over the folds (0 for a single one)."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for name in scores[0]:
        values = {metric: np.array([fold[name][metric] for fold in scores]) for metric in METRICS}
        out[name] = {
            metric: {"mean": float(v.mean()), "std": float(v.std(ddof=1)) if len(v) > 1 else 0.0}
            for metric, v in values.items()
        }
    return out


def table(scores: list[Scores]) -> list[str]:
    """Markdown table: a row for each fold, one with mean and standard deviation; constant velocity behind the slash."""
    rows = [[f"{fold['lstm'][m]:.3f} / {fold['cv'][m]:.3f}" for m in METRICS] for fold in scores]
    total = summary(scores)
    last = [
        " / ".join(f"{total[n][m]['mean']:.3f} ± {total[n][m]['std']:.3f}" for n in ("lstm", "cv")) for m in METRICS
    ]
    names = [*(str(number) for number in range(1, len(scores) + 1)), "mean ± std"]
    return [
        "| fold | " + " | ".join(f"{metric}: lstm / cv" for metric in METRICS) + " |",
        "|---" * (1 + len(METRICS)) + "|",
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in zip(names, [*rows, last], strict=True)),
    ]


def _mean_scores(found: Predictions, miss_m: float) -> dict[str, float]:
    agents = found.agents
    scores = score_agents(*found[:3], agents.future_m, agents.future_present, miss_m)
    return {name: float(values.mean()) for name, values in scores.items()}


def _constant_velocity(data: SceneSet, config: ForecasterConfig, task: PerceptionTask | None) -> Predictions:
    agents = data.take(data.scored)
    straight = ConstantVelocity(
        task, history_samples=config.history_samples, horizon_steps=config.horizon_steps, step_s=config.step_s
    )
    futures = straight.predict(agents.history_m, agents.present, agents.class_id, agents.scene)
    return Predictions(*futures, agents)


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that make a network what it is, as JSON has them: a time limit may change on resuming."""
    values = asdict(replace(settings, time_limit_s=0.0))
    del values["time_limit_s"]
    plain: dict[str, Any] = msgspec.to_builtins(values)
    return plain


def _finished(path: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    stored = json.loads(path.read_text())
    for key in sorted(plan.keys() | stored["plan"].keys()):
        if stored["plan"].get(key) != plan.get(key):
            raise ValueError(f"{path}: was made with {key} {stored['plan'].get(key)}, expected {plan.get(key)}")
    finished: list[dict[str, Any]] = stored["finished"]
    return finished


def _write(path: Path, data: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    partial.replace(path)
