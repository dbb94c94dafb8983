from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.control.inputs import AGENTS_MAX, DriveInputs, inputs_from_messages
from visuomotor.control.observation import LAYOUT, LAYOUT_VERSION, observe
from visuomotor.messages.schema import (
    CAR,
    CONE,
    CYCLIST,
    PEDESTRIAN,
    TRUCK,
    Forecast,
    Route,
    Tracks,
    VehicleState,
)

N = AGENTS_MAX
NEUTRAL = 100.0
Make = Callable[..., DriveInputs]
Futures = Callable[..., np.ndarray]


def get(observation: np.ndarray, name: str, row: int = 0) -> float:
    return float(observation[row, LAYOUT.index(name)])


def test_layout_has_unique_names_units_and_ordered_ranges():
    assert LAYOUT.size == len(LAYOUT.names) == len(LAYOUT.units) == len(LAYOUT.low) == len(LAYOUT.high)
    assert len(set(LAYOUT.names)) == LAYOUT.size
    assert (LAYOUT.low < LAYOUT.high).all()
    assert set(LAYOUT.units) <= {"", "m", "s", "m/s", "m/s2", "rad", "rad/s", "1/m", "1/s"}


def test_hash_changes_with_name_unit_range_and_order():
    def changed(**values: object) -> str:
        first = dataclasses.replace(LAYOUT.features[0], **values)
        return dataclasses.replace(LAYOUT, features=(first, *LAYOUT.features[1:])).hash

    swapped = dataclasses.replace(LAYOUT, features=LAYOUT.features[::-1]).hash
    hashes = [LAYOUT.hash, changed(name="x"), changed(unit="km/h"), changed(low=-1.0), changed(high=31.0), swapped]
    assert len(set(hashes)) == len(hashes)
    assert LAYOUT.hash == dataclasses.replace(LAYOUT).hash
    assert LAYOUT_VERSION >= 1
    assert len(LAYOUT.hash) == 64


@pytest.mark.parametrize("curvature", [0.0, 0.02, -0.02])
def test_empty_scene_is_neutral(make_inputs: Make, curvature: float):
    observation = observe(make_inputs(curvature=curvature))
    assert observation.shape == (1, LAYOUT.size)
    assert observation.dtype == np.float32
    for name, value in zip(LAYOUT.names, observation[0], strict=True):
        if name.endswith(("leader_present", "follower_present", "beside", "hazard0_present", "other3_present")):
            assert value == 0.0, name
        if name.endswith(("leader_gap", "follower_gap", "static_gap", "body_gap")) or "forecast_gap" in name:
            assert value == NEUTRAL, name
        if "yield" in name or "ttc" in name or "path_probability" in name:
            assert value == 0.0, name
    assert get(observation, "ego_lane_offset") == pytest.approx(0.0, abs=1e-3)
    assert get(observation, "ego_heading_error") == pytest.approx(0.0, abs=1e-3)
    assert get(observation, "ego_lanes_left") == get(observation, "ego_lanes_right") == 1.0
    assert get(observation, "ego_left_edge_distance") == pytest.approx(5.25, abs=0.01)
    for distance in (5, 10, 20, 30, 45, 60):
        assert get(observation, f"curvature_{distance}m") == pytest.approx(curvature, abs=2e-4)


def test_leader_follower_and_neighbours_land_in_their_lanes(make_inputs: Make):
    agents = [
        {"s": 30.0, "d": 3.5, "speed": 6.0},
        {"s": -20.0, "d": 3.4, "speed": 12.0},
        {"s": 1.0, "d": 7.0, "speed": 10.0, "kind": TRUCK},
        {"s": 20.0, "d": 0.0, "kind": CONE},
    ]
    observation = observe(make_inputs(agents))
    assert get(observation, "current_leader_present") == 1.0
    assert get(observation, "current_leader_gap") == pytest.approx(30.0 - 4.5, abs=0.01)
    assert get(observation, "current_leader_relative_speed") == pytest.approx(-4.0, abs=0.01)
    assert get(observation, "current_leader_headway") == pytest.approx(2.55, abs=0.01)
    assert get(observation, "current_leader_inverse_ttc") == pytest.approx(4.0 / 25.5, abs=0.01)
    assert get(observation, "current_leader_is_vehicle") == 1.0
    assert get(observation, "current_follower_gap") == pytest.approx(20.0 - 4.5, abs=0.01)
    assert get(observation, "current_follower_relative_speed") == pytest.approx(2.0, abs=0.01)
    assert get(observation, "left_beside") == 1.0
    assert get(observation, "left_leader_gap") == 0.0
    assert get(observation, "current_beside") == get(observation, "right_beside") == 0.0
    assert get(observation, "right_leader_is_cone") == 1.0
    assert get(observation, "right_static_gap") == pytest.approx(20.0 - 0.15 - 2.25, abs=0.01)
    assert get(observation, "current_static_gap") == NEUTRAL
    assert get(observation, "current_idm_acceleration") < get(observation, "left_leader_gap") + 2.0
    assert get(observation, "body_gap" if "body_gap" in LAYOUT.names else "ego_body_gap") == pytest.approx(
        25.5, abs=0.01
    )


@pytest.mark.parametrize(
    ("s", "seen"), [(15.0, True), (0.0, True), (-2.0, True), (-6.0, False), (30.0, True), (60.0, False)]
)
def test_what_stands_on_the_line_is_in_the_way_of_a_change(make_inputs: Make, s: float, seen: bool):
    """A cone between two lanes is in neither, but nobody can change across it."""
    inputs = make_inputs([{"s": s, "d": 3.5 + 2.0, "kind": CONE}])
    assert not inputs.scene.inside.any()
    observation = observe(inputs)
    assert get(observation, "left_leader_is_cone") == get(observation, "left_leader_present") == float(seen)
    assert get(observation, "left_static_gap") == (pytest.approx(max(s - 2.4, 0.0)) if seen else NEUTRAL)
    assert get(observation, "left_leader_gap") == get(observation, "left_static_gap")
    assert get(observation, "left_beside") == float(seen and s < 2.0)
    for lane in ("current", "right"):
        assert get(observation, f"{lane}_static_gap") == NEUTRAL
        assert get(observation, f"{lane}_leader_present") == get(observation, f"{lane}_beside") == 0.0


def test_leader_in_a_bend_is_found_in_its_lane(make_inputs: Make):
    agents = [{"s": 45.0, "d": 3.5, "speed": 10.0}]
    for curvature in (0.02, -0.02):
        observation = observe(make_inputs(agents, curvature=curvature))
        assert get(observation, "current_leader_gap") == pytest.approx(40.5, abs=0.1)
        assert get(observation, "current_leader_relative_speed") == pytest.approx(0.0, abs=0.05)
        assert get(observation, "left_leader_present") == get(observation, "right_leader_present") == 0.0


def test_pedestrian_hazard_tells_where_it_will_be_on_arrival(make_inputs: Make, straight_futures: Futures):
    agents = [{"s": 32.25 + 0.25, "d": 0.0, "across": 1.5, "kind": PEDESTRIAN}]
    observation = observe(make_inputs(agents, futures=straight_futures(agents)))
    assert get(observation, "hazard0_present") == 1.0
    assert get(observation, "hazard1_present") == 0.0
    assert get(observation, "hazard0_lateral") == pytest.approx(-3.5, abs=0.01)
    assert get(observation, "hazard0_arrival_time") == pytest.approx(3.0, abs=0.01)
    assert get(observation, "hazard0_arrival_lateral") == pytest.approx(1.0, abs=0.02)
    assert get(observation, "hazard0_is_pedestrian") == 1.0
    assert get(observation, "hazard0_path_probability") == pytest.approx(1.0)
    # in the lane from 1.6 s on; at 3.0 s the front bumper would be there, at 1.5 m of standstill gap
    assert get(observation, "current_yield_expected") == pytest.approx(-1.5 * 2 / 9.0, abs=0.02)
    assert get(observation, "current_forecast_gap_3.0s") == pytest.approx(0.0, abs=0.01)
    assert get(observation, "left_yield_expected") == 0.0


def test_forecasts_are_weighted_by_probability(make_inputs: Make, straight_futures: Futures):
    agents = [{"s": 16.0, "d": 7.0, "speed": 8.0}]
    stay, cut = straight_futures(agents)[0, 0], straight_futures(agents)[0, 0].copy()
    cut[:, 1] = np.maximum(3.5 - np.arange(15) * 0.5, 0.0)
    inputs = make_inputs(agents, futures=np.array([[stay, cut]]))

    def at(share: float) -> np.ndarray:
        probability = np.zeros((1, N, 2), np.float32)
        probability[0, 0] = (1.0 - share, share)
        return observe(dataclasses.replace(inputs, forecast_probability=probability))

    likely, rare, never = at(0.5), at(0.05), at(0.0)
    assert get(likely, "other0_path_probability") == pytest.approx(0.5)
    assert get(rare, "other0_path_probability") == pytest.approx(0.05)
    assert get(never, "other0_path_probability") == 0.0
    assert get(never, "current_forecast_gap_3.0s") == NEUTRAL
    full = get(at(1.0), "current_forecast_gap_3.0s")
    assert full == pytest.approx(16.0 - 4.5 - 6.0, abs=0.1)
    assert get(likely, "current_forecast_gap_3.0s") == pytest.approx(0.5 * (full + NEUTRAL), abs=0.1)


def test_worst_counts_likely_futures_only(make_inputs: Make, straight_futures: Futures):
    agents = [{"s": 12.0, "d": 0.0, "across": 0.0, "kind": PEDESTRIAN}]
    stay = straight_futures(agents)[0, 0]
    cross = stay.copy()
    cross[:, 1] += 3.5
    inputs = make_inputs(agents, futures=np.array([[stay, cross]]))
    for share, worst in ((0.2, True), (0.05, False)):
        probability = np.zeros((1, N, 2), np.float32)
        probability[0, 0] = (1.0 - share, share)
        observation = observe(dataclasses.replace(inputs, forecast_probability=probability))
        assert (get(observation, "current_yield_worst") < -2.0) is worst
        assert get(observation, "current_yield_expected") < 0.0


def test_no_forecast_is_neutral_and_flagged(make_inputs: Make, straight_futures: Futures):
    agents = [{"s": 16.0, "d": 3.5, "speed": 1.0}]
    without, given = observe(make_inputs(agents)), observe(make_inputs(agents, futures=straight_futures(agents)))
    assert get(without, "ego_forecast_present") == 0.0
    assert get(given, "ego_forecast_present") == 1.0
    assert get(without, "current_yield_worst") == 0.0
    assert get(given, "current_yield_worst") < -1.0


def mirror(inputs: DriveInputs) -> DriveInputs:
    """The scene in a mirror held along the road; the reference line becomes the old leftmost lane's centre."""
    flip = np.array([1.0, -1.0])
    route = inputs.route_m.astype(np.float64)
    tangent = np.gradient(route, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    leftmost = route + normal * ((inputs.lane_count - 1) * inputs.lane_width_m)[:, None, None]
    return dataclasses.replace(
        inputs,
        odom_pose=inputs.odom_pose * [1.0, -1.0, -1.0],
        yaw_rate_radps=-inputs.yaw_rate_radps,
        steering_angle_rad=-inputs.steering_angle_rad,
        route_m=(leftmost * flip).astype(np.float32),
        track_position_m=inputs.track_position_m * flip,
        track_velocity_mps=inputs.track_velocity_mps * flip,
        track_heading_rad=-inputs.track_heading_rad,
        forecast_m=inputs.forecast_m * flip.astype(np.float32),
        last_action_norm=inputs.last_action_norm * flip,
        camera_present=inputs.camera_present[:, [0, 2, 1]],
    )


ODD = (  # change sign in the mirror
    "yaw_rate", "steering_angle", "lane_offset", "heading_error", "lateral_velocity", "last_action_lateral",
    "_lateral", "arrival_lateral", "speed_across",
)  # fmt: skip


def expected_mirror(observation: np.ndarray) -> np.ndarray:
    out = np.empty_like(observation)
    swap = {"left": "right", "right": "left"}
    for column, name in enumerate(LAYOUT.names):
        words = [swap.get(word, word) for word in name.split("_")]
        source = observation[:, LAYOUT.index("_".join(words))]
        odd = name.endswith(ODD) or name.startswith("curvature")
        out[:, column] = -source if odd else source
    return out


@pytest.mark.parametrize("seed", range(4))
def test_mirrored_scene_gives_mirrored_observation(make_inputs: Make, straight_futures: Futures, seed: int):
    rng = np.random.default_rng(seed)
    agents = [
        {
            "s": rng.uniform(-35.0, 60.0),
            "d": rng.uniform(-1.0, 8.0),
            "speed": rng.uniform(0.0, 12.0),
            "across": rng.uniform(-1.0, 1.0),
            "kind": int(rng.choice([CAR, TRUCK, CYCLIST, PEDESTRIAN, CONE])),
        }
        for _ in range(12)
    ]
    inputs = make_inputs(
        agents,
        futures=straight_futures(agents, k=2),
        steering_angle_rad=np.array([0.03]),
        yaw_rate_radps=np.array([0.1]),
        odom_pose=np.array([[0.0, 0.4, 0.05]]),
        last_action_norm=np.array([[0.3, -0.6]]),
        camera_present=np.array([[True, False, True]]),
    )
    found, expected = observe(mirror(inputs)), expected_mirror(observe(inputs))
    for column, name in enumerate(LAYOUT.names):
        assert found[0, column] == pytest.approx(expected[0, column], abs=2e-3), name


def test_one_world_equals_its_row_in_a_batch(make_inputs: Make, straight_futures: Futures):
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(16):
        agents = [
            {
                "s": rng.uniform(-30, 60),
                "d": rng.uniform(-1, 8),
                "speed": rng.uniform(0, 12),
                "kind": int(rng.integers(5)),
            }
            for _ in range(int(rng.integers(0, 20)))
        ]
        futures = straight_futures(agents, k=3) if agents else np.zeros((0, 3, 15, 2))
        rows.append(make_inputs(agents, futures=futures, speed=rng.uniform(0, 14), lane=rng.uniform(0, 2)))
    names = [f.name for f in dataclasses.fields(DriveInputs)]
    batch = DriveInputs(
        **{
            name: np.concatenate([getattr(row, name) for row in rows])
            for name in names
            if isinstance(getattr(rows[0], name), np.ndarray)
        }
    )
    together = observe(batch)
    for index, row in enumerate(rows):
        np.testing.assert_allclose(observe(row)[0], together[index], rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_scene_stays_inside_the_ranges(make_inputs: Make, straight_futures: Futures, data: st.DataObject):
    real = st.floats(-1e4, 1e4)
    agents = data.draw(
        st.lists(
            st.fixed_dictionaries({"s": real, "d": real, "speed": real, "across": real, "kind": st.integers(0, 4)}),
            max_size=6,
        )
    )
    futures = straight_futures(agents, k=2) if agents else np.zeros((0, 2, 15, 2))
    inputs = make_inputs(
        agents,
        futures=futures,
        speed=data.draw(st.floats(-5.0, 200.0)),
        odom_pose=np.array([[data.draw(real), data.draw(real), data.draw(real)]]),
        steering_angle_rad=np.array([data.draw(st.floats(-1.5, 1.5))]),
        last_action_norm=np.array([[data.draw(st.floats(-9, 9)), data.draw(st.floats(-9, 9))]]),
    )
    observation = observe(inputs)
    assert np.isfinite(observation).all()
    assert (observation >= LAYOUT.low).all()
    assert (observation <= LAYOUT.high).all()


def make_tracks(count: int, **changes: np.ndarray) -> Tracks:
    values = {
        "cameras": ("camera_front", "camera_right"),
        "track_id": np.arange(count, dtype=np.int32) + 7,
        "class_id": np.zeros(count, np.int32),
        "score": np.ones(count, np.float32),
        "odom_position_m": np.stack([np.arange(count) * 3.0 + 10.0, np.zeros(count)], 1).astype(np.float32),
        "odom_velocity_mps": np.ones((count, 2), np.float32),
        "odom_heading_rad": np.zeros(count, np.float32),
        "size_m": np.full((count, 2), 2.0, np.float32),
        "covariance": np.zeros((count, 4, 4), np.float32),
        "age_s": np.ones(count, np.float32),
        "unseen_s": np.zeros(count, np.float32),
    }
    return Tracks(**{**values, **changes})


ROUTE = Route(odom_reference_m=np.stack([np.arange(81) * 2.0 - 40.0, np.zeros(81)], 1).astype(np.float32))


def test_messages_become_inputs_with_forecasts_matched_by_id():
    tracks = make_tracks(3)
    forecast = Forecast(
        track_id=np.array([9, 7], np.int32),
        probability=np.array([[0.25, 0.75], [0.5, 0.5]], np.float32),
        odom_position_m=np.arange(2 * 2 * 15 * 2, dtype=np.float32).reshape(2, 2, 15, 2),
        spread_m=np.zeros((2, 2, 15, 3), np.float32),
    )
    inputs = inputs_from_messages(VehicleState(speed_mps=3.0), ROUTE, tracks, forecast, (0.1, -0.2))
    assert inputs.count == 1
    assert inputs.track_present[0].sum() == 3
    np.testing.assert_array_equal(inputs.forecast_m[0, 0], forecast.odom_position_m[1])
    np.testing.assert_array_equal(inputs.forecast_m[0, 2], forecast.odom_position_m[0])
    np.testing.assert_array_equal(inputs.forecast_probability[0, :3], [[0.5, 0.5], [0.0, 0.0], [0.25, 0.75]])
    np.testing.assert_array_equal(inputs.camera_present, [[True, False, True]])
    assert inputs.last_action_norm.tolist() == [[np.float32(0.1), np.float32(-0.2)]]


def test_more_tracks_than_slots_keep_the_nearest_and_none_is_an_empty_road():
    inputs = inputs_from_messages(VehicleState(), ROUTE, make_tracks(40), None)
    assert inputs.track_present.sum() == AGENTS_MAX
    assert inputs.track_position_m[0, :, 0].max() == 10.0 + 3.0 * (AGENTS_MAX - 1)
    empty = inputs_from_messages(VehicleState(), ROUTE, None, None)
    assert empty.track_present.sum() == 0
    assert np.isfinite(observe(empty)).all()
    assert empty.camera_present.sum() == 0


def test_route_of_one_point_is_refused():
    route = Route(odom_reference_m=np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"expected shape \(P >= 2, 2\), got \(1, 2\)"):
        inputs_from_messages(VehicleState(), route, None, None)
