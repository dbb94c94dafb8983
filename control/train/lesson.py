"""What imitation has to know of a task: its interface, which labels matter how much, and which error is worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from visuomotor.control.network import Interface


@dataclass(frozen=True)
class Lesson:
    """``weigh`` gives the weights [B, A] of observations and labels, ``penalise`` factors [B, A] on the loss.

    ``disturbance`` [A]: deviation of the disturbances under which the expert acts. ``failures``: ends whose last states
    count more. ``teachers``: what reports call each that may be asked for, the first by default; ``baseline`` likewise.
    """

    interface: Interface[Any]
    teachers: dict[str, str]
    baseline: str
    disturbance: tuple[float, ...]
    weigh: Callable[[np.ndarray, np.ndarray], np.ndarray]
    penalise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    failures: tuple[str, ...] = ("collision",)
