"""A vector environment over batched worlds: seeds, resets in the same step, delays and books, whatever the task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import gymnasium as gym
import msgspec
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

SEED_LIMIT = 2**31
ERROR_STREAM = 0x5EE  # keeps the error model's stream apart from the scenario's


class EpisodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of any task's episode at its end; ``reward_terms`` are sums of scaled terms."""

    seed: int
    success: bool
    end: str
    duration_s: float
    reward: float
    reward_terms: dict[str, float]


S = TypeVar("S", bound=EpisodeResult)
V = TypeVar("V", bound="TaskVectorEnv[Any]")


class TaskVectorEnv(VectorEnv, Generic[S]):
    """B worlds in one process, stepped with batched numpy from world to observation and reward.

    A task says how a case starts (``_begin``), what an action does in one tick (``_advance``), what is observed
    (``_perceive``) and what is known at the end (``_summarise``). A world that ends is reset in the same step, with
    ``final_obs`` and ``final_info`` in the infos; without ``autoreset`` it waits for the next ``reset``.
    ``summaries`` holds what ended in the last step.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self, count: int, layout: Any, action_size: int, *, case_seeds: Iterable[int] | None, autoreset: bool
    ) -> None:
        self.num_envs = count
        self.single_observation_space = gym.spaces.Box(layout.low, layout.high, dtype=np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self.autoreset = autoreset
        if not autoreset:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.summaries: list[tuple[int, S]] = []
        self._rngs = [np.random.default_rng(index) for index in range(count)]
        self._case_seeds = None if case_seeds is None else iter(case_seeds)
        self._last_action = np.zeros((count, action_size), np.float32)
        self._return = np.zeros(count)
        self._idle = np.zeros(count, bool)  # nothing left to play
        self._started = False
        self._observation = np.zeros((count, layout.size), np.float32)

    @abstractmethod
    def _begin(self, index: int, case_seed: int) -> None:
        """Put a case into one world and clear what the environment keeps of it."""

    @abstractmethod
    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One tick of all worlds: reward, and whether each has ended and was cut off, [B] each."""

    @abstractmethod
    def _perceive(self, fresh: np.ndarray | None = None) -> None:
        """Bring the observation up to the worlds' state.

        After a step this is one tick of every row; after a reset, the first tick of the rows in the mask ``fresh`` [B]
        alone.
        """

    @abstractmethod
    def _summarise(self, index: int) -> S:
        """What is known of the episode that a world has ended."""

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every world; row i draws its cases from the stream of ``seed + i``.

        ``options={"case_seeds": [...]}`` names the first case of each row instead.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else (seed or [None] * self.num_envs)
        first = (options or {}).get("case_seeds", [None] * self.num_envs)
        if len(seeds) != self.num_envs or len(first) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds and case seeds, got {len(seeds)} and {len(first)}")
        self.summaries = []
        self._idle[:] = False
        for index in range(self.num_envs):
            if seeds[index] is not None:
                self._rngs[index] = np.random.default_rng(seeds[index])
            self._start(index, first[index])
        self._started = True
        self._perceive(np.ones(self.num_envs, bool))
        return self._observation.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all worlds by one tick of 0.1 s; see the class for what happens at an end."""
        if not self._started:
            raise RuntimeError("step before reset")
        action = np.clip(np.asarray(actions, np.float32), -1.0, 1.0)
        reward, ended, cut = self._advance(action)
        self._last_action = self._settle(action)
        self._return += reward
        ended = ended & ~self._idle
        truncated = ended & cut
        reward[self._idle] = 0.0
        self._perceive()
        self.summaries = [(int(index), self._summarise(int(index))) for index in np.flatnonzero(ended)]
        infos: dict[str, Any] = {}
        if self.summaries and self.autoreset:
            infos = self._restart(ended)
        elif self.summaries:
            self._idle |= ended
        return self._observation.copy(), reward, ended & ~truncated, truncated, infos

    def _settle(self, action: np.ndarray) -> np.ndarray:
        """The action as the policy is told of it in the next step."""
        return action

    @property
    def idle(self) -> np.ndarray:
        """Rows [B] that stand still: they have played all of ``case_seeds``, or wait for a reset."""
        return self._idle.copy()

    def _start(self, index: int, case_seed: int | None = None) -> None:
        """Put the next case into one world."""
        if case_seed is None:
            if self._case_seeds is None:
                case_seed = int(self._rngs[index].integers(SEED_LIMIT))
            else:
                case_seed = next(self._case_seeds, None)
                if case_seed is None:
                    self._idle[index] = True
                    return
        self._begin(index, case_seed)
        self._last_action[index] = 0.0
        self._return[index] = 0.0

    def _restart(self, ended: np.ndarray) -> dict[str, Any]:
        """Reset the worlds in the mask; returns the infos of what ended."""
        final = np.full(self.num_envs, None, dtype=object)
        info: dict[str, Any] = {}
        for index, summary in self.summaries:
            final[index] = self._observation[index].copy()
            values = {**msgspec.structs.asdict(summary), **summary.reward_terms}
            info = self._add_info(info, {k: v for k, v in values.items() if k != "reward_terms"}, index)
            self._start(index)
        fresh = ended & ~self._idle
        if fresh.any():
            self._perceive(fresh)
        return {"final_obs": final, "_final_obs": ended.copy(), "final_info": info, "_final_info": ended.copy()}


class TaskEnv(gym.Env[np.ndarray, np.ndarray], Generic[V]):
    """One world: row 0 of a vector environment of one, without automatic reset.

    Spaces, delay and ends are those of the vector environment. ``info`` is empty until the end, when it holds the
    episode's summary and the sum of every reward term. ``reset(options={"case_seed": 7})`` picks a case.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, vector: V) -> None:
        self._vector = vector
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    @property
    def vector(self) -> V:
        """The vector environment behind, for its worlds and inputs."""
        return self._vector

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: the next case of this environment's stream, or the one in ``options``."""
        super().reset(seed=seed)
        case = (options or {}).get("case_seed")
        observation, _ = self._vector.reset(
            seed=None if seed is None else [seed], options=None if case is None else {"case_seeds": [case]}
        )
        return observation[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance by one tick of 0.1 s."""
        observation, reward, terminated, truncated, _ = self._vector.step(np.asarray(action)[None])
        done = bool(terminated[0] or truncated[0])
        info: dict[str, Any] = {}
        if done:
            info = msgspec.structs.asdict(self._vector.summaries[0][1])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def close(self) -> None:
        """Disconnect the physics client."""
        self._vector.close()
