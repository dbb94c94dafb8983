"""PPO that starts from an imitated policy: the value function learns first, and the teacher's word fades slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from torch.nn import functional as F

from visuomotor.control.train.imitation import Demonstrations, imitation_step


class WarmPPO(PPO):
    """``PPO`` of stable-baselines3 with two changes.

    The first ``value_rollouts`` rollouts train only the value network. After each update the actor takes some steps of
    imitation on ``demonstrations``, to which the environment adds the states of the rollout with the teacher's actions
    (on-policy aggregation); their learning rate is ``teacher_rate``, which the training lets fade to zero.
    """

    def __init__(self, *args: Any, value_rollouts: int = 0, **kwargs: Any) -> None:
        self.value_rollouts = value_rollouts
        self.rollouts_seen = 0
        self.teacher_rate = 0.0
        self.teacher_steps = 24
        self.demonstrations: Demonstrations | None = None
        self._teacher_optimizer: torch.optim.Optimizer | None = None
        super().__init__(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "demonstrations", "_teacher_optimizer"]

    def train(self) -> None:
        """One update from the rollout buffer, then imitation."""
        self.rollouts_seen += 1
        if self.rollouts_seen > self.value_rollouts:
            super().train()
        else:
            self._train_value()
        if self.teacher_rate > 0.0 and self.demonstrations is not None and len(self.demonstrations):
            self._imitate(self.demonstrations)

    def _train_value(self) -> None:
        self.policy.set_training_mode(True)
        losses = []
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                loss = F.mse_loss(self.policy.predict_values(batch.observations).flatten(), batch.returns)
                self.policy.optimizer.zero_grad(set_to_none=True)  # the actor gets no gradient and is left alone
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                losses.append(loss.item())
        self.logger.record("train/value_loss", float(np.mean(losses)))

    def _imitate(self, demonstrations: Demonstrations) -> None:
        optimizer = getattr(self, "_teacher_optimizer", None)
        if optimizer is None:
            actor = [*self.policy.mlp_extractor.policy_net.parameters(), *self.policy.action_net.parameters()]
            optimizer = self._teacher_optimizer = torch.optim.AdamW(actor, lr=self.teacher_rate, weight_decay=1e-5)
        for group in optimizer.param_groups:
            group["lr"] = self.teacher_rate
        newest = self.n_steps * self.n_envs
        losses = [
            imitation_step(
                self.policy, optimizer, *demonstrations.sample(self.batch_size, newest), demonstrations.lesson
            )
            for _ in range(self.teacher_steps)
        ]
        self.logger.record("train/imitation_loss", float(np.mean(losses)))
        self.logger.record("train/teacher_rate", self.teacher_rate)
