"""What imitation has to know of a task: its interface, which labels matter how much, and which error is worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from visuomotor.control.network import Interface
from visuomotor.control.observation import LAYOUT
from visuomotor.control.policy import DRIVE

SPEED = LAYOUT.index("ego_speed")
STANDING_MPS = 0.3
STANDING_LATERAL_WEIGHT = 0.1
BRAKING_NORM = -0.2  # where the teacher brakes harder than this,
UNDER_BRAKING = 4.0  # to brake less than it costs so much more than to brake more


@dataclass(frozen=True)
class Lesson:
    """``weigh`` gives the weights [B, A] of observations and labels, ``penalise`` factors [B, A] on the loss.

    ``disturbance`` [A]: deviation of the disturbances under which the expert acts. ``failures``: ends whose last states
    count more.
    """

    interface: Interface[Any]
    disturbance: tuple[float, ...]
    weigh: Callable[[np.ndarray, np.ndarray], np.ndarray]
    penalise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    failures: tuple[str, ...] = ("collision",)


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
    disturbance=(0.15, 0.1),
    weigh=_weigh_driving,
    penalise=_penalise_driving,
    failures=("collision", "offroad"),
)
