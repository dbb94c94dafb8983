from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.control.action import (
    CONTROL_PERIOD_S,
    LATERAL_DEAD_BAND,
    SPEED_MARGIN_MPS,
    CommandWatchdog,
    decode,
    decode_acceleration,
    decode_lateral,
    encode_acceleration,
    encode_lateral,
    limit_command,
    steer_to,
)
from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.kinematics import curvature_for_steering, max_steering

Make = Callable[..., DriveInputs]
ANY = st.floats(allow_nan=True, allow_infinity=True)
EPS = 1e-6


@pytest.mark.parametrize(
    ("action", "expected"), [(-1.0, -3.5), (-0.5, -1.75), (-EPS, -3.5 * EPS), (0.0, 0.0), (0.5, 1.0), (1.0, 2.0)]
)
def test_acceleration_is_piecewise_linear(action: float, expected: float):
    found = decode_acceleration(np.array([action]), np.array([5.0]), np.array([13.9]))
    assert found[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("over", "expected"),
    [(-SPEED_MARGIN_MPS - 2.0, 2.0), (-SPEED_MARGIN_MPS, 1.0), (0.0, 0.5), (SPEED_MARGIN_MPS, 0.0), (5.0, -1.0)],
)
def test_full_throttle_ends_just_over_the_speed_limit(over: float, expected: float):
    found = decode_acceleration(np.array([1.0]), np.array([13.9 + over]), np.array([13.9]))
    assert found[0] == pytest.approx(expected, abs=1e-9)
    braking = decode_acceleration(np.array([-1.0]), np.array([13.9 + over]), np.array([13.9]))
    assert braking[0] == -3.5


@pytest.mark.parametrize(
    ("action", "lanes"),
    [
        (0.0, 0.0),
        (LATERAL_DEAD_BAND, 0.0),
        (-LATERAL_DEAD_BAND, 0.0),
        (0.65, 0.5),
        (-0.65, -0.5),
        (1.0, 1.0),
        (-1.0, -1.0),
    ],
)
def test_lateral_target_is_left_positive_with_a_dead_band(action: float, lanes: float):
    assert decode_lateral(np.array([action]))[0] == pytest.approx(lanes)


@given(st.floats(-3.5, 2.0), st.floats(-1.0, 1.0))
def test_encoding_inverts_decoding(acceleration: float, lanes: float):
    a = encode_acceleration(np.array([acceleration]))
    assert decode_acceleration(a, np.zeros(1), np.full(1, 20.0))[0] == pytest.approx(acceleration, abs=1e-9)
    assert decode_lateral(encode_lateral(np.array([lanes])))[0] == pytest.approx(lanes, abs=1e-5)


def test_positive_lateral_action_steers_left_and_the_edge_of_the_road_stops_it(make_inputs: Make):
    middle = make_inputs(lane=1.0)
    angles = {a: decode(np.array([[0.0, a]]), middle)[1][0] for a in (-1.0, -0.3, 0.0, 0.3, 1.0)}
    assert angles[1.0] > 0.01
    assert angles[-1.0] == pytest.approx(-angles[1.0], abs=1e-6)
    assert angles[0.0] == angles[0.3] == angles[-0.3] == pytest.approx(0.0, abs=1e-6)
    leftmost, rightmost = make_inputs(lane=2.0), make_inputs(lane=0.0)
    assert decode(np.array([[0.0, 1.0]]), leftmost)[1][0] == pytest.approx(0.0, abs=1e-6)
    assert decode(np.array([[0.0, -1.0]]), rightmost)[1][0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("curvature", [0.01, -0.01, 0.03])
def test_lane_keeping_feeds_the_curvature_forward(make_inputs: Make, curvature: float):
    inputs = make_inputs(
        lane=0.0,
        curvature=curvature,
        speed=8.0,
        steering_angle_rad=np.array([np.arctan(curvature * VEHICLE.wheelbase_m)]),
        yaw_rate_radps=np.array([8.0 * curvature]),
        odom_pose=np.array([[0.0, 0.0, -0.5 * curvature * VEHICLE.wheelbase_m]]),  # the body lags by its slip angle
    )
    found = curvature_for_steering(steer_to(inputs, np.zeros(1)))[0]
    assert found == pytest.approx(curvature, rel=0.1)


def test_decode_survives_nan_and_keeps_within_the_lateral_limit(make_inputs: Make):
    inputs = make_inputs(lane=1.0, speed=25.0, odom_pose=np.array([[0.0, 1.0, 0.5]]))
    acceleration, angle = decode(np.array([[np.nan, np.nan]]), inputs)
    assert np.isfinite(acceleration).all()
    assert abs(angle[0]) <= max_steering(25.0) + 1e-12
    huge = decode(np.array([[1e9, -np.inf]]), inputs)
    assert np.isfinite(huge).all()


def test_limits_leave_what_is_inside_untouched():
    limited = limit_command(1.0, 0.02, 0.5, 0.0, 10.0)
    assert (float(limited.acceleration_mps2), float(limited.steering_angle_rad)) == (1.0, 0.02)
    cuts = (limited.acceleration_cut_mps2, limited.jerk_cut_mps2, limited.lateral_cut_rad, limited.rate_cut_rad)
    assert not any(float(cut) for cut in cuts)


@pytest.mark.parametrize("edge", [ENVELOPE.min_acceleration_mps2, ENVELOPE.max_acceleration_mps2])
@pytest.mark.parametrize("beyond", [-EPS, 0.0, EPS, 0.5])
def test_acceleration_limit_at_its_edges(edge: float, beyond: float):
    wanted = edge + math.copysign(beyond, edge) if beyond >= 0 else edge - math.copysign(-beyond, edge)
    limited = limit_command(wanted, 0.0, edge, 0.0, 10.0)
    assert float(limited.acceleration_mps2) == pytest.approx(edge if beyond > 0 else wanted, abs=1e-12)
    assert float(limited.acceleration_cut_mps2) == pytest.approx(max(beyond, 0.0), abs=1e-9)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("factor", [0.5, 1.0 - 1e-9, 1.0, 1.0 + 1e-9, 1.5])
def test_rates_at_their_edges(sign: float, factor: float):
    jerk = ENVELOPE.max_jerk_mps3 * CONTROL_PERIOD_S
    rate = ENVELOPE.max_steering_rate_radps * CONTROL_PERIOD_S
    start = -1.25 * sign
    limited = limit_command(start + sign * jerk * factor, sign * rate * factor, start, 0.0, 1.0)
    kept = min(factor, 1.0)
    assert float(limited.acceleration_mps2) == pytest.approx(np.clip(start + sign * jerk * kept, -3.5, 2.0), abs=1e-12)
    assert float(limited.steering_angle_rad) == pytest.approx(sign * rate * kept, abs=1e-12)
    assert (float(limited.rate_cut_rad) > 0.0) is (factor > 1.0 + 1e-12)


@pytest.mark.parametrize("speed", [0.0, 0.4, 1.0, 3.0, 5.0, 10.0, 14.0, 20.0, 30.0, -8.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_lateral_limit_at_its_edge(speed: float, sign: float):
    bound = float(max_steering(speed))
    assert bound <= VEHICLE.max_steering_angle_rad
    lateral = float(curvature_for_steering(bound)) * speed * speed
    assert lateral <= ENVELOPE.max_lateral_acceleration_mps2 + 1e-9
    if bound < VEHICLE.max_steering_angle_rad:
        assert lateral == pytest.approx(ENVELOPE.max_lateral_acceleration_mps2, rel=1e-6)
    for beyond, expected in ((-EPS, bound - EPS), (0.0, bound), (EPS, bound), (1.0, bound)):
        limited = limit_command(0.0, sign * (bound + beyond), 0.0, sign * bound, speed)
        assert float(limited.steering_angle_rad) == pytest.approx(sign * expected, abs=1e-12)


def test_envelope_has_the_last_word_after_an_emergency():
    limited = limit_command(1.0, 0.5, -8.0, 0.5, 20.0)
    assert float(limited.acceleration_mps2) == ENVELOPE.min_acceleration_mps2
    assert float(limited.steering_angle_rad) == pytest.approx(float(max_steering(20.0)))


@given(ANY, ANY, ANY, ANY, ANY)
def test_any_command_comes_out_finite_and_inside(a: float, angle: float, previous: float, before: float, speed: float):
    limited = limit_command(a, angle, previous, before, speed)
    assert ENVELOPE.min_acceleration_mps2 <= float(limited.acceleration_mps2) <= ENVELOPE.max_acceleration_mps2
    known = speed if math.isfinite(speed) else 60.0
    assert abs(float(limited.steering_angle_rad)) <= float(max_steering(known)) + 1e-12
    for cut in (limited.acceleration_cut_mps2, limited.jerk_cut_mps2, limited.lateral_cut_rad, limited.rate_cut_rad):
        assert float(cut) >= 0.0


def test_nan_means_braking_with_the_steering_held():
    limited = limit_command(np.nan, np.nan, -2.0, 0.03, 10.0)
    assert float(limited.acceleration_mps2) == ENVELOPE.min_acceleration_mps2
    assert float(limited.steering_angle_rad) == 0.03


def test_limits_broadcast_over_worlds():
    limited = limit_command(np.array([9.0, 0.0]), np.zeros(2), np.zeros(2), np.zeros(2), np.array([0.0, 5.0]))
    np.testing.assert_array_equal(limited.acceleration_mps2, [2.0, 0.0])
    np.testing.assert_array_equal(limited.acceleration_cut_mps2, [7.0, 0.0])


def test_watchdog_rolls_holds_and_brakes():
    watchdog = CommandWatchdog(hold_s=0.3, braking_mps2=-4.0)
    watchdog.reset(10.0)
    assert watchdog.step(10.0, None) == (0.0, 0.0)
    assert watchdog.step(10.1, (1.0, 0.1)) == (1.0, 0.1)
    assert watchdog.step(10.2, None) == (1.0, 0.1)
    assert watchdog.step(10.4, None) == (1.0, 0.1)  # exactly the hold time
    assert not watchdog.tripped
    assert watchdog.step(10.4 + 1e-6, None) == (-4.0, 0.1)
    assert watchdog.tripped
    assert watchdog.step(11.0, (0.5, -0.1)) == (0.5, -0.1)
    assert not watchdog.tripped


@pytest.mark.parametrize("bad", [(math.nan, 0.0), (0.0, math.inf), (-math.inf, math.nan)])
def test_watchdog_takes_a_command_that_is_not_finite_for_none(bad: tuple[float, float]):
    watchdog = CommandWatchdog(hold_s=0.0)
    watchdog.reset(0.0)
    assert watchdog.step(0.0, (1.0, 0.2)) == (1.0, 0.2)
    assert watchdog.step(0.1, bad) == (ENVELOPE.min_acceleration_mps2, 0.2)


def test_watchdog_forgets_on_reset_and_refuses_wrong_settings():
    watchdog = CommandWatchdog()
    watchdog.step(0.0, (2.0, 0.3))
    watchdog.reset(5.0)
    assert watchdog.step(5.1, None) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"hold_s >= 0, got -1.0"):
        CommandWatchdog(hold_s=-1.0)
    with pytest.raises(ValueError, match=r"braking_mps2 < 0"):
        CommandWatchdog(braking_mps2=0.0)


def test_watchdog_holds_no_longer_when_the_clock_is_set_back():
    watchdog = CommandWatchdog(hold_s=0.3)
    watchdog.reset(100.0)
    assert watchdog.step(100.0, (1.0, 0.0)) == (1.0, 0.0)
    assert watchdog.step(40.0, None) == (1.0, 0.0)
    assert watchdog.step(40.4, None) == (ENVELOPE.min_acceleration_mps2, 0.0)
