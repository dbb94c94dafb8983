"""Demonstrations of a written driver, aggregated on the learner's path (DAgger, Ross 2011), and their fitting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from visuomotor.control.observation import LAYOUT
from visuomotor.control.train.episodes import Driver
from visuomotor.control.train.normalizer import Normalizer
from visuomotor.control.train.teacher import Teacher
from visuomotor.sim.env import DriveVectorEnv


class Demonstrations:
    """Observations [M, D] and the teacher's actions [M, 2]; a ring that forgets the oldest beyond ``capacity``."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self._observation = np.zeros((capacity, LAYOUT.size), np.float32)
        self._action = np.zeros((capacity, 2), np.float32)
        self._added = 0
        self._rng = np.random.default_rng([seed, 0xDA66])
        self.normalizer: Normalizer | None = None

    def __len__(self) -> int:
        return min(self._added, len(self._observation))

    def add(self, observation: np.ndarray, action: np.ndarray) -> None:
        """Append a batch, raw observations [B, D] and actions [B, 2]."""
        places = (self._added + np.arange(len(observation))) % len(self._observation)
        self._observation[places], self._action[places] = observation, action
        self._added += len(observation)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything kept."""
        return self._observation[: len(self)], self._action[: len(self)]

    def sample(self, count: int, newest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of normalised observations and actions, half of it from the ``newest`` entries."""
        if self.normalizer is None:
            raise RuntimeError("demonstrations have no normaliser yet")
        recent = self._added - 1 - self._rng.integers(0, min(newest, len(self)), count // 2)
        chosen = np.concatenate([recent % len(self._observation), self._rng.integers(0, len(self), count - count // 2)])
        observation = self.normalizer.apply(self._observation[chosen])
        return torch.from_numpy(observation), torch.from_numpy(self._action[chosen])

    def save(self, path: Path) -> None:
        """Write what is kept, so that a training can be resumed with it."""
        order = (self._added - len(self) + np.arange(len(self))) % len(self._observation)
        fresh = path.with_suffix(".tmp.npz")
        np.savez(fresh, observation=self._observation[order], action=self._action[order])
        fresh.replace(path)

    def load(self, path: Path) -> None:
        """Add what ``save`` wrote."""
        with np.load(path) as data:
            self.add(data["observation"], data["action"])


def collect(
    demonstrations: Demonstrations,
    env: DriveVectorEnv,
    steps: int,
    rng: np.random.Generator,
    gamma: float,
    learner: Callable[[np.ndarray], np.ndarray] | None = None,
    expert_share: float = 0.3,
    expert: Driver | None = None,
) -> tuple[float, float]:
    """Drive ``steps`` vector steps, labelling every state with the action of the expert (by default IDM + MOBIL).

    Without a learner the expert drives, with small disturbances; with one, it drives but in a share of the worlds.
    Returns the success rate and the standard deviation of the discounted return so far (the scale of rewards).
    """
    expert = Teacher(env.num_envs)
    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    by_expert = rng.random(env.num_envs) < expert_share
    returns, spread = np.zeros(env.num_envs), []
    success: list[bool] = []
    disturbance = np.zeros((env.num_envs, 2))
    for _ in range(steps):
        assert env.inputs is not None
        label = expert.act(env.inputs)
        demonstrations.add(observation, label)
        disturbance = 0.9 * disturbance + 0.44 * rng.normal(0.0, (0.15, 0.1), disturbance.shape)
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
            success += [summary.success for _, summary in env.summaries]
    return float(np.mean(success)) if success else float("nan"), float(np.std(np.concatenate(spread)))


def imitation_step(
    policy: ActorCriticPolicy, optimizer: torch.optim.Optimizer, observation: torch.Tensor, action: torch.Tensor
) -> float:
    """One step of the mean action towards the teacher's, by a squared error that is linear beyond 0.3."""
    mean = policy.action_net(policy.mlp_extractor.forward_actor(observation))
    loss = F.smooth_l1_loss(mean, action, beta=0.3)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.item())


def imitate(
    policy: ActorCriticPolicy,
    demonstrations: Demonstrations,
    *,
    epochs: int,
    batch_size: int = 1024,
    learning_rate: float = 5e-4,
) -> float:
    """Fit the policy's mean action to all demonstrations; returns the loss of the last epoch."""
    parameters = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    steps = -(-len(demonstrations) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps, eta_min=0.05 * learning_rate)
    losses: list[float] = []
    for _ in range(epochs * steps):
        losses.append(imitation_step(policy, optimizer, *demonstrations.sample(batch_size, len(demonstrations))))
        schedule.step()
    return float(np.mean(losses[-steps:]))
