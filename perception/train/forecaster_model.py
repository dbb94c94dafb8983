"""The forecaster's network: LSTM encoder, attention to neighbours, LSTM decoder of several Gaussian futures.

Every agent is seen from its own position and direction of motion, and futures are residuals to its constant-velocity
line, so a network that has learnt nothing predicts constant velocity. All of it, normalisation included, is one graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visuomotor.messages.tasks import DEFAULT_TASK, get_task

_USUAL = get_task(DEFAULT_TASK)


@dataclass(frozen=True)
class ForecasterConfig:
    """Shape of the network and the scales of its task.

    The network reckons in lengths of ``unit_m``, and so do the scales: a task's objects should move some units in a
    second.
    """

    classes: int = len(_USUAL.class_names)
    history_samples: int = _USUAL.history_samples
    horizon_steps: int = _USUAL.horizon_steps
    step_s: float = _USUAL.forecast_step_s
    futures: int = _USUAL.futures
    steps_per_cell: int = 5  # positions that one decoder step emits
    hidden: int = 40
    neighbours: int = 8
    heads: int = 4
    dropout: float = 0.1
    speed_scale_mps: float = 5.0
    length_scale_m: float = 10.0
    unit_m: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and bundles."""
        return asdict(self)


class ForecasterNetwork(nn.Module):
    """See the module's first lines; inputs as in ``perception.forecaster.Forecaster``, for A >= 1 agents."""

    time_s: Tensor  # [H] of the samples, 0 is now
    ahead_s: Tensor  # [T] of the predictions

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        if config.horizon_steps % config.steps_per_cell:
            raise ValueError(f"horizon_steps {config.horizon_steps}: no multiple of {config.steps_per_cell}")
        self.config = config
        hidden, classes = config.hidden, config.classes
        ages = torch.arange(config.history_samples - 1, -1, -1, dtype=torch.float32)
        self.register_buffer("time_s", -ages * config.step_s, persistent=False)
        self.register_buffer("ahead_s", torch.arange(1, config.horizon_steps + 1) * config.step_s, persistent=False)
        self.class_embedding = nn.Embedding(classes, 8)
        self.log_memory_s = nn.Parameter(torch.zeros(classes))  # how far back the velocity estimate looks
        self.step_in = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
        self.encoder = nn.LSTM(24, hidden, batch_first=True)
        self.own = nn.Sequential(nn.Linear(hidden + 8 + 3, hidden), nn.ReLU(), nn.Dropout(config.dropout))
        self.pair = nn.Sequential(nn.Linear(7 + hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2 * hidden))
        self.query = nn.Linear(hidden, hidden)
        self.context = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Dropout(config.dropout))
        self.mode = nn.Parameter(torch.randn(config.futures, hidden) * 0.5)
        self.start_h = nn.Linear(hidden, hidden)
        self.start_c = nn.Linear(hidden, hidden)
        self.cell_input = nn.Parameter(torch.randn(config.horizon_steps // config.steps_per_cell, 8) * 0.3)
        self.decoder = nn.LSTM(8, hidden, batch_first=True)
        self.emit = nn.Linear(hidden, 5 * config.steps_per_cell)
        self.weigh = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        nn.init.normal_(self.emit.weight, std=0.01)
        nn.init.zeros_(self.emit.bias)

    def forward(
        self, history_m: Tensor, present: Tensor, class_id: Tensor, scene: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [A, K, T, 2], spreads [A, K, T, 3] and log probabilities [A, K]."""
        unit = self.config.unit_m
        if unit == 1.0:
            return self._predict(history_m, present, class_id, scene)
        position, spread, log_probability = self._predict(history_m / unit, present, class_id, scene)
        return position * unit, spread * spread.new_tensor([unit, unit, 1.0]), log_probability

    def _predict(
        self, history_m: Tensor, present: Tensor, class_id: Tensor, scene: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        seen = present.to(history_m.dtype)
        origin = history_m[:, -1]
        relative = (history_m - origin[:, None]) * seen[..., None]
        velocity = self._velocity(relative, seen, class_id)
        speed = torch.sqrt((velocity * velocity).sum(1) + 1e-6)
        axis = velocity + velocity.new_tensor([1e-3, 0.0])
        axis = axis / torch.sqrt((axis * axis).sum(1, keepdim=True) + 1e-12)
        turn = torch.stack([axis, torch.stack([-axis[:, 1], axis[:, 0]], 1)], 1)  # rows: ahead, left

        own = self._encode(relative, seen, velocity, speed, turn, class_id)
        attended = self._attend(own, origin, velocity, turn, scene)
        context = own + self.context(torch.cat([own, attended], 1))
        residual, log_spread, logit = self._decode(context)

        scale = 0.3 * config.speed_scale_mps + speed
        steps = residual * scale[:, None, None, None]  # residual velocity, local
        local = torch.cumsum(steps, 2) * config.step_s
        line = velocity[:, None, None] * self.ahead_s[:, None]
        position = origin[:, None, None] + line + torch.einsum("akti,aij->aktj", local, turn)
        return position, self._spread(log_spread, scale, turn), torch.log_softmax(logit, 1)

    def _velocity(self, relative: Tensor, seen: Tensor, class_id: Tensor) -> Tensor:
        """Slope [A, 2] of a line through the observed samples, weighted towards now by a learnt memory per class."""
        memory = torch.exp(self.log_memory_s)[class_id][:, None] * 2 * self.config.step_s
        weight = seen * torch.exp(self.time_s / memory)
        total = weight.sum(1, keepdim=True)
        lag = self.time_s - (weight * self.time_s).sum(1, keepdim=True) / total
        mean = (weight[..., None] * relative).sum(1, keepdim=True) / total[..., None]
        moment = (weight * lag)[..., None]
        return (moment * (relative - mean)).sum(1) / ((weight * lag * lag).sum(1, keepdim=True) + 1e-4)

    def _encode(
        self, relative: Tensor, seen: Tensor, velocity: Tensor, speed: Tensor, turn: Tensor, class_id: Tensor
    ) -> Tensor:
        config = self.config
        local = torch.einsum("ahj,aij->ahi", relative, turn)
        ahead = torch.stack([speed[:, None] * self.time_s, torch.zeros_like(local[..., 0])], 2)
        bend = (local - ahead) * seen[..., None]
        both = (seen[:, 1:] * seen[:, :-1])[..., None]
        move = (local[:, 1:] - local[:, :-1]) * both / config.step_s
        move = torch.cat([torch.zeros_like(move[:, :1]), move], 1) / config.speed_scale_mps
        features = torch.cat([bend * (5.0 / config.length_scale_m), move, seen[..., None], self._age(seen)], 2)
        _, (hidden, _) = self.encoder(self.step_in(features))
        rate = speed[:, None] / config.speed_scale_mps
        still = torch.exp(-4.0 * rate)
        share = seen.mean(1, keepdim=True)
        return self.own(torch.cat([hidden[0], self.class_embedding(class_id), rate, still, share], 1))

    def _age(self, seen: Tensor) -> Tensor:
        return (seen * 0.0 + self.time_s)[..., None] / (self.config.history_samples * self.config.step_s)

    def _attend(self, own: Tensor, origin: Tensor, velocity: Tensor, turn: Tensor, scene: Tensor) -> Tensor:
        """What each agent takes from its nearest neighbours of the same scene, [A, hidden]."""
        config, count = self.config, own.shape[0]
        gap = origin[None] - origin[:, None]
        square = (gap * gap).sum(2)
        itself = torch.arange(count, device=own.device)
        apart = (scene[:, None] != scene[None]) | (itself[:, None] == itself[None])
        square = torch.where(apart, torch.full_like(square, 1e9), square)
        # Padding columns let the graph take the nearest few of any number of agents, one included.
        padding = torch.full_like(square[:, :1], 1e9).repeat(1, config.neighbours)
        nearest, index = torch.topk(torch.cat([square, padding], 1), config.neighbours, dim=1, largest=False)
        index = torch.minimum(index, torch.full_like(index, 0) + (count - 1))
        other = nearest < 1e8
        shift = torch.einsum("anj,aij->ani", origin[index] - origin[:, None], turn)
        drift = torch.einsum("anj,aij->ani", velocity[index] - velocity[:, None], turn)
        distance = torch.sqrt((shift * shift).sum(2, keepdim=True) + 1e-6)
        closing = (shift * drift).sum(2, keepdim=True) / (distance * config.speed_scale_mps)
        pair = torch.cat(
            [
                torch.tanh(shift / config.length_scale_m),
                drift / config.speed_scale_mps,
                config.length_scale_m / (config.length_scale_m + 5.0 * distance),
                torch.log1p(distance),
                closing,
                own[index],
            ],
            2,
        )
        pair = torch.where(other[..., None], pair, torch.zeros_like(pair))
        key, value = self.pair(pair).chunk(2, 2)
        width = config.hidden // config.heads
        query = self.query(own).reshape(count, 1, config.heads, width)
        score = (query * key.reshape(count, -1, config.heads, width)).sum(3) / width**0.5
        score = torch.where(other[..., None], score, torch.full_like(score, -1e4))
        alone = torch.zeros_like(score[:, :1])  # attending to nobody is an answer too
        weight = torch.softmax(torch.cat([alone, score], 1), 1)[:, 1:]
        value = value.reshape(count, -1, config.heads, width)
        return (weight[..., None] * value).sum(1).reshape(count, config.hidden)

    def _decode(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config, count = self.config, context.shape[0]
        h = torch.tanh(self.start_h(context)[:, None] + self.mode)
        c = torch.tanh(self.start_c(context)[:, None] + self.mode)
        flat = count * config.futures
        cells = self.cell_input.shape[0]
        given = self.cell_input[None].expand(flat, cells, 8)
        start = (h.reshape(1, flat, config.hidden), c.reshape(1, flat, config.hidden))
        out, (last, _) = self.decoder(given, start)
        emitted = self.emit(out).reshape(count, config.futures, config.horizon_steps, 5)
        final = last.reshape(count, config.futures, config.hidden)
        wide = context[:, None].expand(count, config.futures, config.hidden)
        logit = self.weigh(torch.cat([final, wide], 2))[..., 0]
        return emitted[..., :2], emitted[..., 2:], logit

    def _spread(self, raw: Tensor, scale: Tensor, turn: Tensor) -> Tensor:
        """Sigmas and correlation [A, K, T, 3] along the axes of the history's frame."""
        base = 0.02 + 0.05 * scale[:, None, None] * self.ahead_s  # grows with time and speed until learnt better
        ahead = base * torch.exp(torch.clamp(raw[..., 0], -4.0, 4.0)) + 0.02
        left = base * torch.exp(torch.clamp(raw[..., 1], -4.0, 4.0)) + 0.02
        mixed = 0.9 * torch.tanh(raw[..., 2]) * ahead * left
        c, s = turn[:, 0, 0][:, None, None], turn[:, 0, 1][:, None, None]
        xx = c * c * ahead * ahead - 2 * c * s * mixed + s * s * left * left
        yy = s * s * ahead * ahead + 2 * c * s * mixed + c * c * left * left
        xy = c * s * (ahead * ahead - left * left) + (c * c - s * s) * mixed
        sigma_x, sigma_y = torch.sqrt(xx + 1e-8), torch.sqrt(yy + 1e-8)
        return torch.stack([sigma_x, sigma_y, xy / (sigma_x * sigma_y)], 3)
