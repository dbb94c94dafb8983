"""How far exported policies agree with stable-baselines3, for every algorithm and kind of space that is supported.

    python benchmarks/export_parity.py [--steps 300] [--episodes 3] [--only PPO]

Each row trains a small policy for ``--steps`` steps, saves it as its user would, exports it, and compares the bundle
with ``model.predict(normalize_obs(observation), deterministic=True)``: 1,000 random and edge inputs in batches of 1 to
8, then whole recorded episodes through the runtime's ``predict``, each side carrying its own state. Differences are in
normalised units (``deploy/export/sb3_parity.py``). Writes ``export_parity.json`` and ``export_parity.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import gymnasium as gym
import numpy as np
import onnxruntime
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from sb3_contrib import TQC, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize, unwrap_vec_normalize

from visuomotor.deploy.export.sb3 import export_sb3

RESULTS = Path(__file__).parent / "results"
BAR = 1e-5
OFF = {"learning_starts": 100, "batch_size": 64, "buffer_size": 10_000}
ON = {
    "n_steps": 128,
    "batch_size": 64,
    "n_epochs": 10,
    "learning_rate": 0.02,
}  # so high that actions reach their bounds
SHORT = {"n_steps": 32, "learning_rate": 0.02}
NET = {"net_arch": [64, 64]}


class InParts(gym.ObservationWrapper):
    """Pendulum's observation as a Dict."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        rest = spaces.Discrete(2)
        self.observation_space = spaces.Dict(
            {"heading": spaces.Box(-1, 1, (2,)), "rate": spaces.Box(-8, 8, (1,)), "upright": rest}
        )

    def observation(self, observation: np.ndarray) -> dict[str, Any]:
        return {"heading": observation[:2], "rate": observation[2:], "upright": int(observation[0] > 0)}


class Drawn(gym.ObservationWrapper):
    """CartPole as a grey image."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (36, 48, 1), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        image = np.zeros((36, 48), np.uint8)
        foot = (int(24 + 8 * observation[0]), 30)
        tip = (int(foot[0] + 25 * np.sin(observation[2])), int(foot[1] - 25 * np.cos(observation[2])))
        cv2.line(image, foot, tip, 255, 2)
        cv2.rectangle(image, (foot[0] - 5, 30), (foot[0] + 5, 34), 128, -1)
        return image[:, :, None]


class Choices(gym.ActionWrapper):
    """CartPole with an action of several choices, of which the first counts."""

    def __init__(self, env: gym.Env, space: spaces.Space) -> None:
        super().__init__(env)
        self.action_space = space

    def action(self, action: np.ndarray) -> int:
        return int(action[0])


def make_env(name: str) -> gym.Env:
    """An environment by the name that the table shows."""
    if name == "PandaReach-v3":
        import panda_gym  # noqa: F401
    makers: dict[str, Callable[[], gym.Env]] = {
        "Pendulum-v1, Dict": lambda: InParts(gym.make("Pendulum-v1")),
        "CartPole-v1, image": lambda: Drawn(gym.make("CartPole-v1")),
        "CartPole-v1, MultiDiscrete": lambda: Choices(gym.make("CartPole-v1"), spaces.MultiDiscrete([2, 3])),
        "CartPole-v1, MultiBinary": lambda: Choices(gym.make("CartPole-v1"), spaces.MultiBinary(3)),
    }
    return makers.get(name, lambda: gym.make(name))()


class Row(NamedTuple):
    """One line of the table; ``wrappers``: letters N (VecNormalize) and S (VecFrameStack), innermost first."""

    algorithm: Any
    environment: str
    wrappers: str
    policy: str
    settings: dict[str, Any]
    note: str = ""
    network: dict[str, Any] = NET


ROWS = (
    Row(PPO, "Pendulum-v1", "N", "MlpPolicy", ON),
    Row(A2C, "CartPole-v1", "N", "MlpPolicy", SHORT),
    Row(A2C, "Pendulum-v1", "N", "MlpPolicy", SHORT),
    Row(SAC, "Pendulum-v1", "N", "MlpPolicy", OFF),
    Row(TD3, "Pendulum-v1", "N", "MlpPolicy", OFF),
    Row(DQN, "CartPole-v1", "N", "MlpPolicy", OFF),
    Row(TQC, "Pendulum-v1", "N", "MlpPolicy", OFF),
    Row(RecurrentPPO, "Pendulum-v1", "N", "MlpLstmPolicy", ON, "LSTM of 32", {**NET, "lstm_hidden_size": 32}),
    Row(
        RecurrentPPO,
        "CartPole-v1",
        "",
        "MlpLstmPolicy",
        ON,
        "two layers of 16",
        {"lstm_hidden_size": 16, "n_lstm_layers": 2},
    ),
    Row(PPO, "Pendulum-v1", "", "MlpPolicy", ON),
    Row(
        PPO, "Pendulum-v1", "N", "MlpPolicy", {**ON, "use_sde": True}, "gSDE, squashed", {**NET, "squash_output": True}
    ),
    Row(SAC, "Pendulum-v1", "", "MlpPolicy", {**OFF, "use_sde": True}, "gSDE"),
    Row(PPO, "Pendulum-v1, Dict", "N", "MultiInputPolicy", ON, "two of three keys normalised"),
    Row(SAC, "PandaReach-v3", "N", "MultiInputPolicy", {**OFF, "replay_buffer_class": HerReplayBuffer}, "HER"),
    Row(PPO, "CartPole-v1, MultiDiscrete", "N", "MlpPolicy", ON),
    Row(PPO, "CartPole-v1, MultiBinary", "N", "MlpPolicy", ON),
    Row(PPO, "Pendulum-v1", "SN", "MlpPolicy", ON, "4 frames"),
    Row(TD3, "Pendulum-v1", "SN", "MlpPolicy", OFF, "4 frames"),
    Row(RecurrentPPO, "Pendulum-v1", "NS", "MlpLstmPolicy", ON, "4 frames", {"lstm_hidden_size": 16}),
    Row(
        DQN,
        "CartPole-v1, image",
        "S",
        "CnnPolicy",
        OFF,
        "4 frames",
        {"features_extractor_kwargs": {"features_dim": 64}},
    ),
)


def wrap(row: Row) -> VecEnv:
    """The environment as the row trains on it."""
    env: VecEnv = DummyVecEnv([lambda: make_env(row.environment)])
    for letter in row.wrappers:
        if letter == "S":
            env = VecFrameStack(env, 4)
        else:
            keys = None
            if isinstance(env.observation_space, spaces.Dict):
                keys = [key for key, part in env.observation_space.items() if isinstance(part, spaces.Box)]
            env = VecNormalize(env, norm_obs_keys=keys, clip_obs=5.0)
    return env


def train(row: Row, steps: int, folder: Path) -> tuple[Any, Path, str]:
    """The model, its zip, and the word or file for --vecnormalize."""
    env = wrap(row)
    model = row.algorithm(row.policy, env, policy_kwargs=dict(row.network), seed=0, device="cpu", **row.settings)
    model.learn(steps)
    model.save(folder / "model.zip")
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        return model, folder / "model.zip", "none"
    normalizer.save(str(folder / "vecnormalize.pkl"))
    return model, folder / "model.zip", str(folder / "vecnormalize.pkl")


def record(row: Row, model: Any, episodes: int, path: Path) -> None:
    """Raw observations of whole episodes under random actions."""
    env = make_env(row.environment)
    env.action_space.seed(0)
    seen: list[Any] = []
    start: list[bool] = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        ended, first = False, True
        while not ended:
            seen.append(observation)
            start.append(first)
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            ended, first = terminated or truncated, False
    keys = list(seen[0]) if isinstance(seen[0], dict) else []
    arrays = {key: np.array([o[key] for o in seen]) for key in keys} or {"observation": np.array(seen)}
    np.savez(path, **arrays, episode_start=np.array(start))


def measure(row: Row, steps: int, episodes: int) -> dict[str, Any]:
    """One line of the result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, checkpoint, vecnormalize = train(row, steps, folder)
        record(row, model, episodes, folder / "episodes.npz")
        bundle = export_sb3(
            checkpoint,
            folder / "bundle",
            vecnormalize=vecnormalize,
            frame_stack=4 if "S" in row.wrappers else 1,
            recorded=folder / "episodes.npz",
        )
    parity, recorded = bundle.meta.parity, bundle.meta.parity["recorded"]
    return {
        "algorithm": bundle.meta.extra["algorithm"],
        "environment": row.environment,
        "action": bundle.meta.extra["action"]["kind"],
        "wrappers": {"": "none", "N": "VecNormalize", "S": "VecFrameStack"}.get(row.wrappers)
        or " of ".join({"N": "VecNormalize", "S": "VecFrameStack"}[letter] for letter in reversed(row.wrappers)),
        "note": row.note,
        "rows": parity["rows"],
        "max_difference": parity["max_abs_error"],
        "left_out": parity["left_out"],
        "ties": parity["undecided"],
        "episodes": recorded["episodes"],
        "steps": recorded["cases"],
        "max_difference_recorded": recorded["max_abs_error"],
        "outputs": {key: value["max_abs_error"] for key, value in parity["outputs"].items()},
    }


def write_table(data: dict[str, Any]) -> Iterator[str]:
    """The result as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    yield "# Parity of exported policies with stable-baselines3"
    yield ""
    yield f"`python benchmarks/export_parity.py` on {data['machine']}; {versions}."
    yield f"Largest difference in normalised units; to reach: {BAR:g} at most."
    yield ""
    yield "| algorithm | environment | wrappers | | random and edge inputs | left out | whole episodes (steps) | |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in data["rows"]:
        met = max(row["max_difference"], row["max_difference_recorded"]) <= BAR
        yield (
            f"| {row['algorithm']} | {row['environment']} | {row['wrappers']} | {row['note']} | "
            f"{row['rows']}: {row['max_difference']:.1e} | {row['left_out']} | {row['episodes']} ({row['steps']}): "
            f"{row['max_difference_recorded']:.1e} | {'met' if met else '**missed**'} |"
        )
    yield ""
    yield "Left out: rows drawn besides, for which stable-baselines3's own answer moves by more than 1e-6 when the last"
    yield "digit of the input turns. Policies are trained for few steps: parity is measured here, not skill."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--episodes", type=int, default=3, help="recorded for each row")
    parser.add_argument("--only", help="rows of this algorithm alone; writes nothing")
    parser.add_argument("--json", type=Path, default=RESULTS / "export_parity.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for row in ROWS:
        if options.only in (None, row.algorithm.__name__):
            rows.append(measure(row, options.steps, options.episodes))
            print(json.dumps(rows[-1]), flush=True)
    if options.only:
        return
    versions = {
        "stable-baselines3": stable_baselines3.__version__,
        "sb3-contrib": sb3_contrib.__version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    machine = f"{platform.machine()}, 1 thread"
    data = {"rows": rows, "bar": BAR, "steps_of_training": options.steps, "versions": versions, "machine": machine}
    options.json.write_text(json.dumps(data, indent=2) + "\n")
    options.json.with_suffix(".md").write_text("\n".join(write_table(data)) + "\n")


if __name__ == "__main__":
    main()
