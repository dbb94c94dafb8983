"""Tuning of the baseline forecasters on the tuning split: as carefully as what they are compared with.

``python -m visuomotor.perception.train.forecaster_fans data/tracks/tune.npz`` prints the constants for the task's row
in ``perception.tasks``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from visuomotor.messages.tasks import DEFAULT_TASK
from visuomotor.perception.baseline_forecasters import ConstantVelocity, FanTable, Kalman
from visuomotor.perception.tasks import PERCEPTION, PerceptionTask, get_perception
from visuomotor.perception.train.forecaster_data import SceneSet
from visuomotor.perception.train.forecaster_metrics import score_agents

HEADINGS_RAD = (0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6)
FACTORS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5)
VELOCITY_SAMPLES = (2, 3, 4, 5, 6, 8, 11)
MEASUREMENT_M = (0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2)
ROAD_LENGTH_M = 1.6  # merge radius of a car
ACCELERATION_MPS2 = (0.02, 0.2, 0.5, 1.0, 1.5, 2.5, 4.0)


def balanced(values: np.ndarray, manoeuvre: np.ndarray) -> float:
    """Mean over the manoeuvres of their means: what the fans are tuned for."""
    return float(np.mean([values[manoeuvre == m].mean() for m in np.unique(manoeuvre)]))


def evaluate(forecaster: ConstantVelocity | Kalman, data: SceneSet, metric: str) -> float:
    """Balanced score of a baseline on the agents of a set that count."""
    futures = forecaster.predict(data.history_m, data.present, data.class_id, data.scene)
    return balanced(score_agents(*futures, data.future_m, data.future_present)[metric], data.manoeuvre)


def tune_motion(data: SceneSet, task: PerceptionTask, report: Callable[[str], None] = print) -> tuple[int, Kalman]:
    """Samples of the constant-velocity line and the Kalman filter's constants, by ADE of the straight future."""
    scores = {n: evaluate(ConstantVelocity(task, 1, velocity_samples=n), data, "ade_m") for n in VELOCITY_SAMPLES}
    samples = min(scores, key=lambda n: scores[n])
    report(f"velocity from {samples} samples: {scores}")
    kalman = Kalman(task, 1)
    kalman.measurement_m, kalman.acceleration_mps2 = kalman.measurement_m.copy(), kalman.acceleration_mps2.copy()
    length = task.motion.merge_radius_m[0] / ROAD_LENGTH_M  # the grids are those of the road, in lengths of the task's
    for class_id, name in enumerate(task.task.class_names):
        part = data.take(data.class_id == class_id)
        if not len(part):
            continue
        best = (np.inf, 0.0, 0.0)
        for noise in (length * value for value in MEASUREMENT_M):
            for acceleration in (length * value for value in ACCELERATION_MPS2):
                kalman.measurement_m[class_id], kalman.acceleration_mps2[class_id] = noise, acceleration
                best = min(best, (evaluate(kalman, part, "ade_m"), noise, acceleration))
        _, kalman.measurement_m[class_id], kalman.acceleration_mps2[class_id] = best
        report(f"kalman {name}: ADE {best[0]:.3f} m, measurement {best[1]} m, acceleration {best[2]} m/s2")
    return samples, kalman


def tune_fan(
    forecaster: ConstantVelocity | Kalman,
    data: SceneSet,
    class_names: Sequence[str],
    report: Callable[[str], None] = print,
) -> None:
    """Headings and speed factors of the six futures of every class, in place, by coordinate descent on minADE."""
    heading, factor = forecaster.fan.heading_rad.copy(), forecaster.fan.speed_factor.copy()
    forecaster.fan = FanTable(heading, factor)
    for class_id, name in enumerate(class_names):
        part = data.take(data.class_id == class_id)
        if not len(part):
            continue
        best = evaluate(forecaster, part, "min_ade_m")
        for _ in range(3):
            before = best
            for value in HEADINGS_RAD:  # the two turning futures stay mirror images
                best = _try(forecaster, part, best, [(heading, 1, value), (heading, 2, -value)], class_id)
            for slot in (3, 4, 5):
                for value in FACTORS:
                    best = _try(forecaster, part, best, [(factor, slot, value)], class_id)
            if best == before:
                break
        report(f"{name}: minADE {best:.3f} m, headings {heading[class_id]}, factors {factor[class_id]}")


def _try(
    forecaster: ConstantVelocity | Kalman,
    data: SceneSet,
    best: float,
    changes: list[tuple[np.ndarray, int, float]],
    class_id: int,
) -> float:
    old = [(array, slot, float(array[class_id, slot])) for array, slot, _ in changes]
    for array, slot, value in changes:
        array[class_id, slot] = value
    score = evaluate(forecaster, data, "min_ade_m")
    if score < best:
        return score
    for array, slot, value in old:
        array[class_id, slot] = value
    return best


def main(arguments: list[str] | None = None) -> None:
    """Tune both baselines and print what they became."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path, nargs="+")
    parser.add_argument("--task", choices=list(PERCEPTION), default=DEFAULT_TASK)
    options = parser.parse_args(arguments)
    data = SceneSet.concatenate([SceneSet.load(path) for path in options.samples])
    data = data.take(data.scored)
    task = get_perception(options.task)
    count, kalman = tune_motion(data, task)
    line = ConstantVelocity(task, velocity_samples=count)
    tune_fan(line, data, task.task.class_names)
    full = Kalman(task)
    full.measurement_m, full.acceleration_mps2 = kalman.measurement_m, kalman.acceleration_mps2
    tune_fan(full, data, task.task.class_names)
    print(f"velocity samples {count}, measurement {full.measurement_m}, acceleration {full.acceleration_mps2}")
    for name, fan in (("cv", line.fan), ("kalman", full.fan)):
        print(name, np.concatenate([fan.heading_rad[:, 1:2], fan.speed_factor[:, 3:]], 1).tolist())


if __name__ == "__main__":
    main()
