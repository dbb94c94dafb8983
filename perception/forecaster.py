"""What a forecaster is, the learned one on ONNX Runtime, and how a profile's name becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from visuomotor.deploy.runtime.bundle import Bundle, BundleError, load_bundle
from visuomotor.deploy.runtime.session import make_session
from visuomotor.deploy.runtime.tuning import Tuning
from visuomotor.messages.tasks import DEFAULT_TASK, TASKS
from visuomotor.perception.tasks import PerceptionTask, get_perception

FUTURES = 6  # at most
BASELINES = ("cv", "cv1", "kalman")  # without learning


class Futures(NamedTuple):
    """K futures of T steps for each of A agents, in the frame of the history."""

    position_m: np.ndarray  # float32 [A, K, T, 2]; the first step is one step after now
    spread_m: np.ndarray  # float32 [A, K, T, 3]: sigma_x, sigma_y, correlation
    probability: np.ndarray  # float32 [A, K], sums to 1 over K

    @classmethod
    def empty(cls, futures: int, steps: int) -> Futures:
        """No agents."""
        return cls(
            np.zeros((0, futures, steps, 2), np.float32),
            np.zeros((0, futures, steps, 3), np.float32),
            np.zeros((0, futures), np.float32),
        )


class Forecaster(Protocol):
    """Predicts futures from histories; torch-free forecasters and baselines satisfy it alike."""

    history_samples: int
    horizon_steps: int
    step_s: float
    futures: int
    observed_within_s: float  # how recently a track must have been matched for its position to count as observed

    def predict(self, history_m: np.ndarray, present: np.ndarray, class_id: np.ndarray, scene: np.ndarray) -> Futures:
        """Futures of A agents.

        ``history_m`` [A, H, 2] holds positions in any fixed frame, ``step_s`` apart, the last one now; ``present``
        [A, H] says which samples were observed (the last must be); ``class_id`` [A]; agents attend to the agents of the
        same ``scene`` [A]. A may be zero. Raises ValueError on shapes that don't fit.
        """
        ...


def checked_history(
    history_m: np.ndarray, present: np.ndarray, class_id: np.ndarray, scene: np.ndarray, samples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The four inputs as contiguous float32, bool, int64, int64; unobserved samples are set to zero.

    Raises ValueError that names the array, its shape and what was expected.
    """
    history = np.array(history_m, np.float32)
    seen = np.ascontiguousarray(present, bool)
    classes = np.ascontiguousarray(class_id, np.int64)
    scenes = np.ascontiguousarray(scene, np.int64)
    count = len(history)
    for name, value, shape in (
        ("history_m", history, (count, samples, 2)),
        ("present", seen, (count, samples)),
        ("class_id", classes, (count,)),
        ("scene", scenes, (count,)),
    ):
        if value.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")
    if not seen[:, -1].all():
        raise ValueError(
            f"present: the last sample is now and must be observed; missing for {int((~seen[:, -1]).sum())}"
        )
    history[~seen] = 0.0
    if not np.isfinite(history).all():
        raise ValueError("history_m: observed positions must be finite")
    return history, seen, classes, scenes


class LstmForecaster:
    """The learned forecaster of a bundle, on ONNX Runtime.

    Raises BundleError for one made for the classes of another task than ``task`` (by default any).
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        threads: int = 1,
        tuning: Tuning | None = None,
        *,
        task: PerceptionTask | None = None,
    ) -> None:
        if task is not None and bundle.meta.class_names != task.task.class_names:
            wanted, got = list(task.task.class_names), list(bundle.meta.class_names)
            raise BundleError(
                f"{bundle.path}: made for the task {bundle.meta.task!r}: class_names: expected {wanted} of the task "
                f"{task.name!r}, got {got}"
            )
        self.bundle = bundle
        self.observed_within_s = TASKS.get(bundle.meta.task, TASKS[DEFAULT_TASK]).observed_within_s
        self.history_samples = int(bundle.get_extra("history_steps", int))
        self.horizon_steps = int(bundle.get_extra("horizon_steps", int))
        self.futures = int(bundle.get_extra("futures", int))
        self.step_s = float(bundle.get_extra("step_s", (int, float)))
        self._session = make_session(bundle, device, threads, tuning)
        self.provider = self._session.placement_text

    def predict(self, history_m: np.ndarray, present: np.ndarray, class_id: np.ndarray, scene: np.ndarray) -> Futures:
        """See ``Forecaster.predict``."""
        history, seen, classes, scenes = checked_history(history_m, present, class_id, scene, self.history_samples)
        if len(history) == 0:
            return Futures.empty(self.futures, self.horizon_steps)
        out = self._session.run({"history_m": history, "present": seen, "class_id": classes, "scene": scenes})
        return Futures(out["position_m"], out["spread_m"], out["probability"])


def load_forecaster(
    name: str | Path,
    *,
    task: PerceptionTask | None = None,
    device: str = "auto",
    threads: int = 1,
    tuning: Tuning | None = None,
) -> Forecaster | None:
    """The forecaster a profile names: "cv", "cv1", "kalman", "none" (None), a folder or a shipped bundle's name.

    "cv" is constant velocity with a fan of futures about it, whose mean is slower than what it follows; "cv1" the line
    alone.
    Raises BundleError when the bundle is not to be had, of another kind or for the objects of another task.
    """
    if str(name) == "none":
        return None
    task = task or get_perception()
    if str(name) in BASELINES:
        from visuomotor.perception.baseline_forecasters import ConstantVelocity, Kalman

        return Kalman(task) if str(name) == "kalman" else ConstantVelocity(task, 1 if str(name) == "cv1" else FUTURES)
    return LstmForecaster(load_bundle(name, "forecaster"), device, threads, tuning, task=task)
