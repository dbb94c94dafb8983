"""Gymnasium tasks over the driving worlds: ``DriveVectorEnv`` (B worlds, batched) and ``DriveEnv`` (B = 1).

Time is as in the running graph: the command computed from o_k acts from t_{k+1} to t_{k+2}, so ``step(a_k)`` advances
from t_k to t_{k+1} under the command of a_{k-1}.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import msgspec
import numpy as np

from visuomotor.control.action import ACTION_SIZE, decode, limit_command
from visuomotor.control.inputs import CAMERA_NAMES, DriveInputs
from visuomotor.control.observation import LAYOUT, observe
from visuomotor.messages.camera import load_camera
from visuomotor.sim.drive import ENDS, DriveWorlds
from visuomotor.sim.error_model import PerceptionErrors, true_tracks
from visuomotor.sim.error_parameters import ErrorParameters, load_errors
from visuomotor.sim.forecasts import BatchForecaster
from visuomotor.sim.inputs import inputs_from_worlds
from visuomotor.sim.rewards import TERMS, DriveReward, RewardScales
from visuomotor.sim.scenario import drive_case
from visuomotor.sim.sensors import Sensors
from visuomotor.sim.track_errors import PerceivedTracks
from visuomotor.sim.vector_env import ERROR_STREAM, SEED_LIMIT, EpisodeResult, TaskEnv, TaskVectorEnv

Perception = Literal["errors", "truth", "blind"]
PROFILE = Path(__file__).resolve().parent.parent / "launch" / "profiles" / "drive"


class EpisodeSummary(EpisodeResult, frozen=True, kw_only=True):
    """What is known of an episode of driving at its end."""

    at_fault: bool
    mean_speed_mps: float
    route_completion: float


class DriveVectorEnv(TaskVectorEnv[EpisodeSummary]):
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
        super().__init__(count, LAYOUT, ACTION_SIZE, case_seeds=case_seeds, autoreset=autoreset)
        self.suite, self.split, self.perception = suite, split, perception
        self.worlds = DriveWorlds(count)
        self.sensors = Sensors(self.worlds)
        self.forecaster = forecaster
        self.camera_dropout = camera_dropout
        self.time_limit_s = time_limit_s
        slots = self.worlds.agent_present.shape[1]
        cameras = [load_camera(PROFILE / f"{name}.yaml") for name in CAMERA_NAMES]
        parameters = errors or load_errors(PROFILE / "errors.json")
        self.errors = PerceptionErrors(count, slots, cameras, parameters)
        self._tracks = PerceivedTracks.empty(count, slots)
        self._reward = DriveReward(self.worlds, scales)
        self._command = np.zeros((count, 2))  # acts during the next step
        self._speed_sum = np.zeros(count)
        self.inputs: DriveInputs | None = None

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.inputs is not None  # there is no step before a reset
        wanted = decode(action, self.inputs)
        following = limit_command(*wanted, self._command[:, 0], self._command[:, 1], self.inputs.speed_mps)
        acting = self._command
        self.worlds.step(acting[:, 0], acting[:, 1])
        reward = self._reward.step(acting[:, 0], action)
        self._command = np.stack([following.acceleration_mps2, following.steering_angle_rad], axis=1)
        self._speed_sum += self.worlds.ego_speed_mps
        return reward, self.worlds.end != 0, self.worlds.end == ENDS.index("timeout")

    def close_extras(self, **kwargs: Any) -> None:
        """Disconnect the physics clients."""
        self.worlds.close()

    def _begin(self, index: int, case_seed: int) -> None:
        case = drive_case(self.suite, self.split, case_seed)
        if self.time_limit_s is not None:
            case = msgspec.structs.replace(case, time_limit_s=min(case.time_limit_s, self.time_limit_s))
        self.worlds.reset(index, case)
        self.sensors.reset(index)
        self.errors.reset(index, [case_seed, ERROR_STREAM])
        self._tracks.clear(index)
        if self.forecaster is not None:
            self.forecaster.reset(index)
        self._reward.reset(index)
        self._command[index] = self._speed_sum[index] = 0.0
        alive = np.ones(len(CAMERA_NAMES), bool)
        if self.camera_dropout > 0.0 and self._rngs[index].random() < self.camera_dropout:
            alive[int(self._rngs[index].integers(1, len(CAMERA_NAMES)))] = False
        self.errors.camera_alive[index] = alive

    def _summarise(self, index: int) -> EpisodeSummary:
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


class DriveEnv(TaskEnv[DriveVectorEnv]):
    """One driving world, ``visuomotor/Drive-v1``: a ``DriveVectorEnv`` of one, see ``TaskEnv``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(DriveVectorEnv(1, autoreset=False, **settings))


def make_vector(num_envs: int = 1, **settings: Any) -> DriveVectorEnv:
    """What ``gymnasium.make_vec`` calls."""
    return DriveVectorEnv(num_envs, **settings)


gym.register(
    "visuomotor/Drive-v1",
    entry_point="visuomotor.sim.env:DriveEnv",
    vector_entry_point="visuomotor.sim.env:make_vector",
)

__all__ = ["SEED_LIMIT", "TERMS", "DriveEnv", "DriveVectorEnv", "EpisodeSummary", "RewardScales"]
