"""The perception error model: marginals against its parameters, life of tracks, streams, parameter files."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from visuomotor.messages.schema import CAR, PEDESTRIAN
from visuomotor.sim.error_model import PerceptionErrors, true_tracks
from visuomotor.sim.error_parameters import ErrorParameters, load_errors, save_errors
from visuomotor.sim.visibility import CameraArrays

PROFILE = Path(__file__).resolve().parents[2] / "launch" / "profiles" / "drive" / "errors.json"
FRONT = CameraArrays(
    position_m=np.zeros((1, 2)),
    height_m=np.array([1.4]),
    yaw_rad=np.zeros(1),
    half_fov_rad=np.radians([40.0]),
    focal_px=np.array([229.0]),
)
SIZES = {CAR: (4.5, 1.8, 1.5), PEDESTRIAN: (0.5, 0.5, 1.7)}
CLEAN = msgspec.structs.replace(
    ErrorParameters(),
    detection_max=(1.0,) * 5,
    detection_px50=(0.01,) * 5,
    birth_hits=1,
    radial_floor_m=0.0,
    radial_px=0.0,
    lateral_floor_m=0.0,
    lateral_px=0.0,
    latency_s=0.0,
    velocity_floor_mps=0.0,
    velocity_per_m=0.0,
    velocity_at_birth=1.0,
    heading_noise_rad=(0.0,) * 5,
    size_noise=0.0,
    identity_switches_per_s=0.0,
    class_confusion=(0.0,) * 5,
    false_alarms_per_s=0.0,
    track_spread=0.0,
)


def scene(count=64, slots=4, distance=20.0, speed=(0.0, 0.0), class_id=CAR):
    """One agent straight ahead in each scene."""
    present = np.zeros((count, slots), bool)
    present[:, 0] = True
    shape = (count, slots)
    return SimpleNamespace(
        ego_pose=np.zeros((count, 3)),
        agent_present=present,
        agent_id=np.tile(np.arange(slots), (count, 1)),
        agent_class=np.full(shape, class_id),
        agent_position_m=np.tile(np.array([distance, 0.0]), (*shape, 1)),
        agent_velocity_mps=np.tile(np.array(speed), (*shape, 1)),
        agent_yaw_rad=np.zeros(shape),
        agent_size_m=np.tile(np.array(SIZES[class_id]), (*shape, 1)),
    )


def model(parameters, count=64, slots=4, seed=0):
    errors = PerceptionErrors(count, slots, FRONT, parameters)
    for index in range(count):
        errors.reset(index, [seed, index])
    return errors


def run(errors, truth, ticks):
    odom = np.zeros_like(truth.ego_pose)
    return [errors.update(truth, odom) for _ in range(ticks)]


def test_without_errors_tracks_are_the_truth():
    truth = scene(speed=(3.0, 1.0))
    tracks = run(model(CLEAN), truth, 3)[-1]
    expected = true_tracks(truth, truth.ego_pose)
    np.testing.assert_array_equal(tracks.present, expected.present)
    np.testing.assert_allclose(tracks.position_m[:, 0], expected.position_m[:, 0])
    np.testing.assert_allclose(tracks.velocity_mps[:, 0], expected.velocity_mps[:, 0])
    np.testing.assert_allclose(tracks.size_m[:, 0], expected.size_m[:, 0])


def test_odom_frame_follows_the_dead_reckoned_pose():
    truth = scene(count=1, speed=(5.0, 0.0))
    odom = np.array([[100.0, 50.0, 0.5 * np.pi]])
    tracks = model(CLEAN, count=1).update(truth, odom)
    np.testing.assert_allclose(tracks.position_m[0, 0], [100.0, 70.0], atol=1e-9)
    np.testing.assert_allclose(tracks.velocity_mps[0, 0], [0.0, 5.0], atol=1e-9)
    assert tracks.heading_rad[0, 0] == pytest.approx(0.5 * np.pi)


@pytest.mark.parametrize("distance", [10.0, 25.0])
def test_noise_has_the_stated_size_and_direction(distance):
    parameters = msgspec.structs.replace(
        CLEAN, radial_floor_m=0.2, radial_px=0.4, lateral_floor_m=0.1, lateral_px=1.0, position_correlation_s=0.3
    )
    truth = scene(distance=distance)
    error = np.concatenate([t.position_m[:, 0] - (distance, 0.0) for t in run(model(parameters), truth, 150)])
    assert error[:, 0].std() == pytest.approx(0.2 + 0.4 * distance**2 / (229.0 * 1.4), rel=0.06)
    assert error[:, 1].std() == pytest.approx(0.1 + 1.0 * distance / 229.0, rel=0.06)
    assert abs(error.mean(axis=0)).max() < 0.1 * error[:, 0].std()


def test_noise_is_correlated_over_the_stated_time():
    parameters = msgspec.structs.replace(CLEAN, radial_floor_m=1.0, position_correlation_s=0.5)
    error = np.stack([t.position_m[:, 0, 0] for t in run(model(parameters), scene(), 200)]) - 20.0
    after_half_second = (error[:-5] * error[5:]).mean() / (error**2).mean()
    assert after_half_second == pytest.approx(np.exp(-1.0), abs=0.05)


def test_share_of_ticks_detected_is_the_probability():
    parameters = msgspec.structs.replace(
        CLEAN, detection_max=(0.9,) * 5, detection_px50=(10.0,) * 5, detection_slope=4.0, coast_s=1e-6
    )
    truth = scene(distance=30.0, class_id=PEDESTRIAN)
    seen = np.mean([t.present[:, 0] for t in run(model(parameters), truth, 300)])
    height_px = 229.0 * 1.7 / 30.0
    assert seen == pytest.approx(0.9 / (1.0 + (10.0 / height_px) ** 4.0), abs=0.03)


def test_tracks_are_born_after_enough_hits():
    parameters = msgspec.structs.replace(CLEAN, birth_hits=3)
    present = [t.present[:, 0].all() for t in run(model(parameters), scene(), 4)]
    assert present == [False, False, True, True]


def test_hidden_track_coasts_with_its_velocity_and_is_dropped():
    parameters = msgspec.structs.replace(CLEAN, coast_s=0.3, coast_hidden_s=0.5)
    errors, truth = model(parameters, count=1), scene(count=1, speed=(2.0, 0.0))
    run(errors, truth, 2)
    truth.agent_position_m[:] = (-20.0, 0.0)  # out of view
    odom = np.zeros((1, 3))
    history = [errors.update(truth, odom) for _ in range(8)]
    assert [bool(t.present[0, 0]) for t in history] == [True] * 5 + [False] * 3
    np.testing.assert_allclose([t.position_m[0, 0, 0] for t in history[:5]], 20.0 + 0.2 * np.arange(1, 6))
    np.testing.assert_allclose([t.unseen_s[0, 0] for t in history[:5]], 0.1 * np.arange(1, 6))


def test_undetected_track_in_view_is_dropped_sooner():
    parameters = msgspec.structs.replace(CLEAN, coast_s=0.3, coast_hidden_s=5.0)
    errors, truth = model(parameters, count=1), scene(count=1)
    run(errors, truth, 2)
    errors.camera_alive[0, 0] = True
    truth.agent_size_m[..., 2] = 1e-6  # too flat to be detected, but in view
    assert [bool(t.present[0, 0]) for t in run(errors, truth, 5)] == [True] * 3 + [False] * 2


def test_velocity_lags_behind_a_change():
    parameters = msgspec.structs.replace(CLEAN, velocity_lag_s=0.4)
    errors, truth = model(parameters, count=1), scene(count=1, speed=(10.0, 0.0))
    run(errors, truth, 3)
    truth.agent_velocity_mps[:] = 0.0
    speeds = [t.velocity_mps[0, 0, 0] for t in run(errors, truth, 4)]
    np.testing.assert_allclose(speeds, 10.0 * np.exp(-0.1 / 0.4 * np.arange(1, 5)), rtol=1e-6)


def test_another_agent_in_the_slot_is_another_track():
    errors, truth = model(msgspec.structs.replace(CLEAN, birth_hits=2), count=1), scene(count=1)
    first = run(errors, truth, 3)[-1]
    truth.agent_id[0, 0] = 77
    second = run(errors, truth, 1)[-1]
    assert not second.present[0, 0]
    third = run(errors, truth, 1)[-1]
    assert third.present[0, 0]
    assert third.track_id[0, 0] != first.track_id[0, 0]


def test_identity_switches_and_false_alarms_come_at_their_rates():
    parameters = msgspec.structs.replace(
        CLEAN,
        identity_switches_per_s=0.5,
        false_alarms_per_s=0.4,
        false_alarm_life_s=0.5,
        false_alarm_near_share=0.0,
        false_alarm_standing=1.0,
    )
    history = run(model(parameters), scene(), 400)
    ids = np.stack([t.track_id[:, 0] for t in history])
    switches = (ids[1:] != ids[:-1]).sum() / (64 * 399 * 0.1)
    assert switches == pytest.approx(0.5, rel=0.1)
    false = np.mean([t.present[:, 1:].sum(axis=1) for t in history])
    assert false == pytest.approx(0.4 * 0.5, rel=0.15)  # rate times life
    everything = np.concatenate([t.position_m[t.present & (np.arange(4) > 0)] for t in history])
    assert np.abs(np.arctan2(everything[:, 1], everything[:, 0])).max() <= np.radians(50.0)  # born within 40


def test_false_alarms_that_do_not_stand_move_with_the_traffic():
    parameters = msgspec.structs.replace(
        CLEAN, false_alarms_per_s=0.5, false_alarm_life_s=2.0, false_alarm_near_share=0.0, false_alarm_standing=0.0
    )
    errors = model(parameters)
    moved = 0
    before = run(errors, scene(), 1)[-1]
    for _ in range(100):
        now = run(errors, scene(), 1)[-1]
        same = before.present & now.present & (before.track_id == now.track_id) & (np.arange(4) > 0)
        step = now.position_m[same] - before.position_m[same]
        np.testing.assert_allclose(step, 0.1 * now.velocity_mps[same], atol=1e-9)
        b = np.nonzero(same)[0]
        np.testing.assert_allclose(now.velocity_mps[same], now.velocity_mps[b, 0], atol=1.0)
        moved += len(b)
        before = now
    assert moved > 100


def test_false_alarms_beside_an_agent_are_near_it():
    parameters = msgspec.structs.replace(CLEAN, false_alarms_per_s=1.0, false_alarm_near_share=1.0)
    history = run(model(parameters), scene(), 100)
    doubles = np.concatenate([t.position_m[t.present & (np.arange(4) > 0)] for t in history])
    assert len(doubles) > 100
    assert np.median(np.hypot(doubles[:, 0] - 20.0, doubles[:, 1])) == pytest.approx(1.5 * 1.177, rel=0.2)


def test_dead_camera_sees_nothing():
    errors = model(CLEAN)
    errors.camera_alive[:] = False
    assert not run(errors, scene(), 3)[-1].present.any()


def test_a_row_depends_neither_on_its_place_nor_on_the_others():
    parameters = ErrorParameters()
    big, alone = model(parameters, count=8), PerceptionErrors(1, 4, FRONT, parameters)
    alone.reset(0, [0, 5])
    for a, b in zip(run(big, scene(8), 60), run(alone, scene(1), 60), strict=True):
        for name, value in vars(a).items():
            np.testing.assert_array_equal(value[5], getattr(b, name)[0], err_msg=name)


def test_fresh_update_touches_only_the_rows_asked_for():
    errors, truth, odom = model(ErrorParameters(), count=3), scene(3), np.zeros((3, 3))
    before = run(errors, truth, 10)[-1]
    errors.reset(1, [9])
    mask = np.array([False, True, False])
    after = errors.update(truth, odom, mask)
    twin = PerceptionErrors(1, 4, FRONT, ErrorParameters())
    twin.reset(0, [9])
    expected = twin.update(scene(1), np.zeros((1, 3)))
    for name, value in vars(after).items():
        np.testing.assert_array_equal(value[[0, 2]], getattr(before, name)[[0, 2]], err_msg=name)
        np.testing.assert_array_equal(value[1], getattr(expected, name)[0], err_msg=name)
    untouched = model(ErrorParameters(), count=3)
    run(untouched, truth, 10)
    a, b = errors.update(truth, odom), untouched.update(truth, odom)
    np.testing.assert_array_equal(a.position_m[[0, 2]], b.position_m[[0, 2]])


def test_profile_parameters_load_and_survive_a_round_trip(tmp_path):
    parameters = load_errors(PROFILE)
    save_errors(parameters, tmp_path / "errors.json")
    assert load_errors(tmp_path / "errors.json") == parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"radial_px": -1.0}', "radial_px must be finite and not negative, got -1.0"),
        ('{"detection_max": [1.2, 1, 1, 1, 1]}', "detection_max must be probabilities"),
        ('{"detection_max": [1, 1]}', "errors.json"),
        ('{"visible50": 0.0}', "visible50"),
        ('{"false_alarm_class": [1, 1, 0, 0, 0]}', "must sum to 1"),
        ('{"radial": 1.0}', "radial"),
        ('{"radial_px": ', "errors.json"),
    ],
)
def test_bad_parameter_files_are_refused(tmp_path, text, message):
    path = tmp_path / "errors.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_errors(path)


def test_missing_parameter_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json: error model cannot be read"):
        load_errors(tmp_path / "nowhere.json")
