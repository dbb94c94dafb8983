from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.control.kinematics import (
    LANE_KEEPING,
    bicycle_slip_rad,
    bicycle_step,
    curvature_for_steering,
    curve_acceleration,
    lane_keeping_curvature,
    max_curvature,
    required_deceleration,
    steering_for_curvature,
    stopping_distance,
)


@given(st.floats(-0.5, 0.5))
def test_steering_and_curvature_invert_each_other(angle: float):
    assert float(steering_for_curvature(curvature_for_steering(angle))) == pytest.approx(angle, abs=1e-9)


def test_curvature_is_that_of_the_middle_of_the_wheelbase():
    angle = 0.3
    rear_radius = VEHICLE.wheelbase_m / np.tan(angle)
    middle_radius = np.hypot(rear_radius, VEHICLE.wheelbase_m / 2)
    assert 1.0 / float(curvature_for_steering(angle)) == pytest.approx(middle_radius)


def test_bicycle_closes_its_circle():
    angle, speed, dt = 0.2, 5.0, 0.1
    radius = 1.0 / float(curvature_for_steering(angle))
    steps = 200
    pose = np.array([0.0, 0.0, -float(bicycle_slip_rad(angle))])  # so that the course points along x
    centre = np.array([0.0, radius])
    for _ in range(steps):
        pose = bicycle_step(pose, speed, angle, dt)
        assert np.hypot(*(pose[:2] - centre)) == pytest.approx(radius, abs=1e-9)
    assert pose[2] + float(bicycle_slip_rad(angle)) == pytest.approx(speed * dt * steps / radius)


def test_bicycle_goes_straight_in_batches():
    pose = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, np.pi / 2]])
    moved = bicycle_step(pose, np.array([10.0, 4.0]), np.zeros(2), 0.5)
    np.testing.assert_allclose(moved, [[5.0, 0.0, 0.0], [1.0, 4.0, np.pi / 2]], atol=1e-12)


def simulate_lane_change(speed: float, seconds: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Lateral position and lateral acceleration over time, without delay or lag, 0.1 s a step."""
    d, course, lateral, accelerations = 3.5, 0.0, [], []
    for _ in range(int(seconds / 0.1)):
        curvature = float(lane_keeping_curvature(speed, d, course, 0.0))
        course += speed * 0.1 * curvature
        d += speed * 0.1 * np.sin(course)
        lateral.append(d)
        accelerations.append(curvature * speed * speed)
    return np.array(lateral), np.array(accelerations)


@pytest.mark.parametrize("speed", [6.0, 10.0, 15.0, 20.0])
def test_lane_change_takes_three_to_four_seconds_within_comfort(speed: float):
    lateral, acceleration = simulate_lane_change(speed)
    settled = 0.1 * float(np.argmax(np.abs(lateral) < 0.35))
    assert 2.5 <= settled <= 4.2
    assert np.abs(acceleration).max() <= LANE_KEEPING.max_lateral_acceleration_mps2 + 1e-9
    assert lateral.min() > -0.15  # hardly any overshoot
    assert abs(lateral[-1]) < 0.05


@given(st.floats(0.0, 30.0), st.floats(-12.0, 12.0), st.floats(-1.5, 1.5), st.floats(-0.1, 0.1))
def test_lane_keeping_is_bounded_and_odd(speed: float, error: float, course: float, curvature: float):
    found = float(lane_keeping_curvature(speed, error, course, curvature))
    assert abs(found) <= LANE_KEEPING.max_curvature_pm
    assert float(lane_keeping_curvature(speed, -error, -course, -curvature)) == pytest.approx(-found, abs=1e-9)


def test_lane_keeping_follows_the_road_when_on_target():
    assert float(lane_keeping_curvature(10.0, 0.0, 0.0, 0.013)) == pytest.approx(0.013)
    assert float(lane_keeping_curvature(10.0, 0.5, 0.0, 0.0)) < 0.0  # left of the target: steer right
    assert float(lane_keeping_curvature(10.0, 0.0, 0.1, 0.0)) < 0.0  # pointing left: steer right


def test_stopping_distance_and_required_deceleration_agree():
    assert float(stopping_distance(10.0, 5.0)) == 10.0
    assert float(stopping_distance(10.0, 5.0, 0.5)) == 15.0
    assert float(stopping_distance(-3.0, 5.0)) == 0.0
    assert float(required_deceleration(10.0, 10.0)) == 5.0
    assert float(required_deceleration(-1.0, 10.0)) == 0.0
    assert float(required_deceleration(10.0, 0.0)) == 100.0
    assert np.isfinite(required_deceleration(np.array([50.0]), np.array([-5.0]))).all()


def test_curve_acceleration_asks_for_braking_in_time():
    distance = np.array([10.0, 50.0])
    straight = curve_acceleration(np.array([14.0]), distance, np.zeros((1, 2)))
    assert straight[0] > 2.0
    bend = curve_acceleration(np.array([14.0]), distance, np.array([[0.0, 0.04]]), 2.0)
    assert bend[0] == pytest.approx((2.0 / 0.04 - 14.0**2) / 100.0)
    assert curve_acceleration(np.array([14.0]), distance, np.array([[0.0, -0.04]]), 2.0)[0] == bend[0]


def test_max_curvature_meets_the_lateral_limit():
    assert float(max_curvature(10.0)) == pytest.approx(ENVELOPE.max_lateral_acceleration_mps2 / 100.0)
    assert np.isfinite(max_curvature(0.0))
