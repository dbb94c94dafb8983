"""What perception assumes of each task's world, as data: one row per task, beside the rows of ``messages.tasks``.

With those, the only place of perception that names tasks: detector, tracker and forecaster read their row.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from visuomotor.messages.tasks import DEFAULT_TASK, Task, get_task
from visuomotor.perception.motion import MotionModel, TrackerConfig


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """From boxes in the picture to objects on the ground."""

    size_prior_m: tuple[tuple[float, float], ...]  # length, width by class
    rivals: tuple[int, ...]  # by class; those of one number in the same place are one object that is called both
    range_max_m: float  # from the camera; a ground point this close to the horizon says nothing about range
    cut_margin_px: float = 2.0  # a box this near an edge of the picture shows a part of its object only ...
    cut_sigma: float = 3.0  # ... and its ground point is so much less certain: squared Mahalanobis distances of 9 to 17
    cut_floor_m: float  # ... and where little of it is left in the picture, off by this (p90)
    foot_floor_m: tuple[float, float]  # along, across: how far the box of an object ahead ends from where it stands


class Extrapolation(msgspec.Struct, frozen=True, kw_only=True):
    """Constants of the forecasters without learning, tuned on the tuning split.

    A fan has one row per class: heading (rad) of the two turning futures, factors of speed of the three straight ones.
    """

    cv_fan: tuple[tuple[float, float, float, float], ...]
    cv_samples: int = 6  # samples of the velocity's least-squares line
    cv_spread_start_m: float
    cv_spread_growth_mps: float
    kalman_fan: tuple[tuple[float, float, float, float], ...]
    kalman_measurement_m: tuple[float, ...]  # by class
    kalman_acceleration_mps2: tuple[float, ...]
    kalman_speed_prior_mps: tuple[float, ...]


class PerceptionTask(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    task: Task
    placement: Placement
    motion: MotionModel
    tracker: TrackerConfig
    extrapolation: Extrapolation
    truth_range_m: float  # how far perfect perception sees

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def __post_init__(self) -> None:
        count = len(self.task.class_names)
        columns: dict[str, Sequence[object]] = {
            "symmetry": self.task.symmetry,
            "size_prior_m": self.placement.size_prior_m,
            "rivals": self.placement.rivals,
            "merge_radius_m": self.motion.merge_radius_m,
            **{name: getattr(self.extrapolation, name) for name in EXTRAPOLATION_BY_CLASS},
        }
        for name, column in columns.items():
            if len(column) != count:
                raise ValueError(f"{self.name}: {name}: expected one value for each of {count} classes, got {column}")


EXTRAPOLATION_BY_CLASS = (
    "cv_fan", "kalman_fan", "kalman_measurement_m", "kalman_acceleration_mps2", "kalman_speed_prior_mps",
)  # fmt: skip


PERCEPTION: dict[str, PerceptionTask] = {
    row.name: row
    for row in (
        PerceptionTask(  # classes: car, truck, cyclist, pedestrian, cone
            task=get_task("drive"),
            placement=Placement(
                size_prior_m=((4.4, 1.8), (8.0, 2.4), (1.8, 0.6), (0.5, 0.5), (0.4, 0.4)),
                rivals=(0, 0, 1, 2, 3),
                range_max_m=120.0,
                cut_floor_m=2.5,  # p90 right beside the car: 2 to 4
                foot_floor_m=(0.3, 0.1),
            ),
            # The filter's white acceleration is larger than what anybody sustains: who cuts in gathers sideways speed
            # for a second and more, and a filter that takes the first half of that for noise loses him when it matters
            # most.
            motion=MotionModel(
                acceleration_along_mps2=(5.0, 3.5, 2.0, 3.5, 0.02),
                acceleration_across_mps2=(4.0, 3.0, 2.0, 2.0, 0.02),
                birth_speed_along_mps=(5.0, 5.0, 3.0, 1.2, 0.02),
                birth_speed_across_mps=(0.7, 0.5, 0.8, 1.2, 0.02),
                is_vehicle=(True, True, True, False, False),
                with_traffic=(True, True, False, False, False),
                merge_radius_m=(1.6, 2.2, 0.9, 0.5, 0.3),
                confusions=((0, 1, 2.0), (2, 3, 2.0), (3, 4, 5.0), (0, 2, 5.0)),
            ),
            tracker=TrackerConfig(),
            extrapolation=Extrapolation(
                cv_fan=(
                    (0.15, 0.7, 0.2, 1.5),
                    (0.1, 0.2, 0.5, 1.5),
                    (0.2, 0.8, 0.5, 1.15),
                    (0.6, 0.0, 0.2, 0.9),
                    (0.6, 0.2, 0.4, 0.0),
                ),
                cv_spread_start_m=0.5,
                cv_spread_growth_mps=0.8,
                kalman_fan=(
                    (0.1, 0.7, 0.2, 1.5),
                    (0.1, 0.0, 0.4, 1.5),
                    (0.2, 0.8, 0.5, 1.15),
                    (0.6, 0.0, 1.3, 0.2),
                    (0.6, 1.5, 0.5, 0.0),
                ),
                kalman_measurement_m=(0.1, 1.2, 0.3, 1.2, 0.2),
                kalman_acceleration_mps2=(1.0, 4.0, 0.8, 0.02, 0.02),
                kalman_speed_prior_mps=(10.0, 10.0, 5.0, 1.5, 0.1),
            ),
            truth_range_m=80.0,
        ),
        PerceptionTask(  # classes: red cube, blue cylinder, green block, yellow ball, duck, brick
            task=get_task("pick"),
            placement=Placement(
                size_prior_m=((0.045, 0.045), (0.045, 0.045), (0.08, 0.04), (0.045, 0.045), (0.07, 0.05), (0.08, 0.04)),
                rivals=(0, 1, 2, 3, 4, 5),
                range_max_m=1.5,
                cut_floor_m=0.01,
                foot_floor_m=(0.01, 0.01),
            ),
            # The belt starts and stops within a fraction of a second and takes everything with it; a ball rolls on.
            motion=MotionModel(
                acceleration_along_mps2=(0.4, 0.4, 0.4, 0.6, 0.4, 0.4),
                acceleration_across_mps2=(0.4, 0.4, 0.4, 0.6, 0.4, 0.4),
                steady_mps2=(0.03, 0.03, 0.03, 0.05, 0.03, 0.03),
                belt_m=(0.34, -0.9, 0.66, 1.3),
                rolls=(False, True, False, True, False, False),
                birth_speed_along_mps=(0.25,) * 6,
                birth_speed_across_mps=(0.25,) * 6,
                is_vehicle=(False,) * 6,
                with_traffic=(False,) * 6,
                merge_radius_m=(0.03,) * 6,
                confusion=8.0,  # a colour misread in a strange light is no second part in the same place
                heading_follows_motion=False,
            ),
            tracker=TrackerConfig(
                missed_confirmed_s=0.5,
                unseen_max_s=3.0,  # under the arm; the belt goes on
                outside_max_s=1.0,  # downstream of the picture
                position_sigma_max_m=0.5,
                blind_range_m=0.0,
                range_max_m=2.5,
                range_sure_m=2.5,
                tracks_max=16,
                measurement_floor_m=0.002,
                traffic_speed_share=0.0,
            ),
            extrapolation=Extrapolation(
                # Tuned over all classes together: the belt moves whatever lies on it.
                cv_fan=((0.04, 0.2, 0.6, 0.0),) * 6,
                cv_samples=5,
                cv_spread_start_m=0.005,
                cv_spread_growth_mps=0.04,
                kalman_fan=((0.04, 0.4, 0.7, 0.0),) * 6,
                kalman_measurement_m=(0.0019,) * 6,
                kalman_acceleration_mps2=(0.075,) * 6,
                kalman_speed_prior_mps=(0.2,) * 6,
            ),
            truth_range_m=2.5,
        ),
    )
}


def get_perception(name: str = DEFAULT_TASK) -> PerceptionTask:
    """The row of a task; ValueError with the known names when there is none."""
    if name not in PERCEPTION:
        raise ValueError(f"task: expected one of {', '.join(PERCEPTION)}, got {name!r}")
    return PERCEPTION[name]
