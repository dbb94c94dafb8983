"""What training and scoring a forecaster assume of each task, as data: one row per task."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from visuomotor.perception.tasks import PerceptionTask, get_perception
from visuomotor.perception.train.forecaster_data import Augmentation
from visuomotor.perception.train.forecaster_loss import LossWeights
from visuomotor.perception.train.forecaster_model import ForecasterConfig
from visuomotor.perception.train.forecaster_train import TrainingSettings

if TYPE_CHECKING:
    from visuomotor.perception.train.tracks_data import EpisodeLog


@dataclass(frozen=True, kw_only=True)
class ForecasterRow:
    """One row."""

    perception: PerceptionTask
    objects: str  # what it forecasts, for its report
    rollouts: str  # module:function that yields an ``EpisodeLog`` for every seed of a split; needs the simulator
    episodes: dict[str, int]  # of each split
    sample_ticks: dict[str, int]  # a scene is taken this often
    manoeuvres: tuple[str, ...]  # names of ``SceneSet.manoeuvre``, as the simulator's truth has them
    precedence: tuple[str, ...]  # the first of these that lasts long enough within the horizon names a sample ...
    still: str  # ... else this one when it lasts throughout ...
    steady: str  # ... else this one
    rare: tuple[str, ...]  # scenes in which somebody does one of these are sampled more often
    unscored: tuple[str, ...] = ()  # what no forecast is asked of
    kinds: tuple[int, ...]  # by class; a track may follow a truth of its own kind only
    gate_m: float  # how far a track may be from the truth that it follows ...
    gate_along_share: float = 0.0  # ... and how much farther per metre of range, along the ray from the robot ...
    gate_across_share: float = 0.0  # ... and across it
    miss_m: float  # a nearest endpoint further off than this is a miss
    config: ForecasterConfig
    settings: TrainingSettings

    def load_rollouts(self) -> Callable[..., Iterator[EpisodeLog]]:
        """The function that ``rollouts`` names."""
        module, _, name = self.rollouts.partition(":")
        function: Callable[..., Iterator[EpisodeLog]] = getattr(importlib.import_module(module), name)
        return function


def _config(task: PerceptionTask, **changes: float) -> ForecasterConfig:
    row = task.task
    return ForecasterConfig(
        classes=len(row.class_names),
        history_samples=row.history_samples,
        horizon_steps=row.horizon_steps,
        step_s=row.forecast_step_s,
        futures=row.futures,
        **changes,  # type: ignore[arg-type]
    )


FORECASTERS: dict[str, ForecasterRow] = {
    row.perception.name: row
    for row in (
        ForecasterRow(  # classes: car, truck, cyclist, pedestrian, cone
            perception=get_perception("drive"),
            objects="road users",
            rollouts="visuomotor.perception.train.fleet:rollouts",
            episodes={"train": 360, "tune": 60, "evaluation": 100},
            sample_ticks={"train": 8, "tune": 10, "evaluation": 10},
            manoeuvres=("straight", "lane_change", "brake", "crossing", "static"),
            precedence=("crossing", "lane_change", "brake"),
            still="static",
            steady="straight",
            rare=("crossing", "brake"),
            kinds=(0, 0, 1, 1, 1),
            # Long along the ray and narrow across it, as one camera's errors are.
            gate_m=1.0,
            gate_along_share=0.15,
            gate_across_share=0.04,
            miss_m=2.0,  # Argoverse, Waymo and nuScenes use 2 m
            config=_config(get_perception("drive")),
            settings=TrainingSettings(
                epochs=30,
                agents_per_batch=384,
                learning_rate=2e-3,
                patience=8,
                steps_per_epoch=150,
                weights=LossWeights(),
                augmentation=Augmentation(noise_m=0.02, drop_share=0.02, gap_share=0.05, late_share=0.1),
            ),
        ),
        ForecasterRow(  # classes: red cube, blue cylinder, green block, yellow ball, duck, brick
            perception=get_perception("pick"),
            objects="parts on a belt",
            rollouts="visuomotor.perception.train.belt:rollouts",
            episodes={"train": 300, "tune": 40, "evaluation": 80},
            sample_ticks={"train": 5, "tune": 7, "evaluation": 7},
            manoeuvres=("still", "constant", "stop_and_go", "rolling", "held"),
            precedence=("held", "rolling", "stop_and_go"),
            still="still",
            steady="constant",
            rare=("rolling", "stop_and_go"),
            unscored=("held",),
            kinds=(0,) * 6,
            gate_m=0.04,
            miss_m=0.02,
            # One internal unit is 5 cm, about a part: speeds and distances are then of the size of those on a road.
            config=_config(get_perception("pick"), unit_m=0.05, speed_scale_mps=3.0, length_scale_m=4.0),
            settings=TrainingSettings(
                epochs=30,
                agents_per_batch=384,
                learning_rate=2e-3,
                patience=8,
                steps_per_epoch=150,
                weights=LossWeights(),
                # The belt has a direction and ends somewhere, but what lies on it moves alike whatever it is.
                augmentation=Augmentation(noise_m=0.0005, drop_share=0.02, gap_share=0.15, late_share=0.2),
            ),
        ),
    )
}


def get_forecaster_row(name: str) -> ForecasterRow:
    """The row of a task; ValueError with the known names when there is none."""
    if name not in FORECASTERS:
        raise ValueError(f"task: expected one of {', '.join(FORECASTERS)}, got {name!r}")
    return FORECASTERS[name]
