"""Gymnasium tasks over the driving worlds: ``DriveVectorEnv`` (B worlds, batched) and ``DriveEnv`` (B = 1).

Time is as in the running graph: the command computed from o_k acts from t_{k+1} to t_{k+2}, so ``step(a_k)`` advances
from t_k to t_{k+1} under the command of a_{k-1}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import msgspec
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from visuomotor.control.action import ACTION_SIZE, decode, limit_command
from visuomotor.control.inputs import CAMERA_NAMES, DriveInputs
from visuomotor.control.observation import LAYOUT, observe
from visuomotor.messages.camera import load_camera
from visuomotor.sim.drive import ENDS, DriveWorlds
from visuomotor.sim.error_model import PerceivedTracks, PerceptionErrors, true_tracks
from visuomotor.sim.error_parameters import ErrorParameters, load_errors
from visuomotor.sim.forecasts import BatchForecaster
from visuomotor.sim.inputs import inputs_from_worlds
from visuomotor.sim.rewards import TERMS, DriveReward, RewardScales
from visuomotor.sim.scenario import drive_case
from visuomotor.sim.sensors import Sensors

Perception = Literal["errors", "truth", "blind"]
PROFILE = Path(__file__).resolve().parent.parent / "launch" / "profiles" / "drive"
SEED_LIMIT = 2**31
_STREAM = 0x5EE  # keeps the error model's stream apart from the scenario's


class EpisodeSummary(msgspec.Struct, frozen=True):
    """What is known of an episode at its end; ``reward_terms`` are sums of scaled terms."""

    seed: int
    success: bool
    end: str
    at_fault: bool
    duration_s: float
    mean_speed_mps: float
    route_completion: float
    reward: float
    reward_terms: dict[str, float]


class DriveVectorEnv(VectorEnv):
    """B driving worlds in one process, stepped with batched numpy from world to observation and reward.

    Observation: float32 [B, D], ``control.observation.LAYOUT`` (names, units, bounds). Action: float32 [B, 2] in
    [-1, 1], acceleration and lateral target, see ``control.action.decode``. An episode terminates at the goal, in a
    collision or off the road, and is truncated at the case's time limit; its world is reset in the same step and
    ``final_obs`` and ``final_info`` are in the infos. ``summaries`` holds what ended in the last step.

    Args:
        count: B.
        suite: Name of a scenario suite.
        split: ``train``, ``tune`` or ``evaluation``; training draws cases from ``train``.
        perception: ``errors`` (the error model), ``truth`` (perfect tracks) or ``blind`` (none).
        forecaster: Futures of the tracks, or None for none.
        errors: Parameters of the error model, by default the profile's ``errors.json``.
        scales: Weights of the reward's terms.
        camera_dropout: Share of episodes in which one of the side cameras is dead from the start.
        case_seeds: Cases to play, in order of the resets; without them each row draws its own.
        autoreset: Without it a world that has ended waits for the next ``reset``.
        time_limit_s: Cuts every episode, for quick checks; by default the case's own limit.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        count: int = 16,
        *,
        suite: str = "drive-v1",
        split: str = "train",
        perception: Perception = "errors",
        forecaster: BatchForecaster | None = None,
        errors: ErrorParameters | None = None,
        scales: RewardScales | None = None,
        camera_dropout: float = 0.0,
        case_seeds: Iterable[int] | None = None,
        autoreset: bool = True,
        time_limit_s: float | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if perception not in ("errors", "truth", "blind"):
            raise ValueError(f"perception must be errors, truth or blind, got {perception!r}")
        self.num_envs, self.suite, self.split, self.perception = count, suite, split, perception
        self.single_observation_space = gym.spaces.Box(LAYOUT.low, LAYOUT.high, dtype=np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self.worlds = DriveWorlds(count)
        self.sensors = Sensors(self.worlds)
        self.forecaster = forecaster
        self.camera_dropout = camera_dropout
        self.autoreset = autoreset
        self.time_limit_s = time_limit_s
        if not autoreset:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.summaries: list[tuple[int, EpisodeSummary]] = []
        slots = self.worlds.agent_present.shape[1]
        cameras = [load_camera(PROFILE / f"{name}.yaml") for name in CAMERA_NAMES]
        parameters = errors or load_errors(PROFILE / "errors.json")
        self.errors = PerceptionErrors(count, slots, cameras, parameters)
        self._tracks = PerceivedTracks.empty(count, slots)
        self._reward = DriveReward(self.worlds, scales)
        self._rngs = [np.random.default_rng(index) for index in range(count)]
        self._case_seeds = None if case_seeds is None else iter(case_seeds)
        self._command = np.zeros((count, 2))  # acts during the next step
        self._last_action = np.zeros((count, 2), np.float32)
        self._speed_sum = np.zeros(count)
        self._return = np.zeros(count)
        self._idle = np.zeros(count, bool)  # nothing left to play
        self.inputs: DriveInputs | None = None
        self._observation = np.zeros((count, LAYOUT.size), np.float32)

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
        self._perceive(np.ones(self.num_envs, bool))
        return self._observation.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all worlds by one tick of 0.1 s; see the class for the delay and for what happens at an end."""
        if self.inputs is None:
            raise RuntimeError("step before reset")
        action = np.clip(np.asarray(actions, np.float32), -1.0, 1.0)
        wanted = decode(action, self.inputs)
        following = limit_command(*wanted, self._command[:, 0], self._command[:, 1], self.inputs.speed_mps)
        acting = self._command
        self.worlds.step(acting[:, 0], acting[:, 1])
        reward = self._reward.step(acting[:, 0], action)
        self._command = np.stack([following.acceleration_mps2, following.steering_angle_rad], axis=1)
        self._last_action = action
        self._speed_sum += self.worlds.ego_speed_mps
        self._return += reward
        ended = (self.worlds.end != 0) & ~self._idle
        truncated = ended & (self.worlds.end == ENDS.index("timeout"))
        reward[self._idle] = 0.0
        self._perceive()
        self.summaries = [(int(index), self._summary(int(index))) for index in np.flatnonzero(ended)]
        infos: dict[str, Any] = {}
        if self.summaries and self.autoreset:
            infos = self._restart(ended)
        elif self.summaries:
            self._idle |= ended
        return self._observation.copy(), reward, ended & ~truncated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Disconnect the physics clients."""
        self.worlds.close()

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
        case = drive_case(self.suite, self.split, case_seed)
        if self.time_limit_s is not None:
            case = msgspec.structs.replace(case, time_limit_s=min(case.time_limit_s, self.time_limit_s))
        self.worlds.reset(index, case)
        self.sensors.reset(index)
        self.errors.reset(index, [case_seed, _STREAM])
        self._tracks.clear(index)
        if self.forecaster is not None:
            self.forecaster.reset(index)
        self._reward.reset(index)
        self._command[index], self._last_action[index] = 0.0, 0.0
        self._speed_sum[index] = self._return[index] = 0.0
        alive = np.ones(len(CAMERA_NAMES), bool)
        if self.camera_dropout > 0.0 and self._rngs[index].random() < self.camera_dropout:
            alive[int(self._rngs[index].integers(1, len(CAMERA_NAMES)))] = False
        self.errors.camera_alive[index] = alive

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

    def _summary(self, index: int) -> EpisodeSummary:
        w = self.worlds
        end = ENDS[int(w.end[index])]
        ticks = max(int(w.tick[index]), 1)
        return EpisodeSummary(
            seed=int(w.cases[index].seed),
            success=end == "goal",
            end=end,
            at_fault=bool(w.at_fault[index]),
            duration_s=0.1 * ticks,
            mean_speed_mps=float(self._speed_sum[index] / ticks),
            route_completion=float(np.clip(w.progress_m[index] / w.route_length_m[index], 0.0, 1.0)),
            reward=float(self._return[index]),
            reward_terms={f"reward_{name}": value for name, value in self._reward.episode(index).items()},
        )

    def _perceive(self, fresh: np.ndarray | None = None) -> None:
        """Bring sensors, tracks, forecasts and observation up to the worlds' state.

        After a step this is one tick of every row; after a reset, the first tick of the rows in the mask ``fresh`` [B]
        alone.
        """
        sensors, worlds = self.sensors, self.worlds
        sensors.update()
        if self.perception == "errors":
            self._tracks = self.errors.update(worlds, sensors.odom_pose, fresh)
        elif self.perception == "truth":
            self._tracks = true_tracks(worlds, sensors.odom_pose)
        tracks = self._tracks
        self.inputs = inputs_from_worlds(
            sensors,
            tracks,
            self._last_action,
            camera_present=self.errors.camera_alive,
            futures=None if self.forecaster is None else self.forecaster.update(tracks, fresh),
        )
        self._observation = observe(self.inputs)


class DriveEnv(gym.Env[np.ndarray, np.ndarray]):
    """One driving world, ``visuomotor/Drive-v1``: row 0 of a ``DriveVectorEnv`` of one, without automatic reset.

    Observation and action spaces, delay and ends are those of ``DriveVectorEnv``. ``info`` is empty until the end, when
    it holds the episode's summary and the sum of every reward term. ``reset(options={"case_seed": 7})`` picks a case.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self._vector = DriveVectorEnv(1, autoreset=False, **settings)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    @property
    def vector(self) -> DriveVectorEnv:
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


def make_vector(num_envs: int = 1, **settings: Any) -> DriveVectorEnv:
    """What ``gymnasium.make_vec`` calls."""
    return DriveVectorEnv(num_envs, **settings)


gym.register(
    "visuomotor/Drive-v1",
    entry_point="visuomotor.sim.env:DriveEnv",
    vector_entry_point="visuomotor.sim.env:make_vector",
)

__all__ = ["TERMS", "DriveEnv", "DriveVectorEnv", "EpisodeSummary", "RewardScales"]
