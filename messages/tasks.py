"""The tasks that this stack knows, as data: what differs between driving and picking for everything that serves both.

The only module of ``messages``, ``perception``, ``deploy`` and ``launch`` beside ``launch.tasks`` that names them.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One row: classes, the services that only this kind of robot has, and how far its forecasts reach."""

    name: str
    class_names: tuple[str, ...]
    # Of each class about the vertical: turned by 1/n of a circle it looks, or is gripped, the same; 0: round.
    symmetry: tuple[int, ...]
    state: Literal["vehicle_state", "arm_state"]  # proprioception, which gives the pose in ``odom_``
    context: Literal["route", "order"]  # what the robot is told to do
    forecast_step_s: float
    horizon_steps: int
    history_samples: int  # the last is now
    observed_within_s: float = 0.15  # a track that was matched this recently was observed; older, it is a guess
    futures: int = 6
    agents_max: int = 32


TASKS: dict[str, Task] = {
    row.name: row
    for row in (
        Task(
            name="drive",
            class_names=("car", "truck", "cyclist", "pedestrian", "cone"),
            symmetry=(1, 1, 1, 1, 1),
            state="vehicle_state",
            context="route",
            forecast_step_s=0.2,
            horizon_steps=15,
            history_samples=11,
        ),
        Task(
            name="pick",
            class_names=("red cube", "blue cylinder", "green block", "yellow ball", "duck", "brick"),
            symmetry=(4, 0, 2, 0, 2, 4),
            state="arm_state",
            context="order",
            forecast_step_s=0.1,
            horizon_steps=20,
            history_samples=11,
            # The hand hides the part that it is about to grip; the belt carries it on as it did, so a guess is as good.
            observed_within_s=3.0,
            agents_max=16,
        ),
    )
}


DEFAULT_TASK = "drive"  # of callers who name none: they were there before there was a second one
DEFAULT_SUITE = f"{DEFAULT_TASK}-v1"


def get_task(name: str) -> Task:
    """The row of a task; ValueError with the known names when there is none."""
    if name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]
