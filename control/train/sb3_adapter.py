"""A vector environment of any task as stable-baselines3 wants it: normalised observations, scaled rewards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from visuomotor.control.train.episodes import Expert
from visuomotor.control.train.imitation import Demonstrations
from visuomotor.control.train.normalizer import Normalizer
from visuomotor.control.train.teacher import Teacher
from visuomotor.sim.env import SEED_LIMIT


class CasePool:
    """Training cases without end: new ones, and with probability ``replay`` one that was failed before."""

    def __init__(self, seed: int, replay: float = 0.35, capacity: int = 600) -> None:
        self._rng = np.random.default_rng([seed, 0xCA5E])
        self._replay = replay
        self._failed: deque[int] = deque(maxlen=capacity)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        """Seed of the next case."""
        if self._failed and self._rng.random() < self._replay:
            position = int(self._rng.integers(len(self._failed)))
            seed = self._failed[position]
            del self._failed[position]
            return seed
        return int(self._rng.integers(SEED_LIMIT))

    def report(self, summary: Any) -> None:
        """Keep the case when it was failed."""
        if not summary.success:
            self._failed.append(summary.seed)


class WorldsVecEnv(VecEnv):
    """Thin adapter; ``recent`` holds the last summaries, which go to the log.

    With ``demonstrations``, the action of the teacher (by default IDM + MOBIL) in every state visited is added to them.
    """

    def __init__(
        self,
        env: Any,
        normalizer: Normalizer,
        reward_scale: float,
        pool: CasePool | None = None,
        demonstrations: Demonstrations | None = None,
        teacher: Expert | None = None,
    ) -> None:
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.normalizer = normalizer
        self.reward_scale = reward_scale
        self.recent: deque[Any] = deque(maxlen=200)
        self._pool = pool
        self._teacher = None if demonstrations is None else teacher or Teacher(env.num_envs)
        self._demonstrations = demonstrations
        self._raw = np.zeros((env.num_envs, *env.single_observation_space.shape), np.float32)
        self._actions = np.zeros((env.num_envs, *env.single_action_space.shape), np.float32)
        self._nothing: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]

    def reset(self) -> np.ndarray:
        """Observations [B, D], normalised."""
        observation, _ = self.env.reset(seed=self._seeds[0])
        self._reset_seeds()
        self._raw = observation
        if self._teacher is not None:
            self._teacher.reset()
        return self.normalizer.apply(observation)

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions [B, A]."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One tick. Infos are empty but where an episode ended."""
        if self._teacher is not None and self._demonstrations is not None and self.env.inputs is not None:
            self._demonstrations.add(self._raw, self._teacher.act(self.env.inputs))
        observation, reward, terminated, truncated, infos = self.env.step(self._actions)
        self._raw = observation
        result = self._nothing
        if self.env.summaries:
            result = list(self._nothing)
            if self._teacher is not None:
                self._teacher.reset(terminated | truncated)
            for index, summary in self.env.summaries:
                self.recent.append(summary)
                if self._pool is not None:
                    self._pool.report(summary)
                final = self.normalizer.apply(infos["final_obs"][index])
                result[index] = {"terminal_observation": final, "TimeLimit.truncated": bool(truncated[index])}
        scaled = (reward * self.reward_scale).astype(np.float32)
        return self.normalizer.apply(observation), scaled, terminated | truncated, result

    def close(self) -> None:
        """Close the worlds."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same value for each index."""
        return [getattr(self.env, attr_name, None)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported: the worlds are one object."""
        raise NotImplementedError(f"cannot set {attr_name} on batched worlds")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Not supported: the worlds are one object."""
        raise NotImplementedError(f"cannot call {method_name} on batched worlds")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Never wrapped."""
        return [False] * len(self._indices(indices))

    def _indices(self, indices: Any) -> Sequence[int]:
        return list(self._get_indices(indices))
