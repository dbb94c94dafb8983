"""The deterministic policy of stable-baselines3 as one graph: stack, normalise, network, mode, clip or unscale."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from visuomotor.deploy.export.portable import strip_traces
from visuomotor.deploy.export.sb3_spaces import FrameStack
from visuomotor.deploy.runtime.policy import EPISODE_START, StateSpec
from visuomotor.deploy.runtime.spaces import ArraySpec

HIDDEN, CELL, FRAMES, NEXT, SCORE = "lstm_hidden", "lstm_cell", "frames", "_next", "score"


class ObservationPart(nn.Module):
    """One array of the observation: stacked, normalised, and preprocessed as stable-baselines3 does."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        spec: ArraySpec,
        space: spaces.Space[Any],
        *,
        normalizer: VecNormalize | None,
        normalize_first: bool,
        stack: FrameStack | None,
        normalize_images: bool,
    ) -> None:
        super().__init__()
        self.spec, self.space = spec, space
        self.normalize_images = normalize_images
        self.axis = stack.axis(spec.key) if stack else None
        self.normalize_first = normalize_first
        rms = _statistics(normalizer, spec.key)
        self.clip = float(normalizer.clip_obs) if normalizer is not None and rms is not None else None
        if normalizer is not None and rms is not None:
            self.register_buffer("mean", torch.from_numpy(np.asarray(rms.mean, np.float64)))
            self.register_buffer("deviation", torch.from_numpy(np.sqrt(rms.var + normalizer.epsilon)))

    def make_state(self) -> list[StateSpec]:
        """The stack of earlier frames, where there is one."""
        if self.axis is None:
            return []
        early = self.normalize_first and self.clip is not None
        name = f"{FRAMES}.{self.spec.key}" if self.spec.key else FRAMES
        meaning = "frames, oldest first" + (", normalised" if early else "")
        dtype = "float32" if early else self.spec.dtype
        shape: tuple[int | str, ...] = ("batch", *(self.space.shape or ()))
        return [StateSpec(input=name, output=name + NEXT, dtype=dtype, shape=shape, meaning=meaning)]

    def forward(self, frame: Tensor, stacked: Tensor | None, start: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the network sees of raw ``frame``, and the new stack."""
        if stacked is None or start is None or self.axis is None:
            return self._preprocess(self._normalize(frame)), None
        newest = self._normalize(frame) if self.normalize_first else frame
        axis = 1 if self.axis == 0 else -1
        rest = stacked.narrow(axis, newest.shape[axis], stacked.shape[axis] - newest.shape[axis])
        kept = torch.where(start.view(-1, *[1] * (rest.dim() - 1)), torch.zeros_like(rest), rest)
        stacked = torch.cat((kept, newest), dim=axis)
        return self._preprocess(stacked if self.normalize_first else self._normalize(stacked)), stacked

    def _normalize(self, values: Tensor) -> Tensor:
        if self.clip is None:
            return values
        # In double as VecNormalize does: a large value with a small deviation would lose its digits in single.
        scaled = (values.double() - self.mean) / self.deviation
        clipped = torch.clamp(scaled, -self.clip, self.clip)
        return torch.where(torch.isnan(scaled), scaled, clipped).float()  # ONNX Runtime's Clip hides NaN

    def _preprocess(self, values: Tensor) -> Tensor:
        return cast(Tensor, preprocess_obs(values, self.space, normalize_images=self.normalize_images))


class ActionHead(nn.Module):
    """What the network says as the environment's action: a Box clipped or unscaled, else the likeliest choice."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: ArraySpec, space: spaces.Space[Any], *, squashed: bool, tanh: bool, values: bool) -> None:
        super().__init__()
        self.spec, self.squashed, self.tanh, self.values = spec, squashed, tanh, values
        self.choices = list(spec.choices)
        if isinstance(space, spaces.Box):
            self.register_buffer("low", torch.from_numpy(np.array(space.low)))
            self.register_buffer("high", torch.from_numpy(np.array(space.high)))

    @property
    def outputs(self) -> list[str]:
        """Names of what ``forward`` returns."""
        return [self.spec.array] + [SCORE] * (self.spec.kind != "box")

    @property
    def transform(self) -> str:
        """What is done to the network's output, in words."""
        if self.spec.kind != "box":
            return "greatest value" if self.values else "most likely choice"
        return "unscaled from [-1, 1] to low .. high" if self.squashed else "clipped to low .. high"

    def forward(self, raw: Tensor) -> list[Tensor]:
        """Raw output [B, N] of the network -> action, and a score for each choice."""
        if self.spec.kind == "box":
            raw = (torch.tanh(raw) if self.tanh else raw).reshape(-1, *self.spec.shape)
            return [self._unscale(raw) if self.squashed else torch.minimum(torch.maximum(raw, self.low), self.high)]
        if self.spec.kind == "multi_binary":
            return [torch.round(torch.sigmoid(raw)).to(torch.int8), raw]
        if self.values:
            return [torch.argmax(raw, dim=1), raw]
        scores = [torch.log_softmax(part, dim=1) for part in torch.split(raw, self.choices, dim=1)]
        actions = [torch.argmax(part, dim=1) for part in scores]
        action = actions[0] if self.spec.kind == "discrete" else torch.stack(actions, dim=1)
        return [action, torch.cat(scores, dim=1)]

    def _unscale(self, action: Tensor) -> Tensor:
        return self.low + 0.5 * (action + 1.0) * (self.high - self.low)


class PolicyGraph(nn.Module):
    """Observation, then state and ``episode_start`` where there are any, to action, scores and next state."""

    def __init__(self, algorithm: str, model: BaseAlgorithm, parts: list[ObservationPart], head: ActionHead) -> None:
        super().__init__()
        self.parts, self.head = nn.ModuleList(parts), head
        policy: Any = model.policy
        self.keyed = isinstance(model.observation_space, spaces.Dict)
        self.lstm: nn.LSTM | None = None
        if algorithm in ("PPO", "A2C", "RecurrentPPO"):
            self.features = policy.pi_features_extractor
            self.lstm = policy.lstm_actor if algorithm == "RecurrentPPO" else None
            self.latent, self.last = policy.mlp_extractor, policy.action_net
        else:
            actor = policy.q_net if algorithm == "DQN" else policy.actor
            self.features = actor.features_extractor
            self.latent = actor.latent_pi if algorithm in ("SAC", "TQC") else nn.Identity()
            self.last = actor.q_net if algorithm == "DQN" else actor.mu
        self.actor_critic = algorithm in ("PPO", "A2C", "RecurrentPPO")
        self.state = [spec for part in parts for spec in part.make_state()]
        self.frames = len(self.state)
        if self.lstm is not None:
            shape: tuple[int | str, ...] = (self.lstm.num_layers, "batch", self.lstm.hidden_size)
            for name in (HIDDEN, CELL):
                spec = StateSpec(input=name, output=name + NEXT, dtype="float32", shape=shape, meaning="actor's LSTM")
                self.state.append(spec)

    @property
    def input_names(self) -> list[str]:
        """Names of what ``forward`` takes."""
        start = [EPISODE_START] if self.state else []
        return [part.spec.array for part in self.list_parts()] + [s.input for s in self.state] + start

    @property
    def output_names(self) -> list[str]:
        """Names of what ``forward`` returns."""
        return [*self.head.outputs, *(spec.output for spec in self.state)]

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Arrays in the order of ``input_names`` -> arrays in that of ``output_names``."""
        count = len(self.parts)
        start = arrays[-1] if self.state else None
        seen: dict[str, Tensor] = {}
        frames: list[Tensor] = []
        for index, part in enumerate(self.list_parts()):
            stacked = arrays[count + index] if self.frames else None
            seen[part.spec.key or ""], new = part(arrays[index], stacked, start)
            frames += [new] if new is not None else []
        features = self.features(seen if self.keyed else seen[""])
        carried: tuple[Tensor, ...] = ()
        if self.lstm is not None and start is not None:
            keep = (1.0 - start.float()).view(1, -1, 1)
            hidden, cell = (arrays[count + self.frames + i] * keep for i in (0, 1))
            output, carried = self.lstm(features.unsqueeze(0), (hidden, cell))
            features = output[0]
        latent = self.latent.forward_actor(features) if self.actor_critic else self.latent(features)
        return (*self.head(self.last(latent)), *frames, *carried)

    def list_parts(self) -> list[ObservationPart]:
        """One for each array of the observation, in order."""
        return [cast(ObservationPart, part) for part in self.parts]


def make_graph(
    algorithm: str,
    model: BaseAlgorithm,
    observation: tuple[ArraySpec, ...],
    action: ArraySpec,
    *,
    normalizer: VecNormalize | None,
    normalize_first: bool,
    stack: FrameStack | None,
) -> PolicyGraph:
    """The graph of a loaded model; ``normalize_first``: before frames are stacked."""
    policy: Any = model.policy
    space = model.observation_space
    parts = [
        ObservationPart(
            spec,
            space[spec.key or ""] if isinstance(space, spaces.Dict) else space,
            normalizer=normalizer,
            normalize_first=normalize_first,
            stack=stack,
            normalize_images=policy.normalize_images,
        )
        for spec in observation
    ]
    squashed = bool(policy.squash_output)
    noise = getattr(policy, "action_dist", None)  # of PPO and A2C; TD3's last layer has its tanh already
    tanh = algorithm in ("SAC", "TQC") or (
        isinstance(noise, StateDependentNoiseDistribution) and noise.bijector is not None
    )
    head = ActionHead(action, model.action_space, squashed=squashed, tanh=tanh, values=algorithm == "DQN")
    return PolicyGraph(algorithm, model, parts, head).eval()


def to_onnx(graph: PolicyGraph) -> bytes:
    """Serialised graph with a free batch dimension."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    arrays: list[Tensor] = []
    dims: list[dict[int, Any]] = []
    for part in graph.list_parts():
        arrays.append(torch.zeros((2, *part.spec.shape), dtype=getattr(torch, part.spec.dtype)))
        dims.append({0: batch})
    for spec in graph.state:
        arrays.append(torch.from_numpy(spec.make_zeros(2)))
        dims.append({spec.shape.index("batch"): batch})
    if graph.state:
        arrays.append(torch.zeros(2, dtype=torch.bool))
        dims.append({0: batch})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            graph,
            tuple(arrays),
            path,
            input_names=graph.input_names,
            output_names=graph.output_names,
            dynamic_shapes=(tuple(dims),),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return strip_traces(path.read_bytes())


def _statistics(normalizer: VecNormalize | None, key: str | None) -> Any:
    if normalizer is None:
        return None
    rms = normalizer.obs_rms
    return rms if not isinstance(rms, dict) else rms[key] if key in (normalizer.norm_obs_keys or ()) else None
