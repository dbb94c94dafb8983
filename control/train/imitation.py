"""Demonstrations of an expert, aggregated on the learner's path (DAgger, Ross 2011), and their fitting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from visuomotor.control.train.episodes import Expert
from visuomotor.control.train.lesson import Lesson
from visuomotor.control.train.lessons import DRIVING
from visuomotor.control.train.normalizer import Normalizer
from visuomotor.control.train.teacher import Teacher

BFLOAT16 = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX")  # half the time there
FAILURE_TICKS = 40  # the states that led to a collision or off the road ...
FAILURE_WEIGHT = 3.0  # ... count so much more


class Worlds(Protocol):
    """A vector environment of any task."""

    num_envs: int
    inputs: Any
    summaries: Any

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """First observations [B, D]."""
        ...

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations [B, D], rewards, terminated and truncated [B], infos."""
        ...


class Demonstrations:
    """Observations [M, D] and the teacher's actions and weights [M, A]; a ring that forgets beyond ``capacity``."""

    def __init__(self, capacity: int, seed: int = 0, lesson: Lesson = DRIVING) -> None:
        self.lesson = lesson
        self._observation = np.zeros((capacity, lesson.interface.layout.size), np.float32)
        self._action = np.zeros((capacity, lesson.interface.action_size), np.float32)
        self._weight = np.ones_like(self._action)
        self._added = 0
        self._rng = np.random.default_rng([seed, 0xDA66])
        self.normalizer: Normalizer | None = None

    def __len__(self) -> int:
        return min(self._added, len(self._observation))

    def add(self, observation: np.ndarray, action: np.ndarray) -> None:
        """Append a batch, raw observations [B, D] and actions [B, A], weighed as the lesson says."""
        places = (self._added + np.arange(len(observation))) % len(self._observation)
        self._observation[places], self._action[places] = observation, action
        self._weight[places] = self.lesson.weigh(observation, action)
        self._added += len(observation)

    def stress(self, row: int, batch: int, batches: int, factor: float) -> None:
        """Multiply the weights of one row of the last ``batches`` batches of ``batch`` rows that were added."""
        first = self._added - batch * min(batches, len(self) // batch)
        self._weight[np.arange(first + row, self._added, batch) % len(self._weight)] *= factor

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything kept."""
        return self._observation[: len(self)], self._action[: len(self)]

    def sample(self, count: int, newest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A batch of normalised observations, actions and weights, half of it from the ``newest`` entries."""
        if self.normalizer is None:
            raise RuntimeError("demonstrations have no normaliser yet")
        recent = self._added - 1 - self._rng.integers(0, min(newest, len(self)), count // 2)
        chosen = np.concatenate([recent % len(self._observation), self._rng.integers(0, len(self), count - count // 2)])
        observation = self.normalizer.apply(self._observation[chosen])
        chosen_arrays = (observation, self._action[chosen], self._weight[chosen])
        observations, actions, weights = (torch.from_numpy(array) for array in chosen_arrays)
        return observations, actions, weights

    def save(self, path: Path) -> None:
        """Write what is kept, so that a training can be resumed with it."""
        order = (self._added - len(self) + np.arange(len(self))) % len(self._observation)
        fresh = path.with_suffix(".tmp.npz")
        np.savez(fresh, observation=self._observation[order], action=self._action[order], weight=self._weight[order])
        fresh.replace(path)

    def load(self, path: Path) -> None:
        """Add what ``save`` wrote."""
        with np.load(path) as data:
            places = (self._added + np.arange(len(data["action"]))) % len(self._observation)
            self.add(data["observation"], data["action"])
            self._weight[places] = data["weight"]


def collect(
    demonstrations: Demonstrations,
    env: Worlds,
    steps: int,
    rng: np.random.Generator,
    gamma: float,
    learner: Callable[[np.ndarray], np.ndarray] | None = None,
    expert_share: float = 0.3,
    expert: Expert | None = None,
    ended_with: Callable[[Any], None] | None = None,
) -> tuple[float, float]:
    """Act for ``steps`` vector steps, labelling every state with the action of the expert (by default IDM + MOBIL).

    Without a learner the expert acts, with small disturbances; with one, it acts but in a share of the worlds. The
    states before a failure weigh more. ``ended_with`` is told every episode. Returns the success rate and the standard
    deviation of the discounted return so far (the scale of rewards).
    """
    expert = expert or Teacher(env.num_envs)
    lesson = demonstrations.lesson
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    by_expert = rng.random(env.num_envs) < expert_share
    returns, spread = np.zeros(env.num_envs), []
    success: list[bool] = []
    disturbance = np.zeros((env.num_envs, lesson.interface.action_size))
    for _ in range(steps):
        assert env.inputs is not None
        label = expert.act(env.inputs)
        demonstrations.add(observation, label)
        disturbance = 0.9 * disturbance + 0.44 * rng.normal(0.0, lesson.disturbance, disturbance.shape)
        action = label + disturbance
        if learner is not None:
            action = np.where(by_expert[:, None], action, learner(observation) + 0.5 * disturbance)
        observation, reward, terminated, truncated, _ = env.step(action)
        ended = terminated | truncated
        returns = gamma * returns + reward
        spread.append(returns.copy())
        returns[ended] = 0.0
        if ended.any():
            expert.reset(ended)
            by_expert[ended] = rng.random(int(ended.sum())) < expert_share
        for index, summary in env.summaries:
            success.append(summary.success)
            if summary.end in lesson.failures:
                demonstrations.stress(index, env.num_envs, FAILURE_TICKS, FAILURE_WEIGHT)
            if ended_with is not None:
                ended_with(summary)
    return float(np.mean(success)) if success else float("nan"), float(np.std(np.concatenate(spread)))


def imitation_step(
    policy: ActorCriticPolicy,
    optimizer: torch.optim.Optimizer,
    observation: torch.Tensor,
    action: torch.Tensor,
    weight: torch.Tensor,
    lesson: Lesson = DRIVING,
    bfloat16: bool = False,
) -> float:
    """One step of the mean action towards the teacher's, by a squared error that is linear beyond 0.3."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        mean = policy.action_net(policy.mlp_extractor.forward_actor(observation)).float()
    weight = weight * lesson.penalise(mean.detach(), action)
    loss = (F.smooth_l1_loss(mean, action, beta=0.3, reduction="none") * weight).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.item())


def imitate(
    policy: ActorCriticPolicy,
    demonstrations: Demonstrations,
    *,
    epochs: int,
    steps_max: int = 4000,
    batch_size: int = 1024,
    learning_rate: float = 5e-4,
) -> float:
    """Fit the policy's mean action to all demonstrations, ``steps_max`` batches at most; returns the last loss."""
    parameters = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    steps = min(epochs * -(-len(demonstrations) // batch_size), steps_max)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.05 * learning_rate)
    losses: list[float] = []
    for _ in range(steps):
        batch = demonstrations.sample(batch_size, len(demonstrations))
        losses.append(imitation_step(policy, optimizer, *batch, demonstrations.lesson, bfloat16=BFLOAT16))
        schedule.step()
    return float(np.mean(losses[-(steps // 10 + 1) :]))
