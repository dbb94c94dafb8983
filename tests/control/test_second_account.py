"""What the guard stands on beside a second account in plain scalars: limits of a command, the way back to the lane."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest

from visuomotor.control.action import CommandWatchdog, limit_command, steer_to
from visuomotor.control.config import ENVELOPE, VEHICLE
from visuomotor.control.inputs import AGENTS_MAX, DriveInputs, inputs_from_messages
from visuomotor.control.kinematics import (
    LANE_KEEPING,
    LaneKeeping,
    curvature_for_steering,
    lane_keeping_curvature,
    max_curvature,
    max_steering,
    steering_for_curvature,
)
from visuomotor.messages.schema import Header, Route, Tracks, VehicleState

Make = Callable[..., DriveInputs]
WIDE = LaneKeeping(delay_s=0.3, error_time_s=0.5, course_time_s=0.2, max_curvature_pm=0.6, max_course_rad=1.2)


def bound(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def keep_lane(speed: float, error: float, course: float, route: float, gains: LaneKeeping) -> float:
    speed = max(speed, 3.0)
    sideways = abs(error) / gains.error_time_s
    sideways = min(sideways, math.sqrt(1.2 * gains.max_lateral_acceleration_mps2 * abs(error)))
    sideways = min(sideways, gains.max_lateral_velocity_mps)
    wanted = math.asin(bound(-math.copysign(sideways, error) / speed, math.sin(gains.max_course_rad)))
    correction = (wanted - course) / (speed * gains.course_time_s)
    correction = bound(correction, gains.max_lateral_acceleration_mps2 / speed**2)
    return bound(route + correction, gains.max_curvature_pm)


def max_bend(speed: float) -> float:
    return ENVELOPE.max_lateral_acceleration_mps2 / min(max(abs(speed), 0.5), 1000.0) ** 2


def angle_for(curvature: float) -> float:
    turn = curvature * VEHICLE.wheelbase_m
    return math.atan(turn / math.sqrt(max(1.0 - turn**2 / 4.0, 0.05)))


@pytest.mark.parametrize("gains", [LANE_KEEPING, WIDE])
@pytest.mark.parametrize("seed", range(30))
def test_lane_keeping(seed: int, gains: LaneKeeping):
    rng = np.random.default_rng(seed)
    for error in (rng.normal(0.0, 0.2), rng.normal(0.0, 1.0), rng.normal(0.0, 5.0), 0.0):
        speed, course, route = rng.uniform(0.0, 20.0), rng.normal(0.0, 0.3) * rng.integers(0, 2), rng.normal(0.0, 0.1)
        found = float(lane_keeping_curvature(speed, error, course, route, gains))
        assert found == pytest.approx(keep_lane(speed, error, course, route, gains), abs=1e-12)


@pytest.mark.parametrize(("error", "sideways"), [(0.2, 0.4), (0.6, math.sqrt(1.8 * 0.6)), (5.0, 1.6)])
def test_lane_keeping_asks_for_nothing_on_the_course_that_it_wants(error: float, sideways: float):
    course = -math.asin(sideways / 10.0)  # in proportion, then with the root, then at most
    assert float(lane_keeping_curvature(10.0, error, course, 0.0, WIDE)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("curvature", [0.0, 0.05, -0.3, 0.7, 5.0])
def test_steering_for_a_curvature(curvature: float):
    assert float(steering_for_curvature(curvature)) == pytest.approx(angle_for(curvature), abs=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.2, -0.5])
def test_curvature_for_an_angle(angle: float):
    expected = 2.0 * math.sin(math.atan(0.5 * math.tan(angle))) / VEHICLE.wheelbase_m  # sin(slip) over half of it
    assert float(curvature_for_steering(angle)) == pytest.approx(expected, abs=1e-12)
    assert float(curvature_for_steering(angle, 2.0)) == pytest.approx(expected * VEHICLE.wheelbase_m / 2.0, abs=1e-12)


@pytest.mark.parametrize("speed", [0.0, 0.49, 0.51, -3.0, 20.0, 999.0, 1001.0, 1e300])
def test_largest_curvature_and_angle(speed: float):
    assert float(max_curvature(speed)) == pytest.approx(max_bend(speed), rel=1e-12)
    expected = min(angle_for(max_bend(speed)), VEHICLE.max_steering_angle_rad)
    assert float(max_steering(speed)) == pytest.approx(expected, rel=1e-12)
    assert float(max_curvature(speed, 1.0)) == pytest.approx(max_bend(speed) / 3.0, rel=1e-12)


@pytest.mark.parametrize("gains", [LANE_KEEPING, WIDE])
@pytest.mark.parametrize("seed", range(40))
def test_steering_to_a_lane(make_inputs: Make, seed: int, gains: LaneKeeping):
    rng = np.random.default_rng(seed)
    steering, yaw_rate = rng.normal(0.0, 0.1), rng.normal(0.0, 0.2)
    inputs = make_inputs(
        lane=float(rng.uniform(-0.5, 2.8)),
        curvature=float(rng.choice([0.0, 0.02, -0.02, 0.1])),
        speed=float(rng.choice([-1.0, 0.0, 2.0, 8.0, 14.0])),
        steering_angle_rad=np.array([steering]),
        yaw_rate_radps=np.array([yaw_rate]),
        odom_pose=np.array([[0.0, rng.normal(0.0, 0.3), rng.normal(0.0, 0.1)]]),
    )
    target = float(rng.uniform(0.0, 7.0))
    assert float(steer_to(inputs, np.array([target]), gains)[0]) == pytest.approx(
        steer_back(inputs, target, gains), abs=2e-5
    )


def steer_back(inputs: DriveInputs, target: float, gains: LaneKeeping = LANE_KEEPING) -> float:
    scene, yaw_rate, steering = inputs.scene, float(inputs.yaw_rate_radps[0]), float(inputs.steering_angle_rad[0])
    speed, bend = max(float(inputs.speed_mps[0]), 0.0), float(scene.curvature_pm[0])
    course = float(scene.heading_error_rad[0]) + math.atan(0.5 * math.tan(steering))
    offset, way = float(scene.ego_d_m[0]), speed * gains.delay_s
    turned = (yaw_rate - speed * bend / max(1.0 - bend * offset, 0.2)) * gains.delay_s
    offset += way * math.sin(course + turned / 2.0)
    course += turned
    ahead_m = float(scene.ego_s_m[0]) + way + speed * gains.course_time_s / 2.0
    ahead = float(scene.frame.curvature(np.array([ahead_m]))[0])
    ahead /= max(1.0 - ahead * offset, 0.2)
    curvature = bound(keep_lane(speed, offset - target, course, ahead, gains), max_bend(speed))
    return bound(angle_for(curvature), VEHICLE.max_steering_angle_rad)


@pytest.mark.parametrize("speed", [2.0, 8.0, 14.0])
def test_steering_into_a_bend_looks_at_where_the_command_will_act(make_inputs: Make, speed: float):
    x = np.arange(81) * 2.0 - 40.0  # the road bends more and more
    inputs = make_inputs(lane=0.0, speed=speed, route_m=np.stack([x, 1e-4 * x**3], axis=1)[None].astype(np.float32))
    found = float(steer_to(inputs, np.zeros(1))[0])
    assert found == pytest.approx(steer_back(inputs, 0.0), abs=2e-5)


@pytest.mark.parametrize("target", [0.0, 14.0])
def test_steering_on_the_inside_of_a_tight_bend(make_inputs: Make, target: float):
    # 2.7 m from the bend's centre, nearer than a fifth of its radius: the lane is bent no more than five times the road
    inputs = make_inputs(lane=14.0 / 3.5, lanes=5, curvature=0.06, speed=2.0, odom_pose=np.array([[0.0, 0.0, 0.25]]))
    found = float(steer_to(inputs, np.array([target]))[0])
    assert found == pytest.approx(steer_back(inputs, target), abs=2e-5)


@pytest.mark.parametrize("seed", range(60))
def test_limits_of_a_command(seed: int):
    rng = np.random.default_rng(seed)
    odd = [math.nan, math.inf, -math.inf]
    a, angle, before_a, before_angle, speed = (
        float(rng.choice([rng.normal(0.0, scale), *odd], p=[0.7, 0.1, 0.1, 0.1]))
        for scale in (3.0, 0.3, 3.0, 0.3, 12.0)
    )
    dt = float(rng.choice([0.1, 0.2]))
    limited = limit_command(a, angle, before_a, before_angle, speed, dt_s=dt)

    low, high = ENVELOPE.min_acceleration_mps2, ENVELOPE.max_acceleration_mps2
    last_a = 0.0 if math.isnan(before_a) else bound(before_a, sys.float_info.max)
    last_angle = 0.0 if math.isnan(before_angle) else bound(before_angle, sys.float_info.max)
    most = float(max_steering(speed if math.isfinite(speed) else 60.0))
    wanted_a = low if math.isnan(a) else a
    wanted_angle = last_angle if math.isnan(angle) else angle
    inside_a, inside_angle = min(max(wanted_a, low), high), bound(wanted_angle, most)
    jerk, rate = ENVELOPE.max_jerk_mps3 * dt, ENVELOPE.max_steering_rate_radps * dt
    sent_a = min(max(min(max(inside_a, last_a - jerk), last_a + jerk), low), high)
    sent_angle = bound(min(max(inside_angle, last_angle - rate), last_angle + rate), most)
    assert float(limited.acceleration_mps2) == pytest.approx(sent_a, abs=1e-12)
    assert float(limited.steering_angle_rad) == pytest.approx(sent_angle, abs=1e-12)
    cut_a = abs(bound(wanted_a, 1e9) - inside_a) if math.isinf(wanted_a) else abs(wanted_a - inside_a)
    cut_angle = abs(bound(wanted_angle, 1e9) - inside_angle) if math.isinf(angle) else abs(wanted_angle - inside_angle)
    assert float(limited.acceleration_cut_mps2) == pytest.approx(cut_a)
    assert float(limited.jerk_cut_mps2) == pytest.approx(abs(sent_a - inside_a))
    assert float(limited.lateral_cut_rad) == pytest.approx(cut_angle)
    assert float(limited.rate_cut_rad) == pytest.approx(abs(sent_angle - inside_angle))


def test_speed_unknown_counts_as_very_fast():
    for unknown in (math.nan, math.inf, -math.inf):
        assert float(limit_command(0.0, 0.5, 0.0, 0.5, unknown).steering_angle_rad) == float(max_steering(60.0))


def test_an_infinite_wish_is_cut_by_a_finite_amount():
    limited = limit_command(math.inf, -math.inf, 0.0, 0.0, 10.0)
    assert float(limited.acceleration_cut_mps2) == pytest.approx(1e9 - 2.0, rel=1e-12)
    assert float(limited.lateral_cut_rad) == pytest.approx(1e9 - float(max_steering(10.0)), rel=1e-12)
    opposite = limit_command(-math.inf, math.inf, 0.0, 0.0, 10.0)
    assert float(opposite.acceleration_cut_mps2) == pytest.approx(1e9 - 3.5, rel=1e-12)
    assert float(opposite.lateral_cut_rad) == float(limited.lateral_cut_rad)


def test_the_watchdogs_hold_ends_just_past_its_rounding():
    for late, acceleration in ((1e-9, 1.0), (2e-9, -3.5)):
        watchdog = CommandWatchdog(hold_s=0.5)
        assert not watchdog.tripped
        watchdog.step(0.0, (1.0, 0.1))
        assert watchdog.step(0.5 + late, None)[0] == acceleration
    CommandWatchdog(hold_s=0.0)
    CommandWatchdog(braking_mps2=-0.5)
    fresh = CommandWatchdog(hold_s=0.5)
    assert [fresh.step(now, None) for now in (0.5, 0.6)] == [(0.0, 0.0), (-3.5, 0.0)], "its time begins at 0"
    fresh.reset()
    assert [fresh.step(now, None) for now in (0.5, 0.6)] == [(0.0, 0.0), (-3.5, 0.0)], "and so it does again"
    with pytest.raises(ValueError, match=r"braking_mps2 < 0, got nan"):
        CommandWatchdog(braking_mps2=math.nan)
    with pytest.raises(ValueError, match=r"hold_s >= 0, got nan"):
        CommandWatchdog(hold_s=math.nan)


def test_inputs_hold_what_the_messages_say():
    rng = np.random.default_rng(0)
    n = 35
    state = VehicleState(
        header=Header(valid=True),
        speed_mps=7.0,
        acceleration_mps2=-0.5,
        yaw_rate_radps=0.1,
        steering_angle_rad=0.05,
        odom_x_m=100.0,
        odom_y_m=-20.0,
        odom_yaw_rad=0.3,
    )
    route = Route(
        odom_reference_m=rng.normal(size=(9, 2)).astype(np.float32),
        spacing_m=1.5,
        lane_count=3,
        lane_width_m=3.2,
        speed_limit_mps=11.0,
        goal_distance_m=77.0,
    )
    order = rng.permutation(n)
    angle = rng.uniform(0.0, 6.0, n)
    position = np.array([100.0, -20.0]) + (5.0 + order)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def of(*tail: int) -> np.ndarray:
        return rng.normal(size=(n, *tail)).astype(np.float32)

    tracks = Tracks(
        cameras=("camera_left", "camera_front"),
        track_id=(1000 + np.arange(n)).astype(np.int32),
        class_id=(np.arange(n) % 5).astype(np.int32),
        score=of(),
        odom_position_m=position.astype(np.float32),
        odom_velocity_mps=of(2),
        odom_heading_rad=of(),
        size_m=of(2),
        covariance=of(4, 4),
        age_s=of(),
        unseen_s=of(),
    )
    found = inputs_from_messages(state, route, tracks, None, (0.25, -0.5))
    keep = np.flatnonzero(order < AGENTS_MAX)  # the nearest 32, in the order of the message
    assert found.track_present.all()
    for name, value in {
        "track_id": tracks.track_id,
        "class_id": tracks.class_id,
        "track_position_m": tracks.odom_position_m,
        "track_velocity_mps": tracks.odom_velocity_mps,
        "track_heading_rad": tracks.odom_heading_rad,
        "track_size_m": tracks.size_m,
        "track_unseen_s": tracks.unseen_s,
    }.items():
        np.testing.assert_array_equal(getattr(found, name), value[keep][None], err_msg=name)
    for name, number in {
        "speed_mps": 7.0,
        "acceleration_mps2": -0.5,
        "yaw_rate_radps": 0.1,
        "steering_angle_rad": 0.05,
        "lane_count": 3,
        "lane_width_m": 3.2,
        "speed_limit_mps": 11.0,
        "goal_distance_m": 77.0,
    }.items():
        assert getattr(found, name).tolist() == [number], name
    assert found.odom_pose.tolist() == [[100.0, -20.0, 0.3]]
    np.testing.assert_array_equal(found.route_m, route.odom_reference_m[None])
    assert found.camera_present.tolist() == [[True, True, False]]
    assert found.last_action_norm.tolist() == [[0.25, -0.5]]
    assert (found.route_spacing_m, found.forecast_step_s) == (1.5, 0.2)
    assert found.forecast_m.shape == (1, AGENTS_MAX, 0, 0, 2)

    few = inputs_from_messages(state, route, None, None, cameras=("camera_right",))
    for name in found.__dataclass_fields__:
        if name.startswith("track_") or name == "class_id":
            assert not getattr(few, name).any(), name
    assert few.camera_present.tolist() == [[False, False, True]]
    assert few.last_action_norm.tolist() == [[0.0, 0.0]]
    assert not inputs_from_messages(state, route, None, None).camera_present.any()


@pytest.mark.parametrize("shape", [(1, 2), (3, 3), (2, 1), (4,), (2, 2, 2)])
def test_a_route_that_is_no_line_is_refused_with_its_shape(shape: tuple[int, ...]):
    route = Route(odom_reference_m=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"expected shape \(P >= 2, 2\), got \(" + str(shape[0])):
        inputs_from_messages(VehicleState(), route, None, None)


def test_two_points_are_a_route():
    route = Route(odom_reference_m=np.array([[0.0, 0.0], [2.0, 0.0]], np.float32))
    assert inputs_from_messages(VehicleState(), route, None, None).route_m.shape == (1, 2, 2)
