"""Warm start: demonstrations of the rule-based driver, aggregated on the learner's own path (DAgger, Ross 2011)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.train.normalizer import Normalizer
from visuomotor.sim.env import DriveVectorEnv

LATERAL_WEIGHT = 1.0


class Demonstrations:
    """Observations [M, D], the expert's actions [M, 2] and the discounted return that followed, growing by rounds."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self._observation: list[np.ndarray] = []
        self._action: list[np.ndarray] = []
        self.return_deviation = 1.0

    def __len__(self) -> int:
        return sum(len(part) for part in self._observation)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything collected."""
        return np.concatenate(self._observation), np.concatenate(self._action)

    def collect(
        self,
        env: DriveVectorEnv,
        steps: int,
        rng: np.random.Generator,
        learner: Callable[[np.ndarray], np.ndarray] | None = None,
        expert_share: float = 0.3,
    ) -> float:
        """Drive ``steps`` vector steps, labelling every state with the expert's action; returns the success rate.

        Without a learner the expert drives, with small disturbances; with one, it drives but in a share of the worlds.
        """
        expert = IdmMobilDriver(env.num_envs)
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        by_expert = rng.random(env.num_envs) < expert_share
        returns, spread = np.zeros(env.num_envs), []
        success: list[bool] = []
        disturbance = np.zeros((env.num_envs, 2))
        for _ in range(steps):
            assert env.inputs is not None
            label = expert.act(env.inputs)
            self._observation.append(observation)
            self._action.append(label.astype(np.float32))
            disturbance = 0.9 * disturbance + 0.44 * rng.normal(0.0, (0.15, 0.1), disturbance.shape)
            action = label + disturbance
            if learner is not None:
                action = np.where(by_expert[:, None], action, learner(observation) + 0.5 * disturbance)
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = terminated | truncated
            returns = self.gamma * returns + reward
            spread.append(returns.copy())
            returns[ended] = 0.0
            if ended.any():
                expert.reset(ended)
                by_expert[ended] = rng.random(int(ended.sum())) < expert_share
                success += [summary.success for _, summary in env.summaries]
        if learner is None:
            self.return_deviation = float(np.std(np.concatenate(spread)))
        return float(np.mean(success)) if success else float("nan")


def imitate(
    policy: ActorCriticPolicy,
    normalizer: Normalizer,
    demonstrations: Demonstrations,
    *,
    epochs: int,
    batch_size: int = 1024,
    learning_rate: float = 5e-4,
    generator: torch.Generator | None = None,
) -> float:
    """Fit the policy's mean action to the expert's by squared error; returns the last epoch's loss."""
    observations, actions = demonstrations.arrays()
    data = torch.from_numpy(normalizer.apply(observations))
    target = torch.from_numpy(actions)
    parameters = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    total = epochs * -(-len(data) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=0.05 * learning_rate)
    weight = torch.tensor([1.0, LATERAL_WEIGHT])
    loss_value = float("nan")
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        losses = []
        for chosen in order.split(batch_size):
            mean = policy.action_net(policy.mlp_extractor.forward_actor(data[chosen]))
            loss = (F.smooth_l1_loss(mean, target[chosen], beta=0.3, reduction="none") * weight).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        loss_value = float(np.mean(losses))
    return loss_value
