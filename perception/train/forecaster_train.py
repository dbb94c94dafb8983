"""The training loop of the forecaster, for any ``SceneSet``: schedule, EMA, early stopping, resume, TensorBoard."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from visuomotor.perception.train.forecaster_data import Augmentation, SceneSet, as_tensors, augment, batches
from visuomotor.perception.train.forecaster_loss import LossWeights, forecast_loss
from visuomotor.perception.train.forecaster_metrics import MANOEUVRES
from visuomotor.perception.train.forecaster_model import ForecasterConfig, ForecasterNetwork

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
RARE_WEIGHT_MAX = 5.0  # of an agent with a rare manoeuvre, relative to the most frequent one


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that shapes a training besides the data."""

    seed: int = 1
    epochs: int = 40
    agents_per_batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up_steps: int = 200
    ema_decay: float = 0.998
    patience: int = 8  # epochs without a better validation score
    time_limit_s: float = math.inf  # of processor time
    steps_per_epoch: int | None = None  # None: all batches
    weights: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass
class TrainingResult:
    """The best network (EMA weights) and how training went."""

    network: ForecasterNetwork
    best_score: float
    best_epoch: int
    epochs: int
    seconds: float


def manoeuvre_weights(data: SceneSet) -> np.ndarray:
    """Weight of each manoeuvre in the loss, float32 [M + 1], the last for unknown: rare ones count more."""
    counts = np.bincount(data.manoeuvre[data.scored] % (len(MANOEUVRES) + 1), minlength=len(MANOEUVRES) + 1)
    weight = np.sqrt(counts.max() / np.maximum(counts, 1))
    return np.minimum(weight, RARE_WEIGHT_MAX).astype(np.float32)


class Predictions(NamedTuple):
    """Futures of the scored agents of a set, and those agents in the same order and coordinates."""

    position_m: np.ndarray  # [n, K, T, 2]
    spread_m: np.ndarray  # [n, K, T, 3]
    probability: np.ndarray  # [n, K]
    agents: SceneSet


def predict_batches(network: ForecasterNetwork, data: SceneSet, agents: int = 512) -> Predictions:
    """Run a network over a whole set."""
    outs: list[list[np.ndarray]] = [[], [], []]
    parts: list[SceneSet] = []
    network.eval()
    with torch.no_grad():
        for batch in batches(data, agents, None):
            position, spread, log_probability = network(**as_tensors(batch))
            keep = batch.scored
            for out, value in zip(outs, (position, spread, log_probability.exp()), strict=True):
                out.append(value.numpy()[keep])
            parts.append(batch.take(keep))
    position_m, spread_m, probability_k = (np.concatenate(out) for out in outs)
    return Predictions(position_m, spread_m, probability_k, SceneSet.concatenate(parts, regroup=False))


def validation_score(network: ForecasterNetwork, data: SceneSet) -> dict[str, float]:
    """ADE (m) of the nearest and of the most probable future, and their mean: the ``score`` of early stopping."""
    position, _, probability, scored = predict_batches(network, data)
    error = np.linalg.norm(position - scored.future_m[:, None], axis=-1)
    mask = scored.future_present[:, None]
    ade = (error * mask).sum(2) / np.maximum(mask.sum(2), 1)
    nearest = float(ade.min(1).mean())
    likely = float(np.take_along_axis(ade, probability.argmax(1)[:, None], 1).mean())
    return {"min_ade_m": nearest, "likely_ade_m": likely, "score": 0.5 * (nearest + likely)}


def train(
    train_set: SceneSet,
    validation_set: SceneSet,
    config: ForecasterConfig,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool = False,
    report: Callable[[str], None] = print,
    extra_loss: Callable[..., torch.Tensor] | None = None,
) -> TrainingResult:
    """Train a network; checkpoints and TensorBoard events go to ``folder``, and ``resume`` goes on from there.

    Raises FileNotFoundError when there is nothing to resume, ValueError when it was made with another network.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    importance = manoeuvre_weights(train_set)
    folder.mkdir(parents=True, exist_ok=True)
    network = ForecasterNetwork(config)
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(_decayed(network, settings.weight_decay), lr=settings.learning_rate)
    bounds = train_set.scene_bounds()
    all_steps = max(1, round(len(train_set) / settings.agents_per_batch))
    per_epoch = min(settings.steps_per_epoch or all_steps, all_steps)
    total = per_epoch * settings.epochs
    state: dict[str, Any] = {"epoch": 0, "step": 0, "best": math.inf, "best_epoch": -1, "seconds": 0.0}
    if resume:
        state = _restore(folder / CHECKPOINT, network, average, optimizer, config)
        rng = np.random.default_rng([settings.seed, state["epoch"]])
    report(f"{len(train_set)} agents in {len(bounds) - 1} scenes, {per_epoch} steps an epoch, {settings.epochs} epochs")
    writer = SummaryWriter(str(folder / "events"))
    started = time.process_time() - state["seconds"]  # of this process: a busy machine must not end a training
    while state["epoch"] < settings.epochs:
        network.train()
        sums: dict[str, float] = {}
        taken = 0
        for batch in batches(train_set, settings.agents_per_batch, rng):
            if taken == per_epoch:
                break
            taken += 1
            state["step"] += 1
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(state["step"], settings.warm_up_steps, total)
            changed = augment(batch, settings.augmentation, rng)
            outputs = network(**as_tensors(changed))
            keep = torch.from_numpy(changed.scored)
            truth, known = torch.from_numpy(changed.future_m), torch.from_numpy(changed.future_present)
            weight = torch.from_numpy(importance[changed.manoeuvre[changed.scored]])
            position, spread, log_probability = (o[keep] for o in outputs)
            loss, parts = forecast_loss(
                position, spread, log_probability, truth[keep], known[keep], settings.weights, weight
            )
            if extra_loss is not None:
                loss = loss + extra_loss(changed, outputs)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            decay = min(settings.ema_decay, (1 + state["step"]) / (10 + state["step"]))
            with torch.no_grad():
                for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
            for name, value in {**parts, "total": float(loss.detach())}.items():
                sums[name] = sums.get(name, 0.0) + value
        state["epoch"] += 1
        state["seconds"] = time.process_time() - started
        scores = validation_score(average, validation_set)
        for name, value in sums.items():
            writer.add_scalar(f"train/{name}", value / max(taken, 1), state["epoch"])
        for name, value in scores.items():
            writer.add_scalar(f"validation/{name}", value, state["epoch"])
        if scores["score"] < state["best"]:
            state["best"], state["best_epoch"] = scores["score"], state["epoch"]
            torch.save({"config": config.to_dict(), "weights": average.state_dict()}, folder / BEST)
        _save(folder / CHECKPOINT, network, average, optimizer, config, state)
        report(
            f"epoch {state['epoch']}: loss {sums['total'] / max(taken, 1):.3f}, nearest {scores['min_ade_m']:.3f} m, "
            f"most probable {scores['likely_ade_m']:.3f} m, {state['seconds']:.0f} s"
        )
        if state["epoch"] - state["best_epoch"] >= settings.patience or state["seconds"] > settings.time_limit_s:
            break
    writer.close()
    return TrainingResult(
        load_network(folder / BEST), state["best"], state["best_epoch"], state["epoch"], state["seconds"]
    )


def load_network(path: Path) -> ForecasterNetwork:
    """The network of a checkpoint, ready to predict. No pickled objects are read."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = ForecasterNetwork(ForecasterConfig(**stored["config"]))
    network.load_state_dict(stored["weights"])
    return network.eval()


def _schedule(step: int, warm_up: int, total: int) -> float:
    return min(step / warm_up, 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0))) * 0.99 + 0.01)


def _decayed(network: ForecasterNetwork, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def _save(
    path: Path,
    network: ForecasterNetwork,
    average: ForecasterNetwork,
    optimizer: torch.optim.Optimizer,
    config: ForecasterConfig,
    state: dict[str, Any],
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "config": config.to_dict(),
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "state": dict(state),
        },
        partial,
    )
    partial.replace(path)


def _restore(
    path: Path,
    network: ForecasterNetwork,
    average: ForecasterNetwork,
    optimizer: torch.optim.Optimizer,
    config: ForecasterConfig,
) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: nothing to resume")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if stored["config"] != config.to_dict():
        raise ValueError(f"{path}: was made with the network {stored['config']}, expected {config.to_dict()}")
    network.load_state_dict(stored["network"])
    average.load_state_dict(stored["average"])
    optimizer.load_state_dict(stored["optimizer"])
    return dict(stored["state"])
