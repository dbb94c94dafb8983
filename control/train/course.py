"""Settings of a policy's training, and what the training has to be given by a task: a ``Course``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from visuomotor.control.train.episodes import Expert
from visuomotor.control.train.forecasting import BatchedForecaster
from visuomotor.control.train.lesson import Lesson
from visuomotor.perception.forecaster import load_forecaster
from visuomotor.perception.tasks import get_perception


class PolicyTraining(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a training; steps are vector steps of all worlds together, so one is ``worlds`` transitions."""

    seed: int = 0
    suite: str = "drive-v1"
    worlds: int = 64
    threads: int = 1
    forecaster: str = "drive-forecaster,cv"  # cv, kalman, none, a bundle; several: by turns, evaluated on the first
    camera_dropout: float = 0.05
    teacher: str = "planner"  # who demonstrates, one of the lesson's teachers
    demonstration_steps: int = 800
    aggregation_rounds: int = 40
    aggregation_steps: int = 800
    demonstration_capacity: int = 2_500_000
    imitation_epochs: int = 8
    imitation_steps: int = 1500  # batches at most, in each round
    final_steps: int = 16_000  # batches of the last round
    imitation_minutes: float = 66.0  # no further round after this
    width: int = 384
    depth: int = 3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    rollout_steps: int = 128
    batch_size: int = 1024
    epochs: int = 4
    learning_rate: float = 1e-4
    clip_range: float = 0.2
    target_kl: float = 0.02
    entropy: float = 0.0
    log_deviation: float = -1.8
    value_rollouts: int = 8
    teacher_rate: float = 5e-4  # learning rate of the imitation that goes on beside PPO
    teacher_minutes: float = 40.0  # of PPO; by then it has faded to zero
    replay: float = 0.3
    evaluation_minutes: float = 10.0
    evaluation_cases: int = 128
    evaluation_limit_s: float | None = None  # cuts the evaluation's episodes, for quick checks

    def __post_init__(self) -> None:
        """Raise ValueError that names the setting and its value."""
        for name in ("worlds", "threads", "demonstration_steps", "rollout_steps", "batch_size", "epochs", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 < self.gamma < 1.0:
            raise ValueError(f"gamma must lie in (0, 1), got {self.gamma}")


class Course(Protocol):
    """A task's worlds, teacher and evaluation."""

    lesson: Lesson

    def make_env(self, settings: PolicyTraining, case_seeds: Iterable[int]) -> Any:
        """Training worlds under the perception error model."""

    def make_teacher(self, settings: PolicyTraining, env: Any) -> Expert:
        """The demonstrator of these worlds; ValueError for an unknown one."""
        ...

    def make_baseline(self, worlds: int) -> Expert:
        """The written policy that the learned one is compared with."""
        ...

    def evaluate(self, driver: Expert, settings: PolicyTraining, perception: str) -> dict[str, Any]:
        """Play the tuning cases: ``score`` (greatest is best), ``text`` that describes it, and figures by name."""
        ...

    def describe(self, episodes: Sequence[Any]) -> str:
        """One line about episodes."""
        ...

    def figures(self, episodes: Sequence[Any]) -> dict[str, float]:
        """What is logged of episodes."""
        ...


def make_forecaster(name: str, worlds: int, slots: int = 32, task: str = "drive") -> BatchedForecaster | None:
    """The named forecaster, or several by turns (``a,b``), over the tracks of ``worlds`` training worlds."""
    if name == "none":
        return None
    found = [load_forecaster(part.strip(), task=get_perception(task), device="cpu") for part in name.split(",")]
    if None in found:
        raise ValueError(f"forecaster: 'none' cannot take turns with others, got {name!r}")
    return BatchedForecaster(worlds, slots, *(f for f in found if f is not None))
