"""Adversarial training of the forecaster: an LSTM judges whether a future is a true one or a predicted one.

Gupta et al. 2018 (Social GAN) with a spectrally normalised discriminator (Miyato et al. 2018). What it must not see:
histories are the tracker's, with noise and gaps, and the truth is clean, so a true future leaves its history with a
step and a bend that no prediction has. Theirs judges history and future together, and would learn that joint instead
of motion. Here it sees the future alone, as moves between consecutive predicted steps (the joint has no move), from the
future's own position and direction, scaled as the network scales its own. Steps that the truth lacks are hidden in the
prediction too, and both get the same noise (Arjovsky & Bottou 2017), so that millimetres tell nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from visuomotor.perception.train.forecaster_data import SceneSet
from visuomotor.perception.train.forecaster_model import ForecasterConfig


@dataclass(frozen=True)
class AdversarialSettings:
    """The generator's term and the discriminator that gives it."""

    weight: float = 0.1  # of the generator's term in the network's loss
    warm_up_steps: int = 300  # in which only the discriminator learns
    learning_rate: float = 2e-3
    hidden: int = 32
    noise_share: float = 0.0005  # of the length scale, on every position that is judged

    def __post_init__(self) -> None:
        for name in ("weight", "warm_up_steps", "noise_share"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"adversarial {name}: expected 0 or more, got {getattr(self, name)}")
        for name in ("learning_rate", "hidden"):
            if not getattr(self, name) > 0:
                raise ValueError(f"adversarial {name}: expected more than 0, got {getattr(self, name)}")


class Discriminator(nn.Module):
    """Scores futures: above 0 true, below 0 predicted. Every matrix but the classes' embedding has spectral norm 1."""

    def __init__(self, config: ForecasterConfig, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.class_embedding = nn.Embedding(config.classes, 4)
        self.step_in = nn.Sequential(spectral_norm(nn.Linear(4 + 4, hidden)), nn.ReLU())
        self.reader = nn.LSTM(hidden, hidden, batch_first=True)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            spectral_norm(self.reader, name)
        self.judge = spectral_norm(nn.Linear(hidden, 1))

    def forward(self, future_m: Tensor, known: Tensor, class_id: Tensor) -> Tensor:
        """Mean score [N] over the known moves of futures [N, T, 2] with known steps [N, T] bool, classes [N]."""
        moves, both = own_moves(future_m, known, self.config)
        bend = torch.cat([torch.zeros_like(moves[:, :1]), moves[:, 1:] - moves[:, :-1]], 1)
        # A change of move is small beside the move: enlarged, the limited slope of the network can still tell it.
        bend = 20.0 * bend * torch.cat([torch.zeros_like(both[:, :1]), both[:, :-1]], 1)[..., None]
        kind = self.class_embedding(class_id)[:, None].expand(-1, moves.shape[1], -1)
        steps = torch.cat([moves, bend, kind], 2) * both[..., None]
        with parametrize.cached():
            read, _ = self.reader(self.step_in(steps))
            score: Tensor = 5.0 * self.judge(read)[..., 0]
        return (score * both).sum(1) / both.sum(1).clamp(min=1.0)


def own_moves(future_m: Tensor, known: Tensor, config: ForecasterConfig) -> tuple[Tensor, Tensor]:
    """Moves [N, T - 1, 2] of futures [N, T, 2] along their own direction and speed, and which are known [N, T - 1].

    The frame is that of the mean move and the scale the network's, 0.3 of its speed scale and the own speed. Neither is
    differentiated: a future is judged in its frame and does not change the frame.
    """
    both = (known[:, 1:] & known[:, :-1]).to(future_m.dtype)
    velocity = (future_m[:, 1:] - future_m[:, :-1]) * both[..., None] / config.step_s
    mean = (velocity.sum(1) / both.sum(1).clamp(min=1.0)[:, None]).detach()
    axis = mean + mean.new_tensor([1e-3, 0.0])
    axis = axis / torch.linalg.vector_norm(axis, dim=1, keepdim=True).clamp(min=1e-6)
    turn = torch.stack([axis, torch.stack([-axis[:, 1], axis[:, 0]], 1)], 1)  # rows: ahead, left
    scale = 0.3 * config.speed_scale_mps + torch.linalg.vector_norm(mean, dim=1)
    return torch.einsum("ntj,nij->nti", velocity, turn) / scale[:, None, None], both


class Adversary:
    """The discriminator with its optimiser, as an ``ExtraLoss`` of ``forecaster_train.train``.

    Every call judges the scored agents' truths and one future of each, drawn by its probability: the discriminator
    takes a step (beta_1 = 0 as in Miyato et al. 2018), then the network gets ``weight`` times the non-saturating term
    of Goodfellow et al. 2014. Its random numbers are its own, so a run differs from one without it by the term alone.
    """

    def __init__(self, config: ForecasterConfig, settings: AdversarialSettings, seed: int = 0) -> None:
        self.settings = settings
        self.steps = 0
        self._noise_m = settings.noise_share * config.length_scale_m
        self._random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = Discriminator(config, settings.hidden)
        self._optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=settings.learning_rate, betas=(0.0, 0.9))

    def __call__(self, batch: SceneSet, outputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The network's term for a batch and its outputs (of all agents), and figures of both sides."""
        keep = torch.from_numpy(batch.scored)
        truth, known = torch.from_numpy(batch.future_m)[keep], torch.from_numpy(batch.future_present)[keep]
        class_id = torch.from_numpy(batch.class_id)[keep]
        predicted = self._draw(outputs[0][keep], outputs[2][keep].detach())
        parts = self._learn(truth, predicted.detach(), known, class_id)
        self.steps += 1
        if self.steps <= self.settings.warm_up_steps:
            return predicted.new_zeros(()), parts
        self.discriminator.requires_grad_(False)
        term = softplus(-self._judge(predicted, known, class_id)).mean()
        self.discriminator.requires_grad_(True)
        return self.settings.weight * term, {**parts, "generator": float(term.detach())}

    def _draw(self, position_m: Tensor, log_probability: Tensor) -> Tensor:
        chosen = torch.multinomial(log_probability.exp(), 1, generator=self._random)[:, 0]
        return position_m[torch.arange(len(chosen)), chosen]

    def _judge(self, future_m: Tensor, known: Tensor, class_id: Tensor) -> Tensor:
        noise = torch.randn(future_m.shape, generator=self._random) * self._noise_m
        score: Tensor = self.discriminator(future_m + noise, known, class_id)
        return score

    def _learn(self, truth_m: Tensor, predicted_m: Tensor, known: Tensor, class_id: Tensor) -> dict[str, float]:
        both = torch.cat([truth_m, predicted_m])
        score = self._judge(both, known.repeat(2, 1), class_id.repeat(2))
        true, false = score.chunk(2)
        loss = 0.5 * (softplus(-true).mean() + softplus(false).mean())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return {
            "discriminator": float(loss.detach()),
            "accuracy_true": float((true > 0).float().mean()),
            "accuracy_predicted": float((false < 0).float().mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs: weights, optimiser, steps and random state."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps = int(state["steps"])
        self._random.set_state(state["random"])
