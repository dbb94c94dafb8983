"""The training loop of the forecaster, for any ``SceneSet``: schedule, EMA, early stopping, resume, TensorBoard."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from visuomotor.perception.train.forecaster_data import Augmentation, SceneSet, as_tensors, augment, batches
from visuomotor.perception.train.forecaster_loss import LossWeights, forecast_loss
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
    weight_decay: float = 1e-2  # L2, decoupled from the gradient (AdamW)
    l1: float = 0.0  # of the matrices: each step moves their weights towards 0 by this share of the learning rate
    warm_up_steps: int = 200
    ema_decay: float = 0.998
    patience: int = 8  # epochs without a better validation score
    time_limit_s: float = math.inf  # of processor time
    steps_per_epoch: int | None = None  # None: all batches
    weights: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in ("weight_decay", "l1"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")


class ExtraLoss(Protocol):
    """A further term of the loss, with a state that is checkpointed beside the network's."""

    def __call__(
        self, batch: SceneSet, outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The term for an augmented batch and the network's outputs of all its agents, and figures for TensorBoard."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        ...


@dataclass
class TrainingResult:
    """The best network (EMA weights) and how training went."""

    network: ForecasterNetwork
    best_score: float
    best_epoch: int
    epochs: int
    seconds: float
    zero_share: float = 0.0  # of the matrices' weights


def manoeuvre_weights(data: SceneSet) -> np.ndarray:
    """Weight of each manoeuvre in the loss, float32 [M + 1], the last for unknown (-1): rare ones count more."""
    kinds = int(data.manoeuvre.max(initial=-1)) + 2
    counts = np.bincount(data.manoeuvre[data.scored] % kinds, minlength=kinds)
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
    extra_loss: ExtraLoss | None = None,
) -> TrainingResult:
    """Train a network; checkpoints and TensorBoard events go to ``folder``, and ``resume`` goes on from there.

    ``extra_loss`` adds a term of its own, see ``forecaster_adversarial``. Raises FileNotFoundError when there is
    nothing to resume, ValueError when it was made with another network, or with an extra loss and none is given now.
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
        state = _restore(folder / CHECKPOINT, network, average, optimizer, config, extra_loss)
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
            unit = config.unit_m  # the weights of the terms are for lengths of about one
            loss, parts = forecast_loss(
                position / unit,
                spread / spread.new_tensor([unit, unit, 1.0]),
                log_probability,
                truth[keep] / unit,
                known[keep],
                settings.weights,
                weight,
            )
            if extra_loss is not None:
                term, figures = extra_loss(changed, outputs)
                loss, parts = loss + term, parts | figures
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            if settings.l1:
                soften(network, optimizer.param_groups[0]["lr"] * settings.l1)
            decay = min(settings.ema_decay, (1 + state["step"]) / (10 + state["step"]))
            with torch.no_grad():
                for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
            for name, value in {**parts, "total": float(loss.detach())}.items():
                sums[name] = sums.get(name, 0.0) + value
        if settings.l1:
            _take_zeros(average, network)
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
        _save(folder / CHECKPOINT, network, average, optimizer, config, state, extra_loss)
        report(
            f"epoch {state['epoch']}: loss {sums['total'] / max(taken, 1):.3f}, nearest {scores['min_ade_m']:.3f} m, "
            f"most probable {scores['likely_ade_m']:.3f} m, {state['seconds']:.0f} s"
        )
        if state["epoch"] - state["best_epoch"] >= settings.patience or state["seconds"] > settings.time_limit_s:
            break
    writer.close()
    best = load_network(folder / BEST)
    zeros = zero_share(best)
    if settings.l1:
        report(f"L1 {settings.l1:g}: {100 * zeros:.1f} % of the matrices' weights are zero")
    return TrainingResult(best, state["best"], state["best_epoch"], state["epoch"], state["seconds"], zeros)


def load_network(path: Path) -> ForecasterNetwork:
    """The network of a checkpoint, ready to predict. No pickled objects are read."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = ForecasterNetwork(ForecasterConfig(**stored["config"]))
    network.load_state_dict(stored["weights"])
    return network.eval()


def _schedule(step: int, warm_up: int, total: int) -> float:
    return min(step / warm_up, 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0))) * 0.99 + 0.01)


def soften(network: ForecasterNetwork, threshold: float) -> None:
    """Move every weight of the matrices towards 0 by ``threshold``, to 0 when it is nearer: the proximal step of an L1
    penalty (Parikh & Boyd 2014), after which small weights are 0 exactly.
    """
    with torch.no_grad():
        for matrix in _matrices(network):
            matrix.copy_(torch.nn.functional.softshrink(matrix, threshold))


def zero_share(network: ForecasterNetwork) -> float:
    """Share of the matrices' weights that are exactly 0."""
    matrices = _matrices(network)
    return sum(int((m == 0).sum()) for m in matrices) / sum(m.numel() for m in matrices)


def _take_zeros(average: ForecasterNetwork, network: ForecasterNetwork) -> None:
    """A running average only nears 0: set its weights to 0 where the network's are, before they are scored and kept."""
    with torch.no_grad():
        for kept, new in zip(_matrices(average), _matrices(network), strict=True):
            kept.mul_(new != 0)


def _matrices(network: ForecasterNetwork) -> list[torch.nn.Parameter]:
    return [p for p in network.parameters() if p.ndim > 1]


def _decayed(network: ForecasterNetwork, decay: float) -> list[dict[str, Any]]:
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": _matrices(network), "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def _save(
    path: Path,
    network: ForecasterNetwork,
    average: ForecasterNetwork,
    optimizer: torch.optim.Optimizer,
    config: ForecasterConfig,
    state: dict[str, Any],
    extra_loss: ExtraLoss | None,
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "config": config.to_dict(),
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "state": dict(state),
            "extra_loss": None if extra_loss is None else extra_loss.state_dict(),
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
    extra_loss: ExtraLoss | None,
) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: nothing to resume")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if ForecasterConfig(**stored["config"]) != config:
        raise ValueError(f"{path}: was made with the network {stored['config']}, expected {config.to_dict()}")
    extra = stored.get("extra_loss")  # absent in checkpoints from before there was one
    if (extra is None) != (extra_loss is None):
        made, given = ("without" if missing else "with" for missing in (extra is None, extra_loss is None))
        raise ValueError(f"{path}: was trained {made} an extra (adversarial) loss, cannot be resumed {given} one")
    if extra_loss is not None:
        extra_loss.load_state_dict(extra)
    network.load_state_dict(stored["network"])
    average.load_state_dict(stored["average"])
    optimizer.load_state_dict(stored["optimizer"])
    return dict(stored["state"])
