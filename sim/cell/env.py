"""Gymnasium environments over batched cells: ``PickVectorEnv`` (B cells, batched) and ``PickEnv`` (B = 1).

Time is as in the running graph: the command computed from o_k acts from t_{k+1} to t_{k+2}, so ``step(a_k)`` advances
from t_k to t_{k+1} under the command of a_{k-1}.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from visuomotor.control.arm.action import command
from visuomotor.control.arm.config import ACTION_SIZE, JOINTS, LIMITS
from visuomotor.control.arm.hand import settle
from visuomotor.control.arm.inputs import CAMERA_NAMES, ArmInputs
from visuomotor.control.arm.kinematics import link_frames
from visuomotor.control.arm.observation import LAYOUT, observe
from visuomotor.messages.camera import load_camera
from visuomotor.sim.cell.cell import ENDS, RUNNING, CellWorlds
from visuomotor.sim.cell.error_model import PartErrorParameters, PartErrors, load_part_errors, true_parts
from visuomotor.sim.cell.inputs import inputs_from_worlds
from visuomotor.sim.cell.rewards import TERMS, CellReward, CellRewardScales
from visuomotor.sim.cell.scenario import cell_case
from visuomotor.sim.cell.sensors import ArmSensors
from visuomotor.sim.cell.visibility import arm_rods
from visuomotor.sim.forecasts import BatchForecaster
from visuomotor.sim.track_errors import PerceivedTracks
from visuomotor.sim.vector_env import ERROR_STREAM, EpisodeResult, TaskEnv, TaskVectorEnv

Perception = Literal["errors", "truth", "blind"]
PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / "pick"
REACHED_M = 0.02  # of the tool from the middle of the part


class PickSummary(EpisodeResult, frozen=True, kw_only=True):
    """What is known of a shift at its end."""

    parts_ordered: int
    parts_binned: int
    wrong_parts: int
    picks_per_minute: float


class PickVectorEnv(TaskVectorEnv[PickSummary]):
    """B picking cells in one process, stepped with batched numpy from world to observation and reward.

    Observation: float32 [B, D], ``control.arm.observation.LAYOUT`` (names, units, bounds). Action: float32 [B, 5] in
    [-1, 1], velocity of the tool, its yaw rate and the gripper, see ``control.arm.action.decode``. A shift terminates
    when its time is over or when the arm has hit something, and is truncated by ``time_limit_s``.

    Args:
        count: B.
        suite: Name of a scenario suite.
        split: ``train``, ``tune`` or ``evaluation``; training draws cases from ``train``.
        perception: ``errors`` (the error model), ``truth`` (perfect tracks) or ``blind`` (none).
        forecaster: Futures of the tracks, or None for none.
        errors: Parameters of the error model, by default the profile's ``errors.json``.
        scales: Weights of the reward's terms.
        reach: An episode succeeds, and ends, as soon as the tool is at a wanted part.
        case_seeds: Cases to play, in order of the resets; without them each row draws its own.
        autoreset: Without it a cell that has ended waits for the next ``reset``.
        time_limit_s: Cuts every shift, for quick checks.
    """

    def __init__(
        self,
        count: int = 16,
        *,
        suite: str = "pick-v1",
        split: str = "train",
        perception: Perception = "errors",
        forecaster: BatchForecaster | None = None,
        errors: PartErrorParameters | None = None,
        scales: CellRewardScales | None = None,
        reach: bool = False,
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
        self.worlds = CellWorlds(count)
        self.sensors = ArmSensors(self.worlds)
        self.forecaster = forecaster
        self.reach = reach
        self.time_limit_s = time_limit_s
        slots = self.worlds.parts_max
        camera = load_camera(PROFILE / f"{CAMERA_NAMES[0]}.yaml")
        self.errors = PartErrors(count, slots, camera, errors or load_part_errors(PROFILE / "errors.json"))
        self._tracks = PerceivedTracks.empty(count, slots)
        self._reward = CellReward(self.worlds, scales)
        self._sent = np.zeros((count, JOINTS))  # acts during the next step
        self._width_m = np.full(count, LIMITS.gripper_width_m)
        self._reached = np.zeros(count, bool)
        self.inputs: ArmInputs | None = None

    def close_extras(self, **kwargs: Any) -> None:
        """Disconnect the physics clients."""
        self.worlds.close()

    def _begin(self, index: int, case_seed: int) -> None:
        self.worlds.reset(index, cell_case(self.suite, self.split, case_seed))
        if self.time_limit_s is not None:
            self.worlds.limit_time(index, self.time_limit_s)
        self.sensors.reset(index)
        self.errors.reset(index, [case_seed, ERROR_STREAM])
        self._tracks.clear(index)
        if self.forecaster is not None:
            self.forecaster.reset(index)
        self._reward.reset(index)
        self._sent[index], self._width_m[index] = 0.0, LIMITS.gripper_width_m
        self._reached[index] = False

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.inputs is not None  # there is no step before a reset
        following = command(action, self.inputs, self._sent)
        w = self.worlds
        w.step(self._sent, self._width_m)
        reward = self._reward.step(action)
        self._sent, self._width_m = following.joint_velocity_radps, following.gripper_width_m
        ended = w.end != RUNNING
        if self.reach:
            self._reached = ~ended & self._at_part()
            reward += self._reward.scales.finished * self._reached
            ended = ended | self._reached
        return reward, ended, w.end == ENDS.index("timeout")

    def _settle(self, action: np.ndarray) -> np.ndarray:
        assert self.inputs is not None
        return settle(action, self.inputs)

    def _at_part(self) -> np.ndarray:
        """Whether the tool is at the middle of a wanted part [B]."""
        w = self.worlds
        wanted = np.take_along_axis(w.wanted, np.maximum(w.part_class, 0), axis=1) > 0
        near = np.linalg.norm(w.part_position_m - w.tool_position_m[:, None], axis=2) < REACHED_M
        return (w.part_present & (w.part_class >= 0) & wanted & near).any(axis=1)

    def _summarise(self, index: int) -> PickSummary:
        w = self.worlds
        reached = bool(self._reached[index])
        end = "goal" if reached else ENDS[int(w.end[index])]
        duration_s = 0.1 * max(int(w.tick[index]), 1)
        done = reached if self.reach else bool(w.success[index]) and end == "goal"
        return PickSummary(
            seed=int(w.cases[index].seed),
            success=done,
            end=end,
            duration_s=duration_s,
            parts_ordered=int(w.parts_ordered[index]),
            parts_binned=int(w.parts_binned[index]),
            wrong_parts=int(w.wrong_parts[index]),
            picks_per_minute=60.0 * float(w.parts_binned[index]) / duration_s,
            reward=float(self._return[index]),
            reward_terms={f"reward_{name}": value for name, value in self._reward.episode(index).items()},
        )

    def _perceive(self, fresh: np.ndarray | None = None) -> None:
        self.sensors.update()
        frames = link_frames(self.sensors.joint_position_rad)
        if self.perception == "errors":
            self._tracks = self.errors.observe(self.worlds, arm_rods(frames), fresh)
        elif self.perception == "truth":
            self._tracks = true_parts(self.worlds)
        self.inputs = inputs_from_worlds(
            self.worlds,
            self.sensors,
            frames,
            self._tracks,
            self._last_action,
            futures=None if self.forecaster is None else self.forecaster.update(self._tracks, fresh),
        )
        self._observation = observe(self.inputs)


class PickEnv(TaskEnv[PickVectorEnv]):
    """One picking cell, ``visuomotor/Pick-v1``: a ``PickVectorEnv`` of one, see ``TaskEnv``.

    ``visuomotor/PickStatic-v1`` has plain parts on a belt that stands still, ``visuomotor/PickReach-v1`` one part that
    is only to be reached.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(PickVectorEnv(1, autoreset=False, **settings))


def make_vector(num_envs: int = 1, **settings: Any) -> PickVectorEnv:
    """What ``gymnasium.make_vec`` calls."""
    return PickVectorEnv(num_envs, **settings)


for _name, _settings in (
    ("Pick-v1", {}),
    ("PickStatic-v1", {"suite": "pick-static-v1", "perception": "truth"}),
    ("PickReach-v1", {"suite": "pick-reach-v1", "perception": "truth", "reach": True}),
):
    gym.register(
        f"visuomotor/{_name}",
        entry_point="visuomotor.sim.cell.env:PickEnv",
        vector_entry_point="visuomotor.sim.cell.env:make_vector",
        kwargs=_settings,
    )

__all__ = ["TERMS", "CellRewardScales", "PickEnv", "PickSummary", "PickVectorEnv"]
