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
from visuomotor.sim.env import DriveVectorEnv, EpisodeSummary

SPEED = LAYOUT.names.index("ego_speed")
STANDING_MPS = 0.3
STANDING_LATERAL_WEIGHT = 0.1
BFLOAT16 = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AMX")  # half the time there
FAILURE_TICKS = 40  # the states that led to a collision or off the road ...
FAILURE_WEIGHT = 3.0  # ... count so much more
BRAKING_NORM = -0.2  # where the teacher brakes harder than this,
UNDER_BRAKING = 4.0  # to brake less than it costs so much more than to brake more


class Demonstrations:
    """Observations [M, D] and the teacher's actions and weights [M, 2]; a ring that forgets beyond ``capacity``."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self._observation = np.zeros((capacity, LAYOUT.size), np.float32)
        self._action = np.zeros((capacity, 2), np.float32)
        self._weight = np.ones((capacity, 2), np.float32)
        self._added = 0
        self._rng = np.random.default_rng([seed, 0xDA66])
        self.normalizer: Normalizer | None = None

    def __len__(self) -> int:
        return min(self._added, len(self._observation))

    def add(self, observation: np.ndarray, action: np.ndarray) -> None:
        """Append a batch, raw observations [B, D] and actions [B, 2].

        Where a car that stands should aim sideways is nearly arbitrary: such labels weigh less.
        """
        places = (self._added + np.arange(len(observation))) % len(self._observation)
        self._observation[places], self._action[places], self._weight[places] = observation, action, 1.0
        standing = (observation[:, SPEED] < STANDING_MPS) & (action[:, 0] < 0.0)
        self._weight[places[standing], 1] = STANDING_LATERAL_WEIGHT
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
    env: DriveVectorEnv,
    steps: int,
    rng: np.random.Generator,
    gamma: float,
    learner: Callable[[np.ndarray], np.ndarray] | None = None,
    expert_share: float = 0.3,
    expert: Driver | None = None,
    ended_with: Callable[[EpisodeSummary], None] | None = None,
) -> tuple[float, float]:
    """Drive ``steps`` vector steps, labelling every state with the action of the expert (by default IDM + MOBIL).

    Without a learner the expert drives, with small disturbances; with one, it drives but in a share of the worlds. The
    states before a failure weigh more. ``ended_with`` is told every episode. Returns the success rate and the standard
    deviation of the discounted return so far (the scale of rewards).
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
        for index, summary in env.summaries:
            success.append(summary.success)
            if summary.end in ("collision", "offroad"):
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
    bfloat16: bool = False,
) -> float:
    """One step of the mean action towards the teacher's, by a squared error that is linear beyond 0.3.

    The teacher sees what the learner cannot, so its braking is spread over states that look alike: too little of it
    costs more than too much (an asymmetric loss: the fit goes to a low expectile, not the mean).
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        mean = policy.action_net(policy.mlp_extractor.forward_actor(observation)).float()
    under = (action[:, 0] < BRAKING_NORM) & (mean[:, 0] > action[:, 0])
    weight = torch.stack([torch.where(under, UNDER_BRAKING * weight[:, 0], weight[:, 0]), weight[:, 1]], dim=1)
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
        losses.append(imitation_step(policy, optimizer, *batch, bfloat16=BFLOAT16))
        schedule.step()
    return float(np.mean(losses[-(steps // 10 + 1) :]))
