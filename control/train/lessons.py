"""The lessons of the tasks."""

from __future__ import annotations

import numpy as np
import torch

from visuomotor.control.arm.observation import LAYOUT as ARM_LAYOUT
from visuomotor.control.arm.policy import PICK
from visuomotor.control.observation import LAYOUT
from visuomotor.control.policy import DRIVE
from visuomotor.control.train.lesson import Lesson

SPEED = LAYOUT.index("ego_speed")
STANDING_MPS = 0.3
STANDING_LATERAL_WEIGHT = 0.1
BRAKING_NORM = -0.2  # where the teacher brakes harder than this,
UNDER_BRAKING = 4.0  # to brake less than it costs so much more than to brake more


def _weigh_driving(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Where a car that stands should aim sideways is nearly arbitrary: such labels weigh less."""
    weight = np.ones_like(action, np.float32)
    weight[(observation[:, SPEED] < STANDING_MPS) & (action[:, 0] < 0.0), 1] = STANDING_LATERAL_WEIGHT
    return weight


def _penalise_driving(mean: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The teacher sees what the learner cannot, so its braking is spread over states that look alike.

    Too little of it costs more than too much: the fit goes to a low expectile, not the mean.
    """
    under = (action[:, 0] < BRAKING_NORM) & (mean[:, 0] > action[:, 0])
    factor = torch.ones_like(mean)
    factor[:, 0] = torch.where(under, UNDER_BRAKING, 1.0)
    return factor


DRIVING = Lesson(
    interface=DRIVE,
    teachers={"planner": "a privileged planner that sees the simulator's true state", "idm": "IDM + MOBIL"},
    baseline="IDM + MOBIL",
    disturbance=(0.15, 0.1),
    weigh=_weigh_driving,
    penalise=_penalise_driving,
    failures=("collision", "offroad"),
)

HEIGHT, HOLDING = ARM_LAYOUT.index("tool_z"), ARM_LAYOUT.index("hand_holding")
AWAY = ARM_LAYOUT.index("part0_next_distance")
LOW_M, NEAR_M = 0.10, 0.04
GRIP, TURN = 4, 3
GRIP_WEIGHT, TURN_WEIGHT, LOW_WEIGHT, NEAR_WEIGHT = 3.0, 0.5, 2.0, 2.0


def _weigh_picking(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """What is done close above the belt decides, and when the fingers open and close."""
    weight = np.ones_like(action, np.float32)
    weight[:, GRIP], weight[:, TURN] = GRIP_WEIGHT, TURN_WEIGHT
    low = (observation[:, HEIGHT] < LOW_M) & (observation[:, HOLDING] == 0.0)
    weight[low] *= LOW_WEIGHT
    weight[low & (observation[:, AWAY] < NEAR_M)] *= NEAR_WEIGHT
    return weight


PICKING = Lesson(
    interface=PICK,
    teachers={
        "picker": "the scripted picker on what the policy itself sees",
        "oracle": "the scripted picker on the simulator's true state, which knows how the belt will run",
    },
    baseline="scripted picker",
    disturbance=(0.05, 0.05, 0.04, 0.05, 0.0),
    weigh=_weigh_picking,
    penalise=lambda mean, _: torch.ones_like(mean),
)
LESSONS = {lesson.interface.task: lesson for lesson in (DRIVING, PICKING)}


def get_lesson(task: str) -> Lesson:
    """The lesson of a task; ValueError with the known names when there is none."""
    if task not in LESSONS:
        raise ValueError(f"task: expected one of {', '.join(LESSONS)}, got {task!r}")
    return LESSONS[task]
