"""The course of driving: worlds, teachers and the tuning cases of ``train policy``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from visuomotor.control.baselines import IdmMobilDriver
from visuomotor.control.train.course import PolicyTraining, make_forecaster
from visuomotor.control.train.episodes import Expert, describe, play, success_rate
from visuomotor.control.train.lessons import DRIVING
from visuomotor.control.train.planner import PlannerTeacher
from visuomotor.sim.env import DriveVectorEnv, EpisodeSummary

SLOTS = 32


class DriveCourse:
    """See ``Course``."""

    lesson = DRIVING

    def make_env(self, settings: PolicyTraining, case_seeds: Iterable[int]) -> DriveVectorEnv:
        """Training worlds under the perception error model."""
        return DriveVectorEnv(
            settings.worlds,
            suite=settings.suite,
            split="train",
            forecaster=make_forecaster(settings.forecaster, settings.worlds, SLOTS),
            camera_dropout=settings.camera_dropout,
            case_seeds=case_seeds,
        )

    def make_teacher(self, settings: PolicyTraining, env: DriveVectorEnv) -> Expert:
        """It sees the true state (planner), or the tracks that the policy sees (idm)."""
        return PlannerTeacher(env.worlds) if settings.teacher == "planner" else IdmMobilDriver(env.num_envs)

    def make_baseline(self, worlds: int) -> Expert:
        """IDM + MOBIL."""
        return IdmMobilDriver(worlds)

    def evaluate(self, driver: Expert, settings: PolicyTraining, perception: str) -> dict[str, Any]:
        """Play the tuning cases; success counts, and a little the speed."""
        seeds = list(range(settings.evaluation_cases))
        worlds = min(settings.worlds, len(seeds))
        episodes = play(
            driver,
            seeds,
            count=worlds,
            suite=settings.suite,
            split="tune",
            perception=perception,
            forecaster=make_forecaster(settings.forecaster.split(",")[0], worlds, SLOTS),
            time_limit_s=settings.evaluation_limit_s,
        )
        success, speed = success_rate(episodes), float(np.mean([e.mean_speed_mps for e in episodes]))
        return {
            "success": success,
            "mean_speed_mps": speed,
            "score": success + 0.002 * speed,
            "text": describe(episodes),
        }

    def describe(self, episodes: Sequence[EpisodeSummary]) -> str:
        """Success, how the others ended, speed."""
        return describe(episodes)

    def figures(self, episodes: Sequence[EpisodeSummary]) -> dict[str, float]:
        """Success, reward and speed."""
        return {
            "success": success_rate(episodes),
            "reward": float(np.mean([e.reward for e in episodes])),
            "speed_mps": float(np.mean([e.mean_speed_mps for e in episodes])),
        }
