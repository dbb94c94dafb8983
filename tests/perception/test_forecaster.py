from pathlib import Path

import numpy as np
import pytest

from visuomotor.deploy.runtime.bundle import BundleError, BundleMeta, write_bundle
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import CAR, CLASS_NAMES, CONE, PEDESTRIAN, Episode, Forecast, Header, Tracks
from visuomotor.messages.tasks import get_task
from visuomotor.perception.baseline_forecasters import ConstantVelocity, Kalman, line_velocity
from visuomotor.perception.forecaster import (
    FUTURES,
    Forecaster,
    Futures,
    checked_history,
    load_forecaster,
)
from visuomotor.perception.forecaster_node import ForecasterNode
from visuomotor.perception.history import SlotHistory, TrackHistory

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "drive-forecaster"
ROAD = get_task("drive")
HISTORY_SAMPLES, HORIZON_STEPS, STEP_S = ROAD.history_samples, ROAD.horizon_steps, ROAD.forecast_step_s
T_S = (np.arange(HISTORY_SAMPLES) - (HISTORY_SAMPLES - 1)) * STEP_S
AHEAD_S = np.arange(1, HORIZON_STEPS + 1) * STEP_S


def straight(velocity: list[tuple[float, float]], start: tuple[float, float] = (3.0, -2.0)) -> np.ndarray:
    return np.array(start) + np.array(velocity, float).reshape(-1, 1, 2) * T_S[:, None]


@pytest.fixture(scope="module", params=["cv", "kalman", "lstm"])
def forecaster(request: pytest.FixtureRequest) -> Forecaster:
    loaded = load_forecaster(SHIPPED if request.param == "lstm" else request.param, device="cpu")
    assert loaded is not None
    return loaded


def ask(forecaster: Forecaster, history: np.ndarray, class_id: int = CAR, scene: np.ndarray | None = None) -> Futures:
    count = len(history)
    where = np.zeros(count, int) if scene is None else scene
    return forecaster.predict(history, np.ones((count, HISTORY_SAMPLES), bool), np.full(count, class_id), where)


@pytest.mark.parametrize("count", [0, 1, 2, 9, 60])
def test_shapes_hold_for_any_number_of_agents(forecaster: Forecaster, count: int) -> None:
    rng = np.random.default_rng(count)
    futures = ask(forecaster, straight([tuple(v) for v in rng.normal(0, 5, (count, 2))]))
    assert futures.position_m.shape == (count, FUTURES, HORIZON_STEPS, 2)
    assert futures.spread_m.shape == (count, FUTURES, HORIZON_STEPS, 3)
    assert futures.probability.shape == (count, FUTURES)
    assert all(f.dtype == np.float32 for f in futures)
    assert all(np.isfinite(f).all() for f in futures)
    assert futures.probability.sum(1) == pytest.approx(np.ones(count), abs=1e-4)
    assert (futures.spread_m[..., :2] > 0).all()
    assert (np.abs(futures.spread_m[..., 2]) < 1).all()


def test_a_straight_runner_is_expected_straight_ahead(forecaster: Forecaster) -> None:
    history = straight([(8.0, 0.0), (0.0, 8.0)])
    futures = ask(forecaster, history, scene=np.array([0, 1]))
    end = history[:, -1] + np.array([(8.0, 0.0), (0.0, 8.0)]) * AHEAD_S[-1]
    nearest = np.linalg.norm(futures.position_m[:, :, -1] - end[:, None], axis=-1).min(1)
    assert (nearest < 2.5).all()


def test_who_stands_is_expected_to_stand(forecaster: Forecaster) -> None:
    futures = ask(forecaster, straight([(0.0, 0.0)]), CONE)
    likely = futures.probability[0].argmax()
    assert np.abs(futures.position_m[0, likely] - (3.0, -2.0)).max() < 0.5


def test_uncertainty_grows_with_time(forecaster: Forecaster) -> None:
    futures = ask(forecaster, straight([(6.0, 1.0)]))
    sigma = futures.spread_m[0, futures.probability[0].argmax(), :, :2].prod(-1)
    assert sigma[-1] > 2 * sigma[0]


def test_futures_turn_and_move_with_the_history(forecaster: Forecaster) -> None:
    history = straight([(7.0, 0.5), (5.0, 0.0)])
    history[:, :, 1] += 0.05 * np.arange(HISTORY_SAMPLES) ** 1.5
    turn = np.array([[np.cos(1.1), -np.sin(1.1)], [np.sin(1.1), np.cos(1.1)]])
    plain, moved = ask(forecaster, history), ask(forecaster, history @ turn.T + (40.0, -25.0))
    assert moved.position_m == pytest.approx(plain.position_m @ turn.T + (40.0, -25.0), abs=0.02)
    assert moved.probability == pytest.approx(plain.probability, abs=1e-3)


def test_unobserved_samples_do_not_matter(forecaster: Forecaster) -> None:
    history = straight([(7.0, 0.0)])
    present = np.ones((1, HISTORY_SAMPLES), bool)
    present[0, [2, 3, 7]] = False
    spoilt = history.copy()
    spoilt[~present] = np.nan
    a = forecaster.predict(history, present, np.array([CAR]), np.array([0]))
    b = forecaster.predict(spoilt, present, np.array([CAR]), np.array([0]))
    assert np.array_equal(a.position_m, b.position_m)


def test_a_single_observation_is_enough(forecaster: Forecaster) -> None:
    present = np.zeros((1, HISTORY_SAMPLES), bool)
    present[0, -1] = True
    futures = forecaster.predict(straight([(7.0, 0.0)]), present, np.array([PEDESTRIAN]), np.array([0]))
    assert np.isfinite(futures.position_m).all()
    assert np.abs(futures.position_m[0, :, 0] - (3.0, -2.0)).max() < 3.0


def test_other_scenes_have_no_influence(forecaster: Forecaster) -> None:
    both = straight([(7.0, 0.0), (3.0, 0.0)])
    together = ask(forecaster, both, scene=np.array([0, 1]))
    alone = ask(forecaster, both[:1])
    assert together.position_m[0] == pytest.approx(alone.position_m[0], abs=1e-4)


def test_wrong_input_is_named() -> None:
    history = straight([(1.0, 0.0)])
    present = np.ones((1, HISTORY_SAMPLES), bool)
    good = (history, present, np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match=r"present: expected shape \(1, 11\), got \(1, 10\)"):
        checked_history(history, present[:, 1:], good[2], good[3], HISTORY_SAMPLES)
    absent = present.copy()
    absent[0, -1] = False
    with pytest.raises(ValueError, match="the last sample"):
        checked_history(history, absent, good[2], good[3], HISTORY_SAMPLES)
    with pytest.raises(ValueError, match="finite"):
        checked_history(history * np.inf, present, good[2], good[3], HISTORY_SAMPLES)
    with pytest.raises(ValueError, match="futures"):
        ConstantVelocity(futures=7)


def test_names_are_looked_up(tmp_path: Path) -> None:
    assert load_forecaster("none") is None
    assert isinstance(load_forecaster("cv"), ConstantVelocity)
    assert (load_forecaster("cv").futures, load_forecaster("cv1").futures) == (6, 1)
    assert isinstance(load_forecaster("kalman"), Kalman)
    with pytest.raises(BundleError, match="no such bundle"):
        load_forecaster(tmp_path / "nothing")
    other = BundleMeta(kind="detector", task="drive", inputs=(), outputs=())
    write_bundle(tmp_path / "detector", model=b"not read", meta=other, report="")
    with pytest.raises(BundleError, match="kind: expected 'forecaster'"):
        load_forecaster(tmp_path / "detector")


def test_the_line_through_noisy_points_has_the_right_slope() -> None:
    rng = np.random.default_rng(0)
    history = straight([(5.0, -2.0)] * 200) + 0.1 * rng.normal(size=(200, HISTORY_SAMPLES, 2))
    present = rng.random((200, HISTORY_SAMPLES)) > 0.3
    present[:, -1] = True
    velocity = line_velocity(history, present, HISTORY_SAMPLES, STEP_S)
    assert velocity.mean(0) == pytest.approx([5.0, -2.0], abs=0.03)


def test_kalman_starts_at_the_first_observation() -> None:
    present = np.zeros((1, HISTORY_SAMPLES), bool)
    present[0, 6:] = True
    history = straight([(4.0, 0.0)], (100.0, 50.0))
    futures = Kalman().predict(history, present, np.array([CAR]), np.array([0]))
    assert futures.position_m[0, 0, -1] == pytest.approx([112.0, 50.0], abs=1.0)


def test_slots_sample_every_second_tick_and_start_anew_with_a_new_id() -> None:
    history = SlotHistory(2, 3)
    for k in range(30):
        ids = np.full((2, 3), 5)
        ids[1, 2] = 5 if k < 26 else 6
        position = np.full((2, 3, 2), float(k))
        history.update(np.ones((2, 3), bool), ids, position, np.zeros((2, 3)))
    samples, observed = history.samples()
    assert samples.shape == (2, 3, HISTORY_SAMPLES, 2)
    assert samples[0, 0, :, 0].tolist() == list(range(9, 30, 2))
    assert observed[0, 0].all()
    assert observed[1, 2].tolist() == [False] * 9 + [True, True]
    history.reset(np.array([True, False]))
    assert not history.samples()[1][0].any()
    assert history.samples()[1][1, 0].all()


def test_extrapolated_positions_are_not_observations() -> None:
    history = TrackHistory()
    for k in range(10):
        past, seen = history.update(np.array([4]), np.array([[k, 0.0]]), np.array([0.0 if k < 6 else 0.1 * (k - 5)]))
    assert past[0, -1, 0] == 9
    assert seen[0].tolist() == [False] * 6 + [True, True, True, False, True]


def test_tracks_are_told_apart_by_id_whatever_their_order() -> None:
    history = TrackHistory(capacity=4)
    rng = np.random.default_rng(0)
    for k in range(8):
        ids = rng.permutation([3, 9, 12])
        past, _ = history.update(ids, np.stack([ids + 0.1 * k, ids], 1), np.zeros(3))
    assert past[:, -1, 1].tolist() == ids.tolist()
    assert past[:, -2, 1].tolist() == ids.tolist()
    with pytest.raises(ValueError, match="the history holds 4"):
        history.update(np.arange(5), np.zeros((5, 2)), np.zeros(5))


def tracks_at(tick: int, ids: list[int]) -> Tracks:
    count, f32 = len(ids), np.float32
    return Tracks(
        header=Header(valid=True, tick=tick, t_capture_ns=tick * 100_000_000 + 1),
        track_id=np.array(ids, np.int32),
        class_id=np.zeros(count, np.int32),
        score=np.ones(count, f32),
        odom_position_m=np.array([[i + 0.8 * tick, i] for i in ids], f32).reshape(-1, 2),
        odom_velocity_mps=np.zeros((count, 2), f32),
        odom_heading_rad=np.zeros(count, f32),
        size_m=np.ones((count, 2), f32),
        covariance=np.zeros((count, 4, 4), f32),
        age_s=np.zeros(count, f32),
        unseen_s=np.zeros(count, f32),
    )


def drive(node: ForecasterNode, ticks: list[int], ids: list[int]) -> Forecast:
    node.reset(Episode(phase="reset"))
    for tick in ticks:
        inputs = Inputs(tracks=Sample(message=tracks_at(tick, ids), updated=True, alive=True, rate_ok=True))
        forecast = node.step(Tick(0, tick, tick * 100_000_000, "lockstep"), inputs)["forecast"]
        assert isinstance(forecast, Forecast)
    return forecast


def test_the_node_forecasts_every_track_in_order() -> None:
    forecast = drive(ForecasterNode(ConstantVelocity()), list(range(12)), [7, 2])
    assert forecast.track_id.tolist() == [7, 2]
    assert forecast.header.valid
    assert forecast.odom_position_m[:, 0, -1] == pytest.approx(
        np.array([[7 + 8.8 + 24, 7], [2 + 8.8 + 24, 2]]), abs=1e-3
    )


def test_the_node_keeps_the_time_grid_when_ticks_are_dropped() -> None:
    forecast = drive(ForecasterNode(ConstantVelocity()), [0, 1, 2, 3, 5, 6, 9, 10], [1])
    assert forecast.odom_position_m[0, 0, -1] == pytest.approx([1 + 8.0 + 24, 1], abs=1e-3)


def test_the_node_without_a_forecaster_says_so() -> None:
    forecast = drive(ForecasterNode(None), [0, 1], [1, 2, 3])
    assert forecast.probability.shape == (3, 0)
    assert forecast.odom_position_m.shape == (3, 0, 0, 2)


def test_the_node_answers_an_empty_world() -> None:
    forecast = drive(ForecasterNode(Kalman()), [0, 1], [])
    assert forecast.odom_position_m.shape == (0, FUTURES, HORIZON_STEPS, 2)


def test_fans_have_one_row_per_class() -> None:
    for fan in (ConstantVelocity().fan, Kalman().fan):
        assert fan.heading_rad.shape == fan.speed_factor.shape == (len(CLASS_NAMES), FUTURES)
        assert fan.heading_rad[:, 0] == pytest.approx(0.0)
        assert fan.speed_factor[:, 0] == pytest.approx(1.0)
