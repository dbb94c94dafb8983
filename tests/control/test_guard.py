from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.control.collision import COLLISION, Threat, find_threat
from visuomotor.control.config import ENVELOPE
from visuomotor.control.guard import CAUSES, Guard, GuardDecision, GuardSettings, GuardSituation
from visuomotor.control.inputs import DriveInputs
from visuomotor.control.kinematics import max_steering
from visuomotor.messages.schema import CONE, PEDESTRIAN

Make = Callable[..., DriveInputs]
OLD = np.full(32, 5.0)
ANY = st.floats(allow_nan=True, allow_infinity=True)


def situation(command: tuple[float, float] | None = (0.0, 0.0), **changes: object) -> GuardSituation:
    base = GuardSituation(
        command=command, command_valid=True, command_age_s=0.05, vehicle_ok=True, inputs=None, speed_mps=10.0
    )
    return dataclasses.replace(base, **changes)


def seeing(inputs: DriveInputs, command: tuple[float, float] = (0.0, 0.0), **changes: object) -> GuardSituation:
    return situation(command, inputs=inputs, speed_mps=float(inputs.speed_mps[0]), track_age_s=OLD, **changes)


def test_passes_on_what_is_inside_the_limits():
    decision = Guard().step(situation((1.0, 0.02)))
    assert decision == GuardDecision(1.0, 0.02, (), False, Threat())


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ((2.2, 0.0), "limit_acceleration"),
        ((-3.6, 0.0), "limit_acceleration"),
        ((-3.5, 0.0), "limit_jerk"),
        ((0.0, 0.3), "limit_lateral"),
        ((0.0, 0.07), "limit_steering_rate"),
    ],
)
def test_names_the_limit_that_cut(command: tuple[float, float], cause: str):
    decision = Guard().step(situation(command))
    assert cause in decision.causes
    assert set(decision.causes) <= set(CAUSES)
    assert decision.acceleration_mps2 >= -2.5 - 1e-9
    assert abs(decision.steering_angle_rad) <= 0.06 + 1e-9


@pytest.mark.parametrize(("beyond", "acts"), [(0.0, False), (0.04, False), (0.06, True)])
def test_rounding_is_no_intervention_but_is_cut(beyond: float, acts: bool):
    guard = Guard()
    guard.step(situation((2.0, 0.0)))
    decision = guard.step(situation((2.0 + beyond, 0.0)))
    assert decision.acceleration_mps2 == 2.0
    assert bool(decision.causes) is acts


def test_rates_relate_to_what_was_sent():
    guard = Guard()
    first = guard.step(situation((-3.5, 0.0)))
    second = guard.step(situation((-3.5, 0.0)))
    assert first.acceleration_mps2 == -2.5
    assert second.acceleration_mps2 == -3.5
    assert second.causes == ()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ANY, ANY, st.floats(-5.0, 60.0), st.booleans(), st.floats(0.0, 2.0)), min_size=1, max_size=6))
def test_any_sequence_of_commands_comes_out_finite_and_inside(steps: list[tuple[float, float, float, bool, float]]):
    guard = Guard()
    for a, angle, speed, valid, age in steps:
        decision = guard.step(situation((a, angle), speed_mps=speed, command_valid=valid, command_age_s=age))
        assert ENVELOPE.min_acceleration_mps2 <= decision.acceleration_mps2 <= ENVELOPE.max_acceleration_mps2
        assert math.isfinite(decision.steering_angle_rad)
        assert abs(decision.steering_angle_rad) <= float(max_steering(speed)) + 1e-9
        if valid and age <= 0.5 and not (math.isfinite(a) and math.isfinite(angle)):
            assert decision.causes == ("not_finite",)


@pytest.mark.parametrize("command", [(math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0), (0.0, -math.inf)])
def test_what_is_not_finite_becomes_braking_with_the_steering_held(command: tuple[float, float]):
    guard = Guard()
    guard.step(situation((0.0, 0.03)))
    decision = guard.step(situation(command))
    assert decision.causes == ("not_finite",)
    assert decision.acceleration_mps2 == -2.5
    assert decision.steering_angle_rad == pytest.approx(0.03)


def test_disabled_guard_checks_only_that_commands_are_finite(make_inputs: Make):
    guard = Guard(GuardSettings(enabled=False))
    wall = make_inputs([{"s": 8.0, "d": 3.5}], speed=14.0)
    assert guard.step(seeing(wall, (5.0, 0.5))) == GuardDecision(5.0, 0.5, (), False, Threat())
    assert guard.step(seeing(wall, (math.nan, 0.0))).causes == ("not_finite",)
    assert guard.step(seeing(wall, operator=("emergency_stop",))).causes == ("emergency_stop",)


@pytest.mark.parametrize(("age", "stale"), [(0.49, False), (0.5, False), (0.51, True), (9.0, True)])
def test_heartbeat_of_the_policy(age: float, stale: bool):
    decision = Guard().step(situation((1.0, 0.0), command_age_s=age))
    assert decision.causes == (("stale_policy",) if stale else ())
    assert decision.acceleration_mps2 == (-2.5 if stale else 1.0)


def test_invalid_commands_hold_the_last_good_one_for_a_heartbeat_without_accelerating():
    guard = Guard()
    guard.step(situation((1.5, 0.02), command_age_s=0.0))
    for _ in range(5):
        decision = guard.step(situation((2.0, -0.2), command_valid=False))
        assert decision.causes == ("held_command",)
        assert (decision.acceleration_mps2, decision.steering_angle_rad) == (0.0, 0.02)
    assert guard.step(situation((2.0, -0.2), command_valid=False)).causes == ("stale_policy",)
    assert guard.step(situation((-2.0, 0.02))).causes == ()


def test_a_command_that_is_not_finite_is_not_held():
    guard = Guard()
    for bad in ((math.nan, 0.0), (0.0, math.inf)):
        guard.step(situation(bad, command_age_s=0.0))
        assert guard.step(situation(command_valid=False)).causes == ("stale_policy",)


def test_the_heartbeat_of_a_held_command_ends_just_past_its_rounding():
    for age, cause in ((1e-9, "held_command"), (2e-9, "stale_policy")):
        guard = Guard()
        guard.step(situation((-1.0, 0.0), command_age_s=age))
        assert guard.step(situation(command_valid=False, dt_s=0.5)).causes == (cause,)


def test_no_command_ever_means_braking_along_the_lane(make_inputs: Make):
    inputs = make_inputs(lane=1.0, curvature=0.02, speed=8.0)
    guard = Guard()
    decisions = [guard.step(seeing(inputs, command=None)) for _ in range(3)]
    assert all(d.causes == ("stale_policy",) for d in decisions)
    assert [d.acceleration_mps2 for d in decisions] == [-2.5, -3.5, -3.5]
    assert decisions[-1].steering_angle_rad > 0.03  # follows the bend


def test_a_stop_keeps_to_the_nearest_lane(make_inputs: Make):
    decision = Guard().step(seeing(make_inputs(lane=0.0, speed=8.0), command=None))
    assert decision.causes == ("stale_policy",)
    assert decision.steering_angle_rad == pytest.approx(0.0, abs=1e-6)


def test_lost_vehicle_state_brakes_with_the_steering_held(make_inputs: Make):
    guard = Guard()
    guard.step(seeing(make_inputs(lane=1.0), (0.0, 0.05)))
    for speed in (0.0, 40.0, math.nan):  # whatever it says: it is old
        decision = guard.step(situation((1.0, 0.0), vehicle_ok=False, inputs=None, speed_mps=speed))
        assert decision.causes == ("stale_vehicle_state",)
        assert decision.steering_angle_rad == 0.05
        assert decision.acceleration_mps2 < -2.0


def test_emergency_stop_latches_until_a_reset_at_standstill():
    guard = Guard()
    decision = guard.step(situation((1.0, 0.0), operator=("emergency_stop",)))
    assert decision.latched
    assert decision.causes == ("emergency_stop",)
    assert decision.acceleration_mps2 == ENVELOPE.emergency_acceleration_mps2
    for word in ("engage", "reset", "disengage", "order", "engage"):
        assert guard.step(situation((1.0, 0.0), operator=(word,))).latched, word  # still moving
    assert guard.step(situation((1.0, 0.0), speed_mps=0.3, operator=("reset",))).latched  # the edge of standstill
    assert guard.step(situation((1.0, 0.0), speed_mps=0.0, operator=("engage",))).latched
    assert guard.step(situation((1.0, 0.0), speed_mps=0.0, vehicle_ok=False, operator=("reset",))).latched
    decision = guard.step(situation((-3.5, 0.0), speed_mps=0.29, operator=("reset",)))
    assert not decision.latched
    assert decision.causes == ()


def test_a_car_that_rolls_backwards_does_not_stand():
    guard = Guard(GuardSettings(start_latched=True))
    assert guard.step(situation(speed_mps=-5.0, operator=("reset",))).latched
    assert not guard.step(situation(speed_mps=-0.29, operator=("reset",))).latched


def test_emergency_stop_wins_over_a_reset_in_the_same_step_when_it_came_last():
    guard = Guard()
    assert guard.step(situation(speed_mps=0.0, operator=("emergency_stop", "reset"))).latched is False
    assert guard.step(situation(speed_mps=0.0, operator=("reset", "emergency_stop"))).latched is True


def test_comes_up_latched_where_so_configured():
    guard = Guard(GuardSettings(start_latched=True))
    assert guard.latched
    assert guard.step(situation((2.0, 0.0), speed_mps=0.0)).causes == ("emergency_stop",)
    guard.step(situation(speed_mps=0.0, operator=("reset",)))
    assert not guard.latched
    guard.reset()
    assert guard.latched
    assert not Guard().latched


def test_disengaged_means_a_stop_until_engaged_again():
    guard = Guard()
    decision = guard.step(situation((1.0, 0.0), operator=("disengage",)))
    assert decision.causes == ("disengaged",)
    assert not decision.latched
    assert guard.step(situation((1.0, 0.0))).causes == ("disengaged",)
    assert guard.step(situation((-2.5, 0.0), operator=("engage",))).causes == ()


def test_reset_forgets_everything():
    guard = Guard()
    guard.step(situation((-2.0, 0.05), operator=("emergency_stop", "disengage")))
    guard.reset()
    assert guard.step(situation((1.0, 0.0))) == Guard().step(situation((1.0, 0.0)))


def test_no_command_of_the_last_episode_is_held_in_the_next():
    guard = Guard()
    guard.step(situation((1.0, 0.0)))
    assert "stale_policy" not in guard.step(situation(None)).causes
    guard.step(situation((1.0, 0.0)))
    guard.reset()
    assert guard.step(situation(None)) == Guard().step(situation(None))


def brake_causes(inputs: DriveInputs, age: np.ndarray = OLD) -> tuple[float, bool]:
    """Acceleration sent for a policy that rolls on, and whether the guard braked."""
    now = situation(inputs=inputs, speed_mps=float(inputs.speed_mps[0]), track_age_s=age)
    decision = Guard().step(now)
    return decision.acceleration_mps2, "ttc_brake" in decision.causes


def test_brakes_late_and_hard_for_what_stands_in_the_lane(make_inputs: Make):
    far, near, too_near = (brake_causes(make_inputs([{"s": s, "d": 3.5}], speed=10.0)) for s in (25.0, 17.0, 10.0))
    assert far == (0.0, False)
    # gap 12.5 m, less margin 0.5 and delay 2.0: 100 / (2 * 10) = 5 m/s2
    assert near[1]
    assert near[0] == pytest.approx(-1.2 * 5.0, abs=0.05)
    assert too_near == (ENVELOPE.emergency_acceleration_mps2, True)


def test_does_not_act_while_the_policy_brakes_as_hard(make_inputs: Make):
    guard = Guard()
    inputs = make_inputs([{"s": 20.0, "d": 3.5}], speed=10.0)
    for _ in range(3):
        decision = guard.step(seeing(inputs, (-2.5, 0.0)))
    assert decision.causes == ()
    assert find_threat(inputs, 0.0, OLD).required_mps2 < 4.0


@pytest.mark.parametrize(
    "agent",
    [
        {"s": 12.0, "d": 7.0},  # in the next lane
        {"s": 12.0, "d": 3.5 + 2.1},  # close beside the path
        {"s": 15.0, "d": 0.8, "kind": PEDESTRIAN},  # standing at the edge of the lane
        {"s": 12.0, "d": 3.5, "speed": 10.0},  # as fast as we
        {"s": -10.0, "d": 3.5, "speed": 20.0},  # from behind
        {"s": 3.0, "d": 5.6},  # abreast
        {"s": 22.0, "d": 0.0, "across": 1.4, "kind": PEDESTRIAN},  # comes into the path long after
        {"s": 15.0, "d": 4.8, "across": 2.0, "kind": PEDESTRIAN},  # has left the path by then
    ],
)
def test_does_not_brake_for_what_is_not_in_the_way(make_inputs: Make, agent: dict):
    assert brake_causes(make_inputs([agent], speed=10.0)) == (0.0, False)


def test_brakes_for_a_person_who_will_be_in_the_way(make_inputs: Make):
    person = {"s": 14.0, "d": 1.7, "across": 1.5, "kind": PEDESTRIAN}
    acceleration, acted = brake_causes(make_inputs([person], speed=10.0))
    assert acted
    assert acceleration < -4.0


def test_a_ghost_of_one_tick_is_not_braked_for(make_inputs: Make):
    wall = make_inputs([{"s": 14.0, "d": 3.5, "kind": CONE}], speed=10.0)
    assert brake_causes(wall, age=np.full(32, COLLISION.min_age_s))[1]
    assert not brake_causes(wall, age=np.full(32, COLLISION.min_age_s - 0.01))[1]
    unseen = dataclasses.replace(wall, track_unseen_s=np.full((1, 32), COLLISION.max_unseen_s + 0.01))
    assert not brake_causes(unseen)[1]


def test_path_follows_bend_and_steering(make_inputs: Make):
    ahead = [{"s": 16.0, "d": 3.5}]
    bend = make_inputs(ahead, curvature=0.02, speed=10.0, steering_angle_rad=np.array([0.054]))
    along = dataclasses.replace(bend, odom_pose=np.array([[0.0, 0.0, -0.027]]))
    assert find_threat(along, 0.054, OLD).required_mps2 > 4.0
    moving_over = make_inputs([{"s": 16.0, "d": 3.5}], speed=10.0, odom_pose=np.array([[0.0, 1.2, 0.15]]))
    assert find_threat(moving_over, 0.0, OLD) == Threat()


def test_braking_goes_on_until_it_is_clearly_not_needed(make_inputs: Make):
    guard = Guard()
    guard.step(seeing(make_inputs([{"s": 17.0, "d": 3.5}], speed=10.0)))
    easing = make_inputs([{"s": 22.0, "d": 3.5}], speed=10.0)  # 3.3 m/s2 needed
    assert "ttc_brake" in guard.step(seeing(easing)).causes
    clear = make_inputs([{"s": 30.0, "d": 3.5}], speed=10.0)
    assert "ttc_brake" not in guard.step(seeing(clear)).causes
    assert "ttc_brake" not in guard.step(seeing(easing)).causes


@pytest.fixture
def threat(monkeypatch: pytest.MonkeyPatch, make_inputs: Make) -> Callable[[float, float], GuardSituation]:
    """A step in which a given deceleration is required while the policy asks for a given acceleration."""

    def step(required_mps2: float, acceleration_mps2: float = 0.0) -> GuardSituation:
        monkeypatch.setattr("visuomotor.control.guard.find_threat", lambda *_: Threat(required_mps2=required_mps2))
        return seeing(make_inputs(speed=10.0), (acceleration_mps2, 0.0))

    return step


def test_begins_to_brake_above_its_bar_and_ends_below_the_other(threat: Callable[..., GuardSituation]):
    guard = Guard()
    for required, acts in [(2.6, False), (4.0, False), (4.1, True), (2.6, True), (2.5, False), (2.6, False)]:
        assert ("ttc_brake" in guard.step(threat(required)).causes) is acts, required


@pytest.mark.parametrize("forget", [Guard.reset, lambda guard: guard.step(situation(vehicle_ok=False))])
def test_braking_is_forgotten_by_a_reset_and_a_stop(
    threat: Callable[..., GuardSituation], forget: Callable[[Guard], object]
):
    guard = Guard()
    assert guard.step(threat(4.1)).causes == ("ttc_brake",)
    forget(guard)
    assert "ttc_brake" not in guard.step(threat(3.0)).causes


@pytest.mark.parametrize(("acceleration", "acts"), [(-3.1, False), (-3.06, True)])  # it would brake by 1.2 * 2.6 = 3.12
def test_braking_as_the_policy_does_but_for_rounding_is_no_intervention(
    threat: Callable[..., GuardSituation], acceleration: float, acts: bool
):
    guard = Guard()
    guard.step(threat(4.1))
    decision = guard.step(threat(2.6, acceleration))
    assert decision.causes == (("ttc_brake",) if acts else ())
    assert decision.acceleration_mps2 == pytest.approx(-3.12 if acts else acceleration)


def test_braking_exactly_as_the_policy_does_is_no_intervention(threat: Callable[..., GuardSituation]):
    exact = GuardSettings(acceleration_noise_mps2=0.0, brake_gain=1.0, brake_from_mps2=2.5)
    guard = Guard(exact)
    guard.step(situation((-2.5, 0.0)))
    assert guard.step(threat(3.0, -3.0)).causes == ()


def test_without_the_age_of_tracks_it_does_not_look_for_threats(threat: Callable[..., GuardSituation]):
    assert Guard().step(dataclasses.replace(threat(9.0), track_age_s=None)).causes == ()


def test_without_tolerance_what_is_inside_the_limits_is_no_intervention():
    exact = GuardSettings(acceleration_noise_mps2=0.0, steering_noise_rad=0.0)
    assert Guard(exact).step(situation((1.0, 0.02))).causes == ()


def test_held_braking_goes_on():
    guard = Guard()
    guard.step(situation((-1.0, 0.02)))
    decision = guard.step(situation(command_valid=False))
    assert (decision.acceleration_mps2, decision.steering_angle_rad) == (-1.0, 0.02)


def test_threat_tells_time_and_track(make_inputs: Make):
    agents = [{"s": 40.0, "d": 3.5}, {"s": 22.25 + 2.25, "d": 3.5}]
    threat = find_threat(make_inputs(agents, speed=10.0), 0.0, OLD)
    assert threat.slot == 1
    assert threat.time_s == pytest.approx(2.1, abs=0.11)
    assert find_threat(make_inputs(agents, speed=0.0), 0.0, OLD) == Threat()
    assert find_threat(make_inputs(), 0.0, OLD) == Threat()


def test_nobody_changes_settings_situation_or_decision_afterwards():
    for value, name in [
        (GuardSettings(), "heartbeat_s"),
        (situation(), "command"),
        (Guard().step(situation()), "causes"),
    ]:
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    for kind in (GuardSettings, GuardSituation):
        with pytest.raises(TypeError):
            kind(None)


def test_contradicting_settings_are_refused_with_their_values():
    with pytest.raises(ValueError, match=r"got 5\.0 and 4\.0"):
        GuardSettings(release_below_mps2=5.0)
    for release in (-1.0, -0.5, 0.0):
        with pytest.raises(ValueError, match=rf"got {release} and 4\.0"):
            GuardSettings(release_below_mps2=release)
    for release in (0.5, 4.0):
        assert GuardSettings(release_below_mps2=release).brake_from_mps2 == 4.0
    for heartbeat_s in (0.0, -0.5):
        with pytest.raises(ValueError, match=rf"heartbeat_s > 0, got {heartbeat_s}"):
            GuardSettings(heartbeat_s=heartbeat_s)
