"""PPO that starts from an imitated policy without destroying it: first the value function alone learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from torch.nn import functional as F


class WarmPPO(PPO):
    """``PPO`` of stable-baselines3 whose first ``value_rollouts`` rollouts train only the value network."""

    def __init__(self, *args: Any, value_rollouts: int = 0, **kwargs: Any) -> None:
        self.value_rollouts = value_rollouts
        self.rollouts_seen = 0
        super().__init__(*args, **kwargs)

    def train(self) -> None:
        """One update from the rollout buffer."""
        self.rollouts_seen += 1
        if self.rollouts_seen > self.value_rollouts:
            super().train()
            return
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
