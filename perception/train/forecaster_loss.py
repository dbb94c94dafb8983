"""What the forecaster is trained on: the best future's distance and likelihood, and the choice among futures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; distances are in the network's unit of length."""

    best: float = 1.0  # distance of the nearest future
    central: float = 1.0  # expected distance under the probabilities
    others: float = 0.05  # distance of all other futures: keeps unused ones near the truth
    likelihood: float = 0.2  # mixture NLL per step
    choice: float = 0.2  # cross-entropy towards the nearest future


def gaussian_nll(position_m: Tensor, spread_m: Tensor, truth_m: Tensor) -> Tensor:
    """Negative log density of truth [..., 2] under Gaussians with spread [..., 3] (sigma_x, sigma_y, correlation)."""
    sx, sy, rho = spread_m.unbind(-1)
    dx, dy = ((truth_m - position_m) / spread_m[..., :2]).unbind(-1)
    rest = torch.clamp(1 - rho * rho, min=1e-3)
    square = (dx * dx - 2 * rho * dx * dy + dy * dy) / rest
    return 0.5 * square + torch.log(sx * sy) + 0.5 * torch.log(rest) + 1.8378771


def forecast_loss(
    position_m: Tensor,
    spread_m: Tensor,
    log_probability: Tensor,
    truth_m: Tensor,
    known: Tensor,
    weights: LossWeights,
    agent_weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of N agents: futures [N, K, T, 2], [N, K, T, 3], [N, K], truth [N, T, 2], known steps [N, T] bool,
    weights [N] of the agents.

    Winner takes all: only the future nearest to the truth is pulled all the way (Gupta et al. 2018, variety loss); the
    mixture likelihood trains spreads and probabilities, on detached positions, so that it cannot trade distance away.
    """
    mask = known.to(position_m.dtype)
    steps = mask.sum(1).clamp(min=1.0)
    error = torch.sqrt(((position_m - truth_m[:, None]) ** 2).sum(-1) + 1e-6)
    ade = (error * mask[:, None]).sum(2) / steps[:, None]
    last = (known.shape[1] - 1) - known.flip(1).to(torch.int64).argmax(1)
    fde = error.gather(2, last[:, None, None].expand(-1, error.shape[1], 1))[..., 0]
    distance = ade + 0.3 * fde
    winner = distance.argmin(1)
    best = distance.gather(1, winner[:, None])[:, 0]
    probability = torch.exp(log_probability)
    central = (probability * distance).sum(1)
    nll = (gaussian_nll(position_m.detach(), spread_m, truth_m[:, None]) * mask[:, None]).sum(2) / steps[:, None]
    mixture = -torch.logsumexp(log_probability - nll, 1)
    choice = -log_probability.gather(1, winner[:, None])[:, 0]
    total = (
        weights.best * best
        + weights.central * central
        + weights.others * distance.mean(1)
        + weights.likelihood * mixture
        + weights.choice * choice
    )
    parts = {"best": best, "central": central, "mixture_nll": mixture, "choice": choice}
    if agent_weight is not None:
        total = total * agent_weight / agent_weight.mean()
    return total.mean(), {name: float(value.detach().mean()) for name, value in parts.items()}
