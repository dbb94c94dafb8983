from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pybullet")

from visuomotor.messages.schema import CAR, CONE, PEDESTRIAN
from visuomotor.messages.tasks import get_task
from visuomotor.perception.train import fleet
from visuomotor.perception.train.detection_noise import NoiseSettings, NoisyDetector
from visuomotor.perception.train.fleet import profile_cameras, rollouts
from visuomotor.perception.train.forecaster_rows import get_forecaster_row
from visuomotor.perception.train.tracking_eval import evaluate
from visuomotor.perception.train.tracks_data import (
    EpisodeLog,
    ground_distance,
    make_dataset,
    match_truth,
    samples,
)
from visuomotor.sim.drive import MANOEUVRES as SIMULATED_MANOEUVRES

ROAD = get_forecaster_row("drive")


@pytest.fixture(scope="module")
def logs() -> list[EpisodeLog]:
    return list(rollouts("tune", [3, 4], worlds=2, limit_s=9.0))


def test_manoeuvres_are_named_as_in_the_simulator() -> None:
    assert ROAD.manoeuvres == SIMULATED_MANOEUVRES


def test_episodes_are_logged_whole_and_repeat(logs: list[EpisodeLog]) -> None:
    assert [log.seed for log in logs] == [3, 4]
    assert all(len(log.ticks) == 90 for log in logs)
    again = list(rollouts("tune", [3, 4], worlds=2, limit_s=1.0))
    for old, new in zip(logs, again, strict=True):
        for a, b in zip(old.ticks, new.ticks, strict=False):
            assert np.array_equal(a.detections.ego_position_m, b.detections.ego_position_m)
            assert np.array_equal(a.tracks.odom_position_m, b.tracks.odom_position_m)


def test_most_tracks_follow_somebody(logs: list[EpisodeLog]) -> None:
    matched = np.concatenate([match_truth(tick, ROAD) for log in logs for tick in log.ticks])
    assert len(matched) > 300
    assert (matched >= 0).mean() > 0.7


def test_samples_hold_what_came_to_pass(logs: list[EpisodeLog]) -> None:
    data = samples(logs[0], 8, ROAD)
    assert data is not None
    assert data.history_m.shape[1:] == (get_task("drive").history_samples, 2)
    assert data.future_m.shape[1:] == (get_task("drive").horizon_steps, 2)
    assert data.present[:, -1].all()
    assert data.scored.mean() > 0.5
    assert (data.manoeuvre[data.scored] >= 0).all()
    known = data.take(data.scored & data.future_present[:, 0])
    first = np.linalg.norm(known.future_m[:, 0] - known.history_m[:, -1], axis=1)
    assert np.median(first) < 4.0  # 0.2 s of motion and the tracker's error
    last_scene = data.scene == data.scene[-1]
    assert not data.future_present[last_scene][:, -1].any()  # the episode ended before


def test_the_data_set_is_written_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "rollouts", partial(rollouts, limit_s=4.0))
    said: list[str] = []
    make_dataset(tmp_path, {"train": 0, "tune": 1}, ROAD, said.append)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tune.json", "tune.npz"]
    assert said[0].startswith("tune: 1 episodes")


def test_the_tracker_is_not_below_sort(logs: list[EpisodeLog]) -> None:
    scores = evaluate(logs, profile_cameras())
    assert scores["tracker"]["mota"] > scores["sort"]["mota"]
    assert scores["tracker"]["idf1"] > scores["sort"]["idf1"]


def test_the_gate_is_long_along_the_ray() -> None:
    truth = np.array([[40.0, 0.0], [0.0, 20.0]])
    near = ground_distance(truth, np.array([[46.0, 0.0], [40.0, 3.0], [0.0, 23.0], [1.5, 20.0]]), ROAD)
    assert np.isfinite(near).tolist() == [[True, False, False, False], [False, False, True, True]]
    assert near[0, 0] == pytest.approx(6.0 / 7.0)


def detector(seed: int = 0, **settings: float) -> NoisyDetector:
    return NoisyDetector(profile_cameras(), np.random.default_rng(seed), NoiseSettings(**settings))


def look(noisy: NoisyDetector, x: float, y: float = 0.0, class_id: int = CAR, share: float = 1.0, ticks: int = 200):
    size = np.array([[4.5, 1.8, 1.5]]) if class_id == CAR else np.array([[0.5, 0.5, 1.7]])
    visible = np.array([[share, 0.0, 0.0]])
    return [
        noisy.detect(np.array([7]), np.array([class_id]), np.array([[x, y]]), np.zeros(1), size, visible)
        for _ in range(ticks)
    ]


def test_noise_grows_with_range_and_covariance_tells() -> None:
    spread, told = [], []
    for x in (10.0, 30.0):
        seen = look(detector(false_alarms=0.0, confusion_share=0.0), x)
        place = np.concatenate([d.ego_position_m for d in seen])
        assert place[:, 0].mean() == pytest.approx(x, rel=0.06)
        spread.append(place.std(0))
        told.append(np.sqrt(np.concatenate([d.ego_covariance_m2 for d in seen])[:, [0, 1], [0, 1]].mean(0)))
    assert spread[1][0] > 4 * spread[0][0]
    assert np.array(told)[:, 0] == pytest.approx(np.array(spread)[:, 0], rel=0.6)  # across, a floor rules


def test_hidden_and_far_objects_are_missed() -> None:
    recall = [
        np.mean([len(d.score) for d in look(detector(false_alarms=0.0), x, share=share)])
        for x, share in ((12.0, 1.0), (70.0, 1.0), (12.0, 0.2))
    ]
    assert recall[0] > 0.9
    assert recall[1] < 0.3
    assert recall[2] < 0.3


def test_false_alarms_come_at_their_rate_in_every_camera() -> None:
    noisy = detector(false_alarms=0.5)
    none = np.zeros((0, 2))
    seen = [noisy.detect(np.zeros(0), np.zeros(0, int), none, np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3)))] * 1
    for _ in range(400):
        seen.append(noisy.detect(np.zeros(0), np.zeros(0, int), none, np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3))))
    count = np.mean([len(d.score) for d in seen])
    assert count == pytest.approx(0.5 / 0.4, rel=0.3)  # those born plus those that persist
    assert {int(c) for d in seen for c in d.camera_index} == {0, 1, 2}
    assert {int(c) for d in seen for c in d.class_id} >= {CAR, PEDESTRIAN, CONE}
