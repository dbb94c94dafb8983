from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from visuomotor.control.arm.action import (
    ACCELERATION_RADPS2,
    POSITION_MAX_RAD,
    POSITION_MIN_RAD,
    brake,
    stopping_time,
)
from visuomotor.control.arm.collision import WRIST_MIN_RAD
from visuomotor.control.arm.config import CELL, CONTROL_PERIOD_S, REST_RAD, CellGeometry
from visuomotor.control.arm.kinematics import forward, jacobian, solve_velocity
from visuomotor.control.arm.stopping import (
    ACTING_SAMPLES,
    CAUSES,
    COLLISION_BELT,
    COLLISION_BIN,
    COLLISION_SELF,
    LIMIT_JOINT_POSITION,
    LIMIT_TOOL_SPEED,
    LIMIT_WORKSPACE,
    ROUNDS,
    SHARES,
    STOPPING_SAMPLES,
    StopMargins,
    StopPaths,
    find_path,
    turn_aside,
)

DT = CONTROL_PERIOD_S
REST = np.array(REST_RAD)
STILL = np.zeros(7)


def paths(tool_speed_mps: float = 10.0, cell: CellGeometry = CELL, **margins: float) -> StopPaths:
    return StopPaths(StopMargins(**margins), cell, tool_speed_mps)


def reach_for(position: tuple[float, float, float], yaw: float = 0.0) -> np.ndarray:
    """Joints [7] at which the tool points down at a place."""
    q = REST[None].copy()
    for _ in range(400):
        tool = forward(q)
        turn = (yaw - tool.yaw_rad[0] + np.pi) % (2 * np.pi) - np.pi
        q = q + 0.05 * solve_velocity(q, np.array([[*(3.0 * (position - tool.position_m[0])), 3.0 * turn]]))
    np.testing.assert_allclose(forward(q).position_m[0], position, atol=2e-3)
    return q[0]


def moving(q: np.ndarray, *velocity_mps: float) -> np.ndarray:
    return solve_velocity(q[None], np.array([[*velocity_mps, 0.0]]))[0]


def test_a_path_begins_where_the_arm_is_and_ends_at_rest():
    rng = np.random.default_rng(0)
    sent, velocities = rng.uniform(-1, 1, 7), rng.uniform(-1, 1, (3, 7))
    path, times = find_path(REST, sent, velocities, DT)
    assert path.shape == (3, 1 + ACTING_SAMPLES + STOPPING_SAMPLES, 7)
    np.testing.assert_array_equal(path[:, 0], np.tile(REST, (3, 1)))
    stop_s = stopping_time(velocities, DT)
    np.testing.assert_allclose(times.sum(axis=1), DT + stop_s[:, 0])
    end = REST + 0.5 * DT * (sent + velocities) + 0.5 * stop_s * velocities
    np.testing.assert_allclose(path[:, -1], end)
    speeds = np.diff(path, axis=1) / times[:, :, None]
    assert (np.abs(speeds[:, 0] - sent) <= np.abs(velocities - sent) / 4 + 1e-9).all()
    assert (np.abs(speeds[:, -1]) <= np.abs(velocities) / 4).all()


def test_the_next_stop_goes_along_the_path_of_the_last():
    """What ``admit`` stands on: braking one period and then stopping is the stop that was checked before."""
    rng = np.random.default_rng(1)
    for velocity in rng.uniform(-2, 2, (20, 7)):
        sent = rng.uniform(-2, 2, 7)
        path, times = find_path(REST, sent, velocity[None], DT)
        when = np.concatenate([[0.0], np.cumsum(times[0])])
        start = REST + 0.5 * DT * (sent + velocity)
        again, times = find_path(start, velocity, brake(velocity)[None], DT)
        later = DT + np.concatenate([[0.0], np.cumsum(times[0])])
        for joint in range(7):
            # a stop is a parabola in time, so that cubic pieces through its samples would be it; compare the ends
            assert again[0, -1, joint] == pytest.approx(path[0, -1, joint], abs=1e-9)
        assert later[-1] == pytest.approx(max(when[-1], 2 * DT))
        end_of_acting = start + 0.5 * DT * (velocity + brake(velocity))
        share = min(DT / float(stopping_time(velocity)[0]), 1.0)
        total = float(stopping_time(velocity)[0]) * velocity
        np.testing.assert_allclose(end_of_acting, start + total * (share - 0.5 * share**2), atol=1e-9)


def test_slow_commands_well_inside_pass_unchanged():
    rng = np.random.default_rng(2)
    stop_paths = paths()
    for wanted in rng.uniform(-0.3, 0.3, (30, 7)):
        found, causes = stop_paths.admit(REST, STILL, wanted, DT)
        np.testing.assert_array_equal(found, wanted)
        assert causes == ()


def at_limit(joint: int, sign: float) -> np.ndarray:
    q = np.array([0.0, -0.3, 0.0, -1.8, 0.0, 1.8, 0.0])
    low = POSITION_MIN_RAD.copy()
    low[5] = WRIST_MIN_RAD
    q[joint] = POSITION_MAX_RAD[joint] - 0.02 if sign > 0 else low[joint] + 0.02
    return q


@pytest.mark.parametrize("joint", [0, 2, 4, 5, 6])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_joints_stop_before_their_limits(joint: int, sign: float):
    q = at_limit(joint, sign)
    wanted = STILL.copy()
    wanted[joint] = sign * 0.5
    broken = paths().check(q, STILL, np.stack([wanted, -wanted, 0.01 * wanted]), DT)
    assert CAUSES[np.flatnonzero(broken[0])[0]] == LIMIT_JOINT_POSITION
    assert not broken[1:, :14].any()


BEYOND = 0.6
BELT = CAUSES.index(COLLISION_BELT)


@pytest.mark.parametrize(
    ("place", "velocity", "cause"),
    [
        ((0.66, 0.0, 0.3), (BEYOND, 0.0, 0.0), LIMIT_WORKSPACE),
        ((0.14, 0.45, 0.3), (-BEYOND, 0.0, 0.0), LIMIT_WORKSPACE),
        ((0.4, 0.46, 0.3), (0.0, BEYOND, 0.0), LIMIT_WORKSPACE),
        ((0.4, -0.46, 0.3), (0.0, -BEYOND, 0.0), LIMIT_WORKSPACE),
        ((0.5, 0.0, 0.41), (0.0, 0.0, BEYOND), LIMIT_WORKSPACE),
        ((0.5, 0.0, 0.05), (0.0, 0.0, -BEYOND), LIMIT_WORKSPACE),
        ((0.5, 0.0, 0.05), (0.0, 0.0, -BEYOND), COLLISION_BELT),
        ((0.40, 0.36, 0.05), (-BEYOND, 0.0, 0.0), COLLISION_BIN),
        ((0.40, -0.36, 0.05), (-BEYOND, 0.0, 0.0), COLLISION_BIN),
        ((0.22, 0.40, 0.14), (0.0, 0.3, -BEYOND), COLLISION_BIN),
    ],
)
def test_names_what_is_in_the_way(place: tuple[float, float, float], velocity: tuple[float, ...], cause: str):
    q = reach_for(place)
    toward = moving(q, *velocity)
    found, causes = paths().admit(q, STILL, toward, DT)
    assert cause in causes
    assert np.linalg.norm(found) < np.linalg.norm(toward)
    assert not paths().check(q, STILL, found[None], DT).any()
    away, causes = paths().admit(q, STILL, -0.3 * toward, DT)
    assert causes == ()
    np.testing.assert_array_equal(away, -0.3 * toward)


def test_the_forearm_does_not_run_into_the_foot():
    folded = np.array([0.0, -1.2, 0.0, -2.4, 0.0, 1.3, 0.0])
    toward = np.array([0.0, 0.2, 0.0, -0.8, 0.0, 0.0, 0.0])
    stop_paths = paths(cell=replace(CELL, workspace_min_m=(-9.0,) * 3, workspace_max_m=(9.0,) * 3))
    q, sent, causes = folded, STILL, ()
    for _ in range(20):
        new, found = stop_paths.admit(q, sent, np.clip(toward, sent - 0.5, sent + 0.5), DT)
        q, sent, causes = q + 0.5 * DT * (sent + new), new, causes + found
    assert stop_paths.measure(folded[None])[0, -1] > 0.0
    assert COLLISION_SELF in causes
    assert stop_paths.measure(q[None])[0, -1] >= -1e-9


def test_fingers_go_down_into_a_bin_but_not_onto_its_wall():
    inside = reach_for((0.22, 0.38, 0.16))
    deep, causes = paths().admit(inside, STILL, moving(inside, 0.0, 0.0, -0.1), DT)
    assert causes == ()
    assert deep[3] != 0.0
    over_wall = reach_for((0.306, 0.36, 0.135))
    _, causes = paths().admit(over_wall, STILL, moving(over_wall, 0.0, 0.0, -0.4), DT)
    assert COLLISION_BIN in causes


def test_nothing_near_is_approached_fast():
    q = reach_for((0.5, 0.0, 0.018))
    stop_paths = paths(tip_clearance_m=0.0)
    for speed, broken in ((0.08, False), (0.15, True)):  # on its way down when told to stop, which it can
        assert stop_paths.check(q, moving(q, 0.0, 0.0, -speed), STILL[None], DT)[0, BELT] == broken
    for lax in ({"contact_speed_mps": 1.0}, {"near_m": 0.0}):
        assert not paths(tip_clearance_m=0.0, **lax).check(q, moving(q, 0.0, 0.0, -0.15), STILL[None], DT)[0, BELT]


@pytest.mark.parametrize(("limit", "acts"), [(0.29, True), (0.32, False)])
def test_the_tools_speed_is_limited(limit: float, acts: bool):
    wanted = moving(REST, 0.0, -0.3, 0.0)
    found, causes = paths(tool_speed_mps=limit).admit(REST, wanted, wanted, DT)
    assert causes == ((LIMIT_TOOL_SPEED,) if acts else ())
    assert bool(np.abs(found).sum() < np.abs(wanted).sum()) is acts


def test_a_cut_command_keeps_as_much_as_fits():
    q = reach_for((0.5, 0.0, 0.12))
    stop_paths = paths()
    wanted = moving(q, 0.0, 0.0, -0.8)
    assert stop_paths.admit(q, STILL, wanted, DT)[1]
    found = stop_paths.cut(q, STILL, wanted, DT)
    np.testing.assert_array_equal(stop_paths.cut(q, STILL, found, DT), found)
    share = float(np.linalg.norm(found) / np.linalg.norm(wanted))
    np.testing.assert_allclose(found, share * wanted)
    assert 0.3 < share < 1.0
    finer = wanted * (share + SHARES**-ROUNDS * 1.01)
    assert stop_paths.check(q, STILL, finer[None], DT).any()


def test_where_nothing_fits_the_arm_stops_within_its_accelerations():
    q = reach_for((0.5, 0.0, 0.03))
    sent = moving(q, 0.0, 0.0, -0.8)  # too late
    found, causes = paths().admit(q, sent, sent, DT)
    assert causes
    np.testing.assert_array_equal(found, brake(sent))
    assert (np.abs(found - sent) <= ACCELERATION_RADPS2 * DT + 1e-9).all()


def test_from_beyond_a_limit_only_the_way_back_is_open():
    q = reach_for((0.5, 0.0, 0.2))
    stop_paths = paths(cell=replace(CELL, workspace_min_m=(0.1, -0.5, 0.25)))
    up, down, along = (moving(q, *v) for v in ((0.0, 0.0, 0.1), (0.0, 0.0, -0.1), (0.0, 0.1, -0.005)))
    assert not stop_paths.check(q, STILL, up[None], DT).any()
    found, causes = stop_paths.admit(q, STILL, down, DT)
    assert causes == (LIMIT_WORKSPACE,)
    assert -1e-9 <= jacobian(q[None])[0, 2] @ found <= 0.02
    assert np.abs(jacobian(q[None])[0, 3:] @ found).max() < 0.01  # it does not tilt instead
    found, causes = stop_paths.admit(q, STILL, along, DT)
    assert causes == (LIMIT_WORKSPACE,)
    velocity = jacobian(q[None])[0, :3] @ found
    assert velocity[1] > 0.08
    assert velocity[2] > 0.0


def test_what_is_blocked_slides_along():
    q = reach_for((0.5, 0.0, 0.1))
    stop_paths = paths()
    q_min = reach_for((0.5, 0.0, float(CELL.workspace_min_m[2]) + 0.003))
    for posture, out in ((q, (0.0, 0.0, -0.8)), (q_min, (0.0, 0.0, -0.2))):
        wanted = moving(posture, 0.0, 0.3, out[2])
        found, causes = stop_paths.admit(posture, STILL, wanted, DT)
        assert LIMIT_WORKSPACE in causes
        velocity = jacobian(posture[None])[0, :3] @ found
        assert 0.2 < velocity[1] < 0.31
        assert out[2] < velocity[2] < 0.3
        assert not stop_paths.check(posture, STILL, found[None], DT).any()


def test_a_hand_held_at_a_bins_rim_gets_away_from_it():
    """As in a shift of the scripted picker: on its way back over the rim while it comes down."""
    over_rim = reach_for((0.30, 0.36, 0.13))
    stop_paths, position, sent, heights = paths(), over_rim, STILL, []
    for _ in range(25):
        wanted = moving(position, 0.4, 0.0, -0.25)
        step = ACCELERATION_RADPS2 * DT
        new, causes = stop_paths.admit(position, sent, np.clip(wanted, sent - step, sent + step), DT)
        position, sent = position + 0.5 * DT * (sent + new), new
        heights.append(forward(position[None]).position_m[0, 2])
        assert stop_paths.measure(position[None]).min() > -1e-3
        if forward(position[None]).position_m[0, 0] > 0.45:
            break
    else:
        pytest.fail(f"stuck at {forward(position[None]).position_m[0]}, {causes}")


def test_turning_aside_keeps_what_is_free():
    slope, other = np.eye(7)[0], np.eye(7)[1]
    wanted = np.array([-1.0, -1.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    rooms = np.array([0.102, 10.0])
    np.testing.assert_allclose(
        turn_aside(wanted, rooms, np.stack([slope, other]), np.eye(7), 0.5),
        [-0.2, -1.0, 0.5, 0.0, 0.0, 0.0, 0.0],
        atol=1e-9,
    )
    beyond = turn_aside(wanted, np.array([-5.0]), slope[None], np.eye(7), 0.5)
    np.testing.assert_allclose(beyond[:2], [0.004, -1.0], atol=1e-9)
    np.testing.assert_array_equal(turn_aside(wanted, np.zeros(0), np.zeros((0, 7)), np.eye(7), 0.5), wanted)
    np.testing.assert_array_equal(
        turn_aside(wanted, np.zeros(1), np.zeros((1, 7)), np.eye(7), 0.5), wanted
    )  # nothing helps
    skew = np.stack([slope, 0.6 * slope + 0.8 * other])
    found = turn_aside(wanted, np.array([0.002, 0.002]), skew, np.eye(7), 0.5)
    assert (skew @ found >= -0.05).all()


@pytest.mark.parametrize("name", StopMargins.__struct_fields__)
def test_margins_are_no_less_than_zero(name: str):
    with pytest.raises(ValueError, match=f"expected {name} >= 0, got -0.1"):
        StopMargins(**{name: -0.1})
    with pytest.raises(ValueError, match=f"expected {name} >= 0, got nan"):
        StopMargins(**{name: float("nan")})
    StopMargins(**{name: 0.0})
