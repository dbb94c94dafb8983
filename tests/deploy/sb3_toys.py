"""Toy environments and small trained policies for the tests of the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import TQC, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

SMALL = {"net_arch": [16, 16]}
OFF = {"learning_starts": 8, "batch_size": 8, "buffer_size": 200}
ON = {"n_steps": 32, "batch_size": 16, "n_epochs": 1}
ALGORITHMS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "PPO": (PPO, "Pendulum-v1", ON),
    "A2C": (A2C, "CartPole-v1", {"n_steps": 8}),
    "SAC": (SAC, "Pendulum-v1", OFF),
    "TD3": (TD3, "Pendulum-v1", OFF),
    "DQN": (DQN, "CartPole-v1", OFF),
    "TQC": (TQC, "Pendulum-v1", OFF),
    "RecurrentPPO": (RecurrentPPO, "Pendulum-v1", ON),
}


class Toy(gym.Env):
    """Random observations of any space, six steps an episode."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_space.seed(3)
        self._left = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self._left = 6
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._left -= 1
        return self.observation_space.sample(), 0.0, self._left == 0, False, {}


SCALED = spaces.Box(np.array([-1, 0, -2000], np.float32), np.array([1, 0.01, 5000], np.float32))
UNEVEN = spaces.Box(np.array([-1.0, 0.5], np.float32), np.array([2.0, 3.0], np.float32))


def train(name: str, folder: Path, steps: int = 40) -> tuple[Any, VecNormalize, Path, Path]:
    """A policy of one algorithm after a few steps on its environment under VecNormalize, as its user would save it."""
    kind, environment, settings = ALGORITHMS[name]
    torch.manual_seed(0)
    env = VecNormalize(DummyVecEnv([lambda: gym.make(environment)]), clip_obs=2.5)
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    shape = {**SMALL, **({"lstm_hidden_size": 12, "n_lstm_layers": 2} if name == "RecurrentPPO" else {})}
    model = kind(policy, env, policy_kwargs=shape, device="cpu", seed=0, **settings)
    model.learn(steps)
    enliven(model)
    return model, env, *save(model, env, folder)


def make(policy: str, env: Any, kind: Any = PPO, **policy_kwargs: Any) -> Any:
    """An untrained policy whose action depends visibly on what it sees."""
    torch.manual_seed(0)
    settings = {"n_steps": 8, "batch_size": 8} if kind in (PPO, RecurrentPPO) else {}
    settings |= {"buffer_size": 8} if kind in (DQN, SAC) else {}
    model = kind(policy, env, policy_kwargs=policy_kwargs, device="cpu", seed=0, **settings)
    enliven(model)
    return model


def enliven(model: Any, gain: float = 150.0) -> None:
    """Let the actor of PPO and A2C, which starts near zero, reach the bounds of its action space."""
    if hasattr(model.policy, "action_net"):
        with torch.no_grad():
            model.policy.action_net.weight *= gain


def save(model: Any, env: VecNormalize | None, folder: Path) -> tuple[Path, Path]:
    """Checkpoint and statistics on disk."""
    model.save(folder / "model.zip")
    if env is not None:
        env.save(str(folder / "vecnormalize.pkl"))
    return folder / "model.zip", folder / "vecnormalize.pkl"


def set_statistics(env: VecNormalize, seed: int = 0) -> VecNormalize:
    """Means and variances unlike 0 and 1, as a long training would leave them."""
    rng = np.random.default_rng(seed)
    space = env.observation_space
    for key in env.norm_obs_keys or [None]:
        rms = env.obs_rms if key is None else env.obs_rms[key]
        low, high = (space.low, space.high) if key is None else (space[key].low, space[key].high)
        rms.mean = 0.5 * (low + high).astype(np.float64) * rng.uniform(0.8, 1.2, low.shape)
        rms.var = (0.1 * (high - low).astype(np.float64)) ** 2 * rng.uniform(0.5, 2.0, low.shape)
    env.training = False
    return env


def drive(
    environment: str, model: Any, normalizer: VecNormalize | None, seeds: range, limit: int | None = None
) -> list[tuple[list, list]]:
    """Whole episodes by stable-baselines3: raw observations and the actions on them."""
    env = gym.make(environment, max_episode_steps=limit)
    episodes = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        seen, done, state, start = [], [], None, True
        while True:
            seen.append(observation)
            batch = observation[None]
            action, state = model.predict(
                batch if normalizer is None else normalizer.normalize_obs(batch),
                state,
                np.array([start]),
                deterministic=True,
            )
            done.append(action[0])
            observation, _, terminated, truncated, _ = env.step(action[0])
            start = False
            if terminated or truncated:
                break
        episodes.append((seen, done))
    return episodes
