"""The course of picking: cells, teacher and the tuning cases of ``train policy --task pick``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from visuomotor.control.arm.inputs import AGENTS_MAX
from visuomotor.control.arm.picker import ScriptedPicker
from visuomotor.control.train.arm_teacher import PickTeacher
from visuomotor.control.train.course import PolicyTraining, make_forecaster
from visuomotor.control.train.episodes import Expert, play
from visuomotor.control.train.lessons import PICKING
from visuomotor.sim.cell.env import PickSummary, PickVectorEnv

PICK_SETTINGS = PolicyTraining(
    suite="pick-v1",
    worlds=16,
    forecaster="pick-forecaster",
    camera_dropout=0.0,
    teacher="picker",
    demonstration_steps=800,
    aggregation_rounds=120,
    aggregation_steps=400,
    demonstration_capacity=1_000_000,
    imitation_epochs=60,
    imitation_steps=2500,
    final_steps=20_000,
    imitation_minutes=60.0,
    log_deviation=-3.0,  # the tool follows to millimetres: 1 cm off per tick is a grip missed
    evaluation_cases=32,
)


class PickCourse:
    """See ``Course``."""

    lesson = PICKING

    def make_env(self, settings: PolicyTraining, case_seeds: Iterable[int]) -> PickVectorEnv:
        """Training cells under the perception error model."""
        return PickVectorEnv(
            settings.worlds,
            suite=settings.suite,
            split="train",
            forecaster=make_forecaster(settings.forecaster, settings.worlds, AGENTS_MAX, "pick"),
            case_seeds=case_seeds,
        )

    def make_teacher(self, settings: PolicyTraining, env: PickVectorEnv) -> Expert:
        """The scripted picker on what the learner sees: its labels hold nothing hidden. Or on the true state."""
        return PickTeacher(env.worlds) if settings.teacher == "oracle" else ScriptedPicker()

    def make_baseline(self, worlds: int) -> Expert:
        """The scripted picker on what the policy sees."""
        return ScriptedPicker()

    def evaluate(self, driver: Expert, settings: PolicyTraining, perception: str) -> dict[str, Any]:
        """Play the tuning cases; the share of ordered parts binned counts, less five times the wrong ones."""
        seeds = list(range(settings.evaluation_cases))
        cells = min(settings.worlds, len(seeds))
        episodes = play(
            driver,
            seeds,
            count=cells,
            worlds=PickVectorEnv,
            suite=settings.suite,
            split="tune",
            perception=perception,
            forecaster=make_forecaster(settings.forecaster.split(",")[0], cells, AGENTS_MAX, "pick"),
            time_limit_s=settings.evaluation_limit_s,
        )
        figures = self.figures(episodes)
        return {
            **figures,
            "score": figures["binned_share"] - 5.0 * figures["wrong_share"] + 0.1 * figures["success"],
            "text": self.describe(episodes),
        }

    def describe(self, episodes: Sequence[PickSummary]) -> str:
        """Success, parts, collisions."""
        figures = self.figures(episodes)
        ordered, binned, wrong = _parts(episodes)
        hit = sum(episode.end == "collision" for episode in episodes)
        return (
            f"success {figures['success']:.1%} of {len(episodes)}, {binned} of {ordered} parts "
            f"({figures['binned_share']:.1%}), {wrong} wrong, {hit} collisions, "
            f"{figures['picks_per_minute']:.2f} picks/min"
        )

    def figures(self, episodes: Sequence[PickSummary]) -> dict[str, float]:
        """Shares of successes, of parts binned and of wrong ones, and picks per minute."""
        ordered, binned, wrong = _parts(episodes)
        return {
            "success": float(np.mean([episode.success for episode in episodes])),
            "binned_share": binned / max(ordered, 1),
            "wrong_share": wrong / max(binned + wrong, 1),
            "picks_per_minute": 60.0 * binned / max(sum(episode.duration_s for episode in episodes), 1e-6),
            "reward": float(np.mean([episode.reward for episode in episodes])),
        }


def _parts(episodes: Sequence[PickSummary]) -> tuple[int, int, int]:
    """Ordered, binned and wrong parts."""
    return (
        sum(episode.parts_ordered for episode in episodes),
        sum(episode.parts_binned for episode in episodes),
        sum(episode.wrong_parts for episode in episodes),
    )
