"""Fitting the error model: what a known model produced is found again; assignment of tracks; the picture."""

import msgspec
import numpy as np
import pytest

from visuomotor.control.train.error_fit import fit_errors, fit_pairs, spread
from visuomotor.control.train.error_pairs import Scenes, collect, simulate
from visuomotor.control.train.error_plots import marginals, plot_marginals
from visuomotor.messages.schema import Tracks, Truth
from visuomotor.sim.error_model import PerceivedTracks
from visuomotor.sim.error_parameters import ErrorParameters
from visuomotor.sim.visibility import CameraArrays

CAMERAS = CameraArrays(
    position_m=np.zeros((3, 2)),
    height_m=np.full(3, 1.4),
    yaw_rad=np.array([0.0, 2.356, -2.356]),
    half_fov_rad=np.radians([40.0, 50.0, 50.0]),
    focal_px=np.array([229.0, 134.0, 134.0]),
)
SIZES = np.array([[4.5, 1.8, 1.5], [8.0, 2.5, 3.0], [1.8, 0.6, 1.7], [0.5, 0.5, 1.7], [0.4, 0.4, 0.7]])
KNOWN = msgspec.structs.replace(
    ErrorParameters(),
    detection_max=(0.95,) * 5,
    detection_px50=(8.0, 9.0, 8.0, 7.0, 6.0),
    detection_slope=6.0,
    radial_px=0.5,
    lateral_px=1.5,
    latency_s=0.15,
    velocity_floor_mps=0.5,
    velocity_per_m=0.04,
    heading_noise_rad=(0.1,) * 5,
    birth_hits=4,
    false_alarms_per_s=0.5,
    false_alarm_standing=1.0,  # moving ones would be taken for agents that the model missed
    identity_switches_per_s=0.1,
    track_spread=0.2,
)


def episode(seed, ticks=200, agents=10):
    """Agents of all classes that drive past a moving ego, to and fro so that they brake and accelerate."""
    rng = np.random.default_rng(seed)
    time = 0.1 * np.arange(ticks)
    ego = np.stack([8.0 * time, np.zeros(ticks), np.zeros(ticks)], axis=1)
    classes = np.arange(agents) % 5
    start = np.stack([rng.uniform(-20, 60, agents), rng.uniform(-12, 12, agents)], axis=1)
    sway, phase = rng.uniform(1.0, 4.0, agents), rng.uniform(0, 6, agents)
    speed = 8.0 + sway * np.sin(0.8 * time[:, None] + phase)
    x = start[:, 0] + np.cumsum(speed, axis=0) * 0.1
    shape = (ticks, agents)
    return Scenes(
        ego_pose=ego,
        odom_pose=ego + (5.0, -3.0, 0.0),
        agent_present=np.ones(shape, bool),
        agent_id=np.tile(np.arange(agents) + 10, (ticks, 1)),
        agent_class=np.tile(classes, (ticks, 1)),
        agent_position_m=np.stack([x, np.broadcast_to(start[:, 1], shape)], axis=-1),
        agent_velocity_mps=np.stack([speed, np.zeros(shape)], axis=-1),
        agent_yaw_rad=np.zeros(shape),
        agent_size_m=np.broadcast_to(SIZES[classes], (*shape, 3)).copy(),
    )


@pytest.fixture(scope="module")
def pairs():
    scenes = [episode(seed) for seed in range(8)]
    return collect([(s, simulate(s, CAMERAS, KNOWN, seed)) for seed, s in enumerate(scenes)], CAMERAS)


@pytest.fixture(scope="module")
def fitted(pairs):
    return fit_pairs(pairs, ErrorParameters(), "a known model")


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("radial_px", 0.3),
        ("lateral_px", 0.3),
        ("latency_s", 0.3),
        ("velocity_per_m", 0.45),
        ("birth_hits", 0.26),
        ("identity_switches_per_s", 0.7),
        ("false_alarms_per_s", 0.5),
        ("velocity_lag_s", 0.5),
        ("position_correlation_s", 0.5),
    ],
)
def test_known_parameters_are_found(fitted, name, tolerance):
    assert getattr(fitted, name) == pytest.approx(getattr(KNOWN, name), rel=tolerance)


def test_known_detection_is_found(fitted):
    for index in (0, 1, 3):
        assert fitted.detection_px50[index] == pytest.approx(KNOWN.detection_px50[index], rel=0.3)
        assert fitted.detection_max[index] == pytest.approx(0.95, abs=0.06)


def test_fitted_model_has_the_marginals_it_was_fitted_to(pairs, fitted):
    scenes = [episode(seed) for seed in range(8)]
    again = collect([(s, simulate(s, CAMERAS, fitted, 50 + seed)) for seed, s in enumerate(scenes)], CAMERAS)
    real, model = marginals(pairs), marginals(again)
    for a, b in zip(real["recall"], model["recall"], strict=True):
        assert np.isnan(a) or b == pytest.approx(a, abs=0.1)
    for key in ("radial_median_m", "radial_p90_m"):
        for a, b in zip(real[key][1:5], model[key][1:5], strict=True):
            assert b == pytest.approx(a, rel=0.35, abs=0.06)
    assert model["false_tracks_per_tick"] == pytest.approx(real["false_tracks_per_tick"], rel=0.5)


def test_every_logged_parameter_is_valid_and_named(fitted):
    assert fitted.source == "a known model"
    assert sum(fitted.false_alarm_class) == pytest.approx(1.0)
    assert fitted != ErrorParameters(source="a known model")


def test_tracks_go_to_the_nearest_agent_and_far_ones_are_false():
    scenes = episode(0, ticks=1, agents=2)
    scenes.agent_position_m[0] = [[10.0, 0.0], [10.0, 3.0]]
    tracks = PerceivedTracks.empty(1, 3)
    tracks.present[:] = True
    tracks.track_id[0] = [5, 6, 7]
    tracks.position_m[0] = np.array([[10.5, 2.9], [10.0, -0.5], [30.0, 0.0]]) + (5.0, -3.0)
    found = collect([(scenes, [tracks])], CAMERAS)
    assert found.track.tolist() == [6, 5]
    np.testing.assert_allclose(found.error_odom_m, [[0.0, -0.5], [0.5, -0.1]], atol=1e-9)
    assert found.false_ticks[:, 0].tolist() == [7.0]
    assert found.false_ticks[0, 4] == 0.0  # near nobody


def test_messages_give_the_same_pairs():
    def message(kind, tick):
        n = 1 + tick % 2
        if kind is Truth:
            return Truth(
                map_ego_pose=(1.0 * tick, 0.0, 0.0),
                odom_ego_pose=(1.0 * tick, 1.0, 0.0),
                agent_id=np.arange(n, dtype=np.int32),
                class_id=np.zeros(n, np.int32),
                map_position_m=np.array([[20.0 + tick, 0.0], [20.0, 8.0]], np.float32)[:n],
                map_velocity_mps=np.zeros((n, 2), np.float32),
                map_yaw_rad=np.zeros(n, np.float32),
                size_m=np.tile(np.float32([4.5, 1.8, 1.5]), (n, 1)),
            )
        zeros = np.zeros(n, np.float32)
        return Tracks(
            track_id=np.arange(n, dtype=np.int32),
            class_id=np.zeros(n, np.int32),
            score=zeros,
            odom_position_m=np.array([[20.5 + tick, 1.0], [20.0, 9.0]], np.float32)[:n],
            odom_velocity_mps=np.zeros((n, 2), np.float32),
            odom_heading_rad=zeros,
            size_m=np.tile(np.float32([4.5, 1.8]), (n, 1)),
            covariance=np.zeros((n, 4, 4), np.float32),
            age_s=zeros + 1.0,
            unseen_s=zeros,
        )

    log = [(message(Truth, tick), message(Tracks, tick)) for tick in range(700)]
    fitted = fit_errors([log], CAMERAS)
    assert fitted.source == "fitted to logged runs"
    assert fitted.false_alarms_per_s == 0.0
    assert fitted.identity_switches_per_s == 0.0
    assert fitted.detection_max[0] > 0.97


def test_no_episode_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        fit_errors([], CAMERAS)


def test_picture_of_two_sets(pairs, tmp_path):
    figures = plot_marginals({"real": pairs, "model": pairs}, tmp_path / "marginals.png")
    assert figures["real"].keys() == figures["model"].keys()
    assert (tmp_path / "marginals.png").stat().st_size > 30_000


def test_robust_spread_ignores_outliers():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.0, 2.0, 4000), np.full(100, 500.0)])
    assert spread(values) == pytest.approx(2.0, rel=0.1)
    assert spread(np.zeros(0)) == 0.0
