"""Shifts without pixels: what tracker and forecaster are given of a belt, and what became of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pybullet")

from visuomotor.perception.robot_pose import RobotPose, fill_line
from visuomotor.perception.train.belt import MANOEUVRES, profile_cameras, rollouts, visible
from visuomotor.perception.train.detection_noise import NOISE, NoisyDetector, get_noise
from visuomotor.perception.train.forecaster_rows import FORECASTERS, get_forecaster_row
from visuomotor.perception.train.tracks_data import EpisodeLog, make_dataset, match_truth, samples
from visuomotor.sim.cell.cell import MANOEUVRES as SIMULATED_MANOEUVRES

BELT = get_forecaster_row("pick")


@pytest.fixture(scope="module")
def log() -> EpisodeLog:
    (log,) = rollouts("tune", [1], limit_s=9.0)
    return log


def test_motions_are_named_as_in_the_simulator() -> None:
    assert SIMULATED_MANOEUVRES == MANOEUVRES == BELT.manoeuvres


def test_most_tracks_follow_a_part_within_millimetres(log: EpisodeLog) -> None:
    assert len(log.ticks) == 90
    errors = []
    for tick in log.ticks[20:]:
        part = match_truth(tick, BELT)
        gap = tick.tracks.odom_position_m[part >= 0] - tick.position_m[part[part >= 0]]
        errors.append(np.hypot(*gap.T))
    matched = np.concatenate(errors)
    assert len(matched) > 100
    assert np.median(matched) < 0.004


def test_samples_are_on_the_time_grid_of_the_task(log: EpisodeLog) -> None:
    data = samples(log, 5, BELT)
    assert data is not None
    task = BELT.perception.task
    assert data.history_m.shape[1:] == (task.history_samples, 2)
    assert data.future_m.shape[1:] == (task.horizon_steps, 2)
    known = data.take(data.scored & data.future_present[:, 0])
    assert len(known) > 10
    assert np.median(np.linalg.norm(known.future_m[:, 0] - known.history_m[:, -1], axis=1)) < 0.04
    assert not data.scored[data.manoeuvre == MANOEUVRES.index("held")].any()


def test_the_data_set_is_that_of_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: EpisodeLog) -> None:
    from visuomotor.perception.train import belt

    monkeypatch.setattr(belt, "rollouts", lambda split, seeds: iter([log]))  # a second shift would take as long again
    said: list[str] = []
    make_dataset(tmp_path, {"tune": 1}, BELT, said.append)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tune.json", "tune.npz"]
    assert set(FORECASTERS) == set(NOISE)


def test_the_arm_and_the_hand_hide_parts() -> None:
    cameras = profile_cameras()
    place = np.array([[0.5, 0.1], [0.5, 0.5], [0.5, 0.1], [0.5, 2.0]])
    arm = RobotPose(limbs_m=fill_line(np.array([[0.0, 0.0, 0.3], [0.45, 0.1, 0.5], [0.5, 0.1, 0.03]])))
    assert visible(place, np.full(4, 0.02), cameras, RobotPose())[:, 0].tolist() == [1, 1, 1, 0]
    assert visible(place, np.array([0.02, 0.02, 0.2, 0.02]), cameras, arm)[:, 0].tolist() == [0, 1, 0, 0]


def test_noise_of_a_camera_above_is_millimetres_and_told() -> None:
    noisy = NoisyDetector(profile_cameras(), np.random.default_rng(0), get_noise("pick"))
    seen = [
        noisy.detect(
            np.array([7, 8]), np.array([0, 1]), np.array([[0.5, 0.1], [0.45, 0.4]]), np.zeros(2),
            np.full((2, 3), 0.045), np.ones((2, 1)),
        )
        for _ in range(200)
    ]  # fmt: skip
    cube = np.concatenate([d.ego_position_m[np.hypot(*(d.ego_position_m - (0.5, 0.1)).T) < 0.05] for d in seen])
    assert len(cube) > 150
    assert 0.0005 < cube.std(0).max() < 0.004
    told = np.sqrt(np.concatenate([d.ego_covariance_m2 for d in seen])[:, [0, 1], [0, 1]].mean(0))
    assert told == pytest.approx(cube.std(0), rel=0.8)
    heading = np.concatenate([d.heading_rad[d.class_id == 1] for d in seen])
    assert np.isnan(heading).all()
