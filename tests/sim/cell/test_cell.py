"""The cell's physics and its books, with a real arm that grips real parts."""

import hashlib

import numpy as np
import pybullet
import pytest
from cell_scenes import Hand, arrival, drop_into, idle, make_case

from visuomotor.control.arm.config import CELL, LIMITS, REST_RAD
from visuomotor.sim.cell.belt import BeltProgram
from visuomotor.sim.cell.cell import ENDS, MANOEUVRES, CellWorlds
from visuomotor.sim.cell.scenario import CYCLE_S, OrderSpec, cell_case

CLASSES = ("red cube", "blue cylinder", "green block", "yellow ball", "duck", "brick")


def manoeuvre(worlds, slot=0):
    return MANOEUVRES[int(worlds.part_manoeuvre[0, slot])]


def digest(worlds, index):
    names = ("joint_position_rad", "joint_velocity_radps", "gripper_width_m", "gripper_force_n", "part_position_m",
             "part_velocity_mps", "part_quaternion", "part_yaw_rad", "part_id", "belt_speed_mps")  # fmt: skip
    return hashlib.sha256(b"".join(np.ascontiguousarray(getattr(worlds, name)[index]).tobytes() for name in names))


def play(worlds, index, seed, ticks=12):
    """A case under commands that are drawn from its seed, all other cells at other commands."""
    worlds.reset(index, cell_case("pick-v1", "train", seed))
    rng = np.random.default_rng(seed)
    hashes = hashlib.sha256()
    for _ in range(ticks):
        velocity, width = rng.uniform(-0.5, 0.5, 7), rng.uniform(0.0, 0.08)
        velocities = np.full((worlds.count, 7), 0.1)
        velocities[index] = velocity
        worlds.step(velocities, np.where(np.arange(worlds.count) == index, width, 0.03))
        hashes.update(digest(worlds, index).digest())
    return hashes.hexdigest()


# ---------------------------------------------------------------------------------------------------------- repeating
def test_seed_seven_alone_is_seed_seven_as_the_third_and_in_a_batch(cell):
    alone = play(cell, 0, 7)
    for seed in (3, 5):
        play(cell, 0, seed)
    assert play(cell, 0, 7) == alone
    assert play(cell, 0, 8) != alone
    batch = CellWorlds(3)
    batch.reset(0, cell_case("pick-v1", "train", 1))
    batch.reset(1, cell_case("pick-v1", "train", 2))
    assert play(batch, 2, 7) == alone
    batch.close()


def test_a_cell_that_has_ended_stays_as_it_is(cell):
    cell.reset(0, make_case(arrival(), speed=0.1, duration_s=0.3))
    idle(cell, 3)
    assert ENDS[cell.end[0]] == "goal"
    before = digest(cell, 0).hexdigest()
    idle(cell, 2)
    assert digest(cell, 0).hexdigest() == before
    assert cell.tick[0] == 3


def test_a_time_limit_ends_a_shift_as_a_timeout(cell):
    cell.reset(0, make_case(arrival()))
    cell.limit_time(0, 0.2)
    idle(cell, 2)
    assert ENDS[cell.end[0]] == "timeout"


def test_no_cells_are_refused():
    with pytest.raises(ValueError, match="at least one cell, got 0"):
        CellWorlds(0)


# -------------------------------------------------------------------------------------------------------- belt, parts
@pytest.mark.parametrize("speed", [0.05, 0.30])
def test_the_belt_carries_parts_at_its_speed(cell, speed):
    cell.reset(0, make_case(*(arrival(name, y=0.9 - 0.2 * i, yaw=0.5) for i, name in enumerate(CLASSES)), speed=speed))
    start = cell.part_position_m[0, :6].copy()
    idle(cell, 10)
    moved = cell.part_position_m[0, :6] - start
    np.testing.assert_allclose(moved[:, 1], -speed, atol=0.002)
    np.testing.assert_allclose(moved[:, [0, 2]], 0.0, atol=0.002)
    np.testing.assert_allclose(cell.part_velocity_mps[0, :6, 1], -speed, atol=0.002)
    assert {manoeuvre(cell, slot) for slot in range(6)} == {"constant"}
    np.testing.assert_allclose(cell.belt_travel_m, speed, atol=1e-9)


def test_boxes_keep_to_a_belt_that_stops_and_a_ball_rolls_on_and_comes_to_rest(cell):
    belt = BeltProgram(time_s=(0.0, 0.5, 1.1), speed_mps=(0.3, 0.3, 0.0))
    parts = arrival("red cube", y=0.9), arrival("yellow ball", y=0.6, rolling_friction_m=0.0006)
    cell.reset(0, make_case(*parts, belt=belt))
    ball, cube = 0, 1  # in the order in which they enter
    idle(cell, 12)
    assert manoeuvre(cell, cube) == "stop_and_go"
    np.testing.assert_allclose(cell.part_velocity_mps[0, cube], 0.0, atol=1e-3)
    assert manoeuvre(cell, ball) == "rolling"
    # Rolling without slipping, a sphere takes 2/7 of the belt's change of speed: 5/7 of 0.3 m/s, less what resists.
    assert -5 / 7 * 0.3 < cell.part_velocity_mps[0, ball, 1] < -0.06
    idle(cell, 30)
    assert manoeuvre(cell, ball) == "stop_and_go"
    assert abs(cell.part_velocity_mps[0, ball, 1]) < 0.015


def test_a_belt_that_starts_after_a_long_stop_takes_everything_with_it(cell):
    belt = BeltProgram(time_s=(0.0, 4.0, 4.1), speed_mps=(0.0, 0.0, 0.2))
    cell.reset(0, make_case(*(arrival(name, y=0.9 - 0.2 * i) for i, name in enumerate(CLASSES)), belt=belt))
    idle(cell, 40)
    start = cell.part_position_m[0, :6, 1].copy()
    idle(cell, 10)
    assert (cell.part_position_m[0, :6, 1] - start < -0.05).all()  # a ball lags behind
    assert {manoeuvre(cell, slot) for slot in range(6)} <= {"stop_and_go", "rolling"}


def test_a_rolling_arrival_rolls_relative_to_the_belt(cell):
    ball = arrival("yellow ball", y=0.6, roll=(0.0, 0.08), rolling_friction_m=0.00003)
    cell.reset(0, make_case(ball, speed=0.2))
    idle(cell, 10)
    np.testing.assert_allclose(cell.part_velocity_mps[0, 0, 1], -0.12, atol=0.02)
    assert manoeuvre(cell) == "rolling"


def test_parts_enter_when_the_belt_has_brought_them_and_leave_at_its_end(cell):
    cell.reset(0, make_case(arrival(y=-0.83), arrival("duck", y=1.245), speed=0.3))
    assert cell.part_present[0].sum() == 1
    idle(cell, 2)
    assert cell.part_id[0][cell.part_present[0]].tolist() == [0, 1]
    np.testing.assert_allclose(cell.part_position_m[0, 1, 1], 1.245 - 0.06, atol=0.001)
    idle(cell, 1)
    assert cell.part_id[0][cell.part_present[0]].tolist() == [1]
    assert cell.part_spec[0][0] is None


@pytest.mark.parametrize("yaw", [-1.2, 0.0, 0.7])
def test_yaw_is_that_of_the_longer_side(cell, yaw):
    cell.reset(0, make_case(arrival("green block", yaw=yaw)))
    np.testing.assert_allclose(cell.part_yaw_rad[0, 0], yaw, atol=1e-6)
    length, width, _ = cell.part_size_m[0, 0]
    assert length > width


# ------------------------------------------------------------------------------------------------------------ the arm
def test_joints_reach_the_commanded_speed_in_a_ramp_over_the_step(cell):
    cell.reset(0, make_case())
    speed = np.array([0.3, -0.2, 0.2, 0.2, -0.3, 0.2, 0.5])
    cell.step(speed[None], np.array([0.08]))
    np.testing.assert_allclose(cell.joint_velocity_radps[0], speed * 23 / 24, atol=0.02)
    np.testing.assert_allclose(cell.joint_position_rad[0] - REST_RAD, speed * 0.1 * 25 / 48, atol=0.002)
    cell.step(speed[None], np.array([0.08]))
    np.testing.assert_allclose(cell.joint_position_rad[0] - REST_RAD, speed * (0.1 * 25 / 48 + 0.1), atol=0.003)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_command_that_is_not_finite_means_standing_still(cell, bad):
    cell.reset(0, make_case())
    command = np.full((1, 7), 0.2)
    cell.step(command, np.array([0.05]))
    command[0, 3] = bad
    for _ in range(4):
        cell.step(command, np.array([bad]))
    assert np.isfinite(cell.joint_position_rad).all()
    np.testing.assert_allclose(cell.joint_velocity_radps, 0.0, atol=1e-3)
    assert 0.05 <= cell.gripper_width_m[0] < 0.075  # stays where it was when the word came


def test_commands_beyond_the_limits_are_clipped(cell):
    cell.reset(0, make_case())
    for _ in range(3):
        cell.step(np.full((1, 7), [50.0, 0, 0, 0, 0, 0, 0]), np.array([3.0]))
    assert abs(cell.joint_velocity_radps[0, 0]) <= LIMITS.velocity_radps[0] + 0.02
    assert cell.gripper_width_m[0] <= LIMITS.gripper_width_m + 1e-3


def test_the_gripper_closes_at_its_speed_and_feels_nothing_in_the_air(cell):
    cell.reset(0, make_case())
    widths = []
    for _ in range(5):
        cell.step(np.zeros((1, 7)), np.array([0.0]))
        widths.append(float(cell.gripper_width_m[0]))
    np.testing.assert_allclose(np.diff(widths), -0.1 * LIMITS.gripper_speed_mps, atol=0.001)
    assert cell.gripper_force_n[0] < 2.0


@pytest.mark.parametrize("speed", [0.0, 0.2])
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_can_be_gripped_and_lifted_by_friction(cell, name, speed):
    cell.reset(0, make_case(arrival(name, y=0.1 + 4.0 * speed, yaw=0.4, seed=3), speed=speed))
    Hand(cell).pick()
    assert cell.part_held[0, 0]
    assert manoeuvre(cell) == "held"
    assert cell.part_position_m[0, 0, 2] > 0.12
    assert np.linalg.norm(cell.part_position_m[0, 0] - cell.tool_position_m[0]) < 0.012
    assert 30.0 < cell.gripper_force_n[0] < 45.0
    assert abs(cell.gripper_width_m[0] - cell.part_size_m[0, 0, 1]) < 0.012
    assert cell.end[0] == 0


def test_an_open_hand_lets_go(cell):
    cell.reset(0, make_case(arrival(y=0.0)))
    hand = Hand(cell)
    hand.pick()
    for _ in range(5):
        cell.step(np.zeros((1, 7)), np.array([0.08]))
    assert not cell.part_held[0].any()
    assert cell.part_position_m[0, 0, 2] < 0.05


@pytest.mark.parametrize("target", [(0.5, 0.0, -0.02), (0.30, 0.36, 0.02)], ids=["belt", "bin's wall"])
def test_hitting_something_hard_ends_the_shift(cell, target):
    cell.reset(0, make_case())
    hand = Hand(cell)
    for _ in range(60):
        hand.follow(target)
        if cell.end[0]:
            break
    assert ENDS[cell.end[0]] == "collision"
    assert cell.hit_force_n[0] > 150.0


# ---------------------------------------------------------------------------------------------------------- the books
def test_a_part_within_reach_counts_as_ordered_and_in_its_bin_as_binned(cell):
    cell.reset(0, make_case(arrival(y=0.6), arrival("duck", y=0.1), order=(2, 0, 0, 0, 0, 0), speed=0.2))
    assert cell.parts_ordered[0] == 0
    idle(cell, 11)
    assert cell.parts_ordered[0] == 1  # two were ordered, one came; nobody wants the duck
    assert cell.wanted[0].tolist() == [2, 0, 0, 0, 0, 0]
    assert cell.bin_index[0].tolist() == [0, -1, -1, -1, -1, -1]
    drop_into(cell, 1, 0)
    assert (cell.parts_binned[0], cell.wrong_parts[0]) == (1, 0)
    assert cell.wanted[0, 0] == 1
    assert cell.success[0]
    drop_into(cell, 0, 0, aside_m=0.06)
    assert (cell.parts_binned[0], cell.wrong_parts[0]) == (1, 1)
    assert not cell.success[0]


def test_the_wrong_bin_and_one_too_many_are_wrong(cell):
    cell.reset(0, make_case(arrival(y=0.0), arrival(y=0.2), arrival("brick", y=-0.2), order=(1, 0, 0, 0, 0, 1)))
    brick, first, second = 0, 1, 2
    drop_into(cell, first, 0)
    drop_into(cell, second, 0, aside_m=0.06)
    assert (cell.parts_binned[0], cell.wrong_parts[0]) == (1, 1)
    drop_into(cell, brick, 0, aside_m=-0.06)  # bricks go into the other
    assert (cell.parts_binned[0], cell.wrong_parts[0]) == (1, 2)


def test_a_binned_part_stays_for_a_while_and_is_counted_once(cell):
    cell.reset(0, make_case(arrival()))
    drop_into(cell, 0, 0)
    idle(cell, 10)
    assert cell.part_present[0, 0]
    idle(cell, 10)
    assert not cell.part_present[0, 0]
    assert (cell.parts_binned[0], cell.wrong_parts[0]) == (1, 0)


def test_what_comes_too_late_for_a_cycle_counts_neither_way(cell):
    cell.reset(0, make_case(arrival(y=0.6), speed=0.2, duration_s=CYCLE_S + 0.5))
    idle(cell, 15)
    assert cell.parts_ordered[0] == 0
    drop_into(cell, 0, 0)
    assert (cell.parts_binned[0], cell.wrong_parts[0], cell.parts_ordered[0]) == (0, 0, 0)
    assert cell.success[0]


def test_a_part_that_is_taken_before_it_comes_within_reach_counts_in_both(cell):
    cell.reset(0, make_case(arrival(y=0.6)))
    drop_into(cell, 0, 0)
    assert (cell.parts_binned[0], cell.parts_ordered[0]) == (1, 1)


def test_an_order_that_changes_in_the_case(cell):
    orders = (OrderSpec(total=(1, 0, 0, 0, 1, 0)), OrderSpec(time_s=0.5, total=(1, 2, 0, 0, 0, 0)))
    cell.reset(0, make_case(arrival(y=0.0), arrival("duck", y=0.2), orders=orders))
    drop_into(cell, 1, 0)
    assert cell.parts_binned[0] == 1
    idle(cell, 3)
    assert cell.wanted[0].tolist() == [1, 2, 0, 0, 0, 0]  # what was binned of a class no longer ordered stays binned
    assert cell.bin_index[0].tolist() == [0, 1, -1, -1, -1, -1]
    assert (cell.parts_binned[0], cell.parts_ordered[0]) == (2 - 1, 2)


def test_an_operators_order_replaces_what_is_still_wanted(cell):
    cell.reset(0, make_case(arrival(y=0.0), arrival(y=0.2), order=(2, 0, 0, 0, 0, 0)))
    drop_into(cell, 0, 0)
    cell.set_order(0, np.array([0, 0, 0, 0, 3, 0]), np.array([-1, -1, -1, -1, 1, -1]))
    assert cell.wanted[0].tolist() == [0, 0, 0, 0, 3, 0]
    assert cell.bin_index[0].tolist() == [-1, -1, -1, -1, 1, -1]
    assert (cell.parts_binned[0], cell.parts_ordered[0]) == (1, 1)
    drop_into(cell, 1, 0, aside_m=0.06)
    assert cell.wrong_parts[0] == 1


def test_what_is_in_the_hand_when_its_order_is_taken_back_may_go_where_it_was_due(cell):
    cell.reset(0, make_case(arrival(y=0.0)))
    hand = Hand(cell)
    hand.pick()
    cell.set_order(0, np.zeros(6), np.full(6, -1))
    drop_into(cell, 0, 0)
    assert (cell.parts_binned[0], cell.wrong_parts[0]) == (0, 0)


def test_a_part_over_a_bin_is_not_binned_before_it_is_let_go(cell):
    cell.reset(0, make_case(arrival(y=0.1, seed=2)))
    hand = Hand(cell)
    hand.pick()
    x, y = CELL.bin_centre_m[0]
    hand.go((x, y, 0.2), width_m=0.0, near_m=0.01)
    hand.go((x, y, 0.095), width_m=0.0, near_m=0.006)
    assert cell.part_held[0, 0]
    assert cell.parts_binned[0] == 0
    for _ in range(6):
        hand.follow((x, y, 0.12))
    assert (cell.parts_binned[0], cell.wrong_parts[0], cell.end[0]) == (1, 0, 0)


def test_each_cell_has_a_client_of_its_own():
    worlds = CellWorlds(2)
    for index in range(2):
        worlds.reset(index, make_case(arrival()))
        assert pybullet.isConnected(worlds.client(index))
    assert worlds.client(0) != worlds.client(1)
    clients = [worlds.client(index) for index in range(2)]
    worlds.close()
    assert not any(pybullet.isConnected(client) for client in clients)
