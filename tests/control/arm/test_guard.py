from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from visuomotor.control.arm.action import ACCELERATION_RADPS2, VELOCITY_RADPS, brake
from visuomotor.control.arm.config import CONTROL_PERIOD_S, LIMITS, REST_RAD
from visuomotor.control.arm.guard import (
    CAUSES,
    ArmDecision,
    ArmGuard,
    ArmGuardSettings,
    ArmReading,
    ArmSituation,
)
from visuomotor.control.arm.kinematics import forward, jacobian, solve_velocity

REST = np.array(REST_RAD)
STILL = (0.0,) * 7
SLOW = (0.1, 0.0, 0.0, 0.0, 0.0, 0.0, -0.1)
STEP = ACCELERATION_RADPS2 * CONTROL_PERIOD_S


def reading(**changes: object) -> ArmReading:
    base = ArmReading(joint_position_rad=REST, joint_velocity_radps=np.zeros(7), gripper_width_m=0.05)
    return dataclasses.replace(base, **changes)


def situation(velocity: tuple[float, ...] | None = STILL, width: float = 0.08, **changes: object) -> ArmSituation:
    base = ArmSituation(
        command=None if velocity is None else (velocity, width),
        command_valid=True,
        command_age_s=0.05,
        state=reading(),
    )
    return dataclasses.replace(base, **changes)


def tool_twist(*twist: float) -> tuple[float, ...]:
    return tuple(solve_velocity(REST[None], np.array([twist]))[0].tolist())


def test_passes_on_what_is_inside_the_limits():
    assert ArmGuard().step(situation(SLOW, 0.03)) == ArmDecision(SLOW, 0.03, (), False)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("joint", range(7))
def test_joint_speeds_and_accelerations_are_limited(joint: int, sign: float):
    wanted = [0.0] * 7
    wanted[joint] = sign * 1.01 * VELOCITY_RADPS[joint]
    decision = ArmGuard().step(situation(tuple(wanted)))
    assert decision.causes[:2] == ("limit_joint_speed", "limit_acceleration")
    assert set(decision.causes) <= set(CAUSES)
    sent = np.array(decision.joint_velocity_radps)
    assert (np.abs(sent) <= STEP + 1e-9).all()
    assert sign * sent[joint] > 0.0
    np.testing.assert_array_equal(np.delete(sent, joint), 0.0)


def test_accelerations_relate_to_what_was_sent():
    guard = ArmGuard()
    wanted = (1.2, 0.0, 0.0, 0.0, 0.0, 0.0, -1.2)  # the tool turns about the foot: 0.69 m/s
    first = guard.step(situation(wanted))
    assert first.causes == ("limit_acceleration",)
    limit = (1.0 + guard.settings.tool_tolerance) * LIMITS.tool_acceleration_mps2 * CONTROL_PERIOD_S
    velocity = jacobian(REST[None])[0, :3] @ np.array(first.joint_velocity_radps)
    assert np.linalg.norm(velocity) == pytest.approx(limit)
    moved = reading(joint_velocity_radps=np.zeros(7))
    second = guard.step(situation(wanted, state=moved))
    assert second.causes == ()
    assert second.joint_velocity_radps == wanted


def test_a_cut_goes_straight_towards_what_was_wanted():
    guard = ArmGuard()
    wanted = np.array(tool_twist(0.0, 0.6, 0.5, 1.0))
    sent = np.array(guard.step(situation(tuple(wanted))).joint_velocity_radps)
    np.testing.assert_allclose(sent * np.linalg.norm(wanted), wanted * np.linalg.norm(sent), atol=1e-9)
    assert 0.0 < np.linalg.norm(sent) < np.linalg.norm(wanted)


@pytest.mark.parametrize(("beyond", "acts"), [(0.0, False), (0.009, False), (0.011, True)])
def test_rounding_is_no_intervention_but_is_cut(beyond: float, acts: bool):
    guard = ArmGuard()
    joint = 6
    wanted = [0.0] * 7
    for speed in (0.9, 1.9, VELOCITY_RADPS[joint]):
        wanted[joint] = speed
        assert guard.step(situation(tuple(wanted))).causes == ()
    wanted[joint] += beyond
    decision = guard.step(situation(tuple(wanted)))
    assert decision.joint_velocity_radps[joint] == pytest.approx(VELOCITY_RADPS[joint])
    assert decision.causes == (("limit_joint_speed",) if acts else ())


@pytest.mark.parametrize(
    ("bad", "width"),
    [((math.nan, *STILL[1:]), 0.0), ((*STILL[1:], -math.inf), 0.0), (STILL, math.nan), (STILL[1:], 0.0), ((), 0.0)],
)
def test_what_is_not_finite_or_not_an_arms_becomes_a_stop_with_the_gripper_held(bad: tuple[float, ...], width: float):
    for settings in (ArmGuardSettings(), ArmGuardSettings(enabled=False)):
        guard = ArmGuard(settings)
        guard.step(situation(SLOW, 0.02))
        decision = guard.step(situation(bad, width))
        assert decision.causes == ("not_finite",)
        assert decision.joint_velocity_radps == STILL
        assert decision.gripper_width_m == 0.02


def test_a_stop_brakes_all_joints_in_proportion_within_their_accelerations():
    guard = ArmGuard()
    wanted = np.array(tool_twist(-0.6, 0.0, 0.0, 0.0))
    for _ in range(3):
        guard.step(situation(tuple(wanted)))
    speeds = [np.array(guard.step(situation(None, command_valid=False)).joint_velocity_radps)]  # held for once
    for _ in range(8):
        speeds.append(np.array(guard.step(situation(state=None)).joint_velocity_radps))
    for before, after in itertools.pairwise(speeds):
        np.testing.assert_allclose(after, brake(before), atol=1e-12)
        assert (np.abs(after - before) <= STEP + 1e-9).all()
    assert np.abs(speeds[1]).max() > 0.1
    np.testing.assert_array_equal(speeds[-1], 0.0)


@pytest.mark.parametrize(("age", "stale"), [(0.49, False), (0.5, False), (0.51, True), (9.0, True)])
def test_heartbeat_of_the_policy(age: float, stale: bool):
    decision = ArmGuard().step(situation(SLOW, command_age_s=age))
    assert decision.causes == (("stale_policy",) if stale else ())
    assert decision.joint_velocity_radps == (STILL if stale else SLOW)


def test_invalid_commands_hold_what_was_sent_for_a_heartbeat():
    guard = ArmGuard()
    guard.step(situation(SLOW, 0.02, command_age_s=0.0))
    for _ in range(5):
        decision = guard.step(situation((0.5,) * 7, 0.08, command_valid=False))
        assert decision == ArmDecision(SLOW, 0.02, ("held_command",), False)
    decision = guard.step(situation(SLOW, 0.08, command_valid=False))
    assert decision == ArmDecision(STILL, 0.02, ("stale_policy",), False)


def test_a_policy_that_never_spoke_means_a_stop_with_the_gripper_as_it_is():
    assert ArmGuard().step(situation(None)) == ArmDecision(STILL, 0.05, ("stale_policy",), False)
    assert ArmGuard().step(situation(None, state=None)).gripper_width_m == LIMITS.gripper_width_m
    for measured, expected in ((-0.01, 0.0), (0.09, LIMITS.gripper_width_m)):
        assert ArmGuard().step(situation(None, state=reading(gripper_width_m=measured))).gripper_width_m == expected


def test_a_lost_arm_state_and_stale_perception_mean_a_stop():
    for changes, cause in (({"state": None}, "stale_arm_state"), ({"perception_ok": False}, "stale_perception")):
        guard = ArmGuard()
        guard.step(situation(SLOW, 0.0))
        assert guard.step(situation(SLOW, 0.08, **changes)) == ArmDecision(STILL, 0.0, (cause,), False)
        assert guard.step(situation(SLOW, 0.08)).causes == ()


def test_causes_have_an_order_of_precedence():
    guard = ArmGuard()
    everything = situation(
        (math.nan,) * 7, state=None, perception_ok=False, command_valid=False, operator=("emergency_stop", "disengage")
    )
    assert guard.step(everything).causes == ("emergency_stop",)
    standing = dataclasses.replace(everything, state=reading(), operator=("reset",))
    assert guard.step(standing).causes == ("disengaged",)
    assert guard.step(dataclasses.replace(everything, operator=("engage",))).causes == ("stale_arm_state",)
    assert guard.step(dataclasses.replace(standing, operator=())).causes == ("stale_policy",)
    valid = dataclasses.replace(standing, operator=(), command_valid=True)
    assert guard.step(valid).causes == ("not_finite",)
    assert guard.step(dataclasses.replace(valid, command=(SLOW, 0.0))).causes == ("stale_perception",)


def test_emergency_stop_latches_until_a_reset_at_standstill():
    guard = ArmGuard()
    guard.step(situation(SLOW))
    decision = guard.step(situation(SLOW, operator=("emergency_stop",)))
    assert decision == ArmDecision(STILL, 0.08, ("emergency_stop",), True)
    creeping = reading(joint_velocity_radps=np.array([0.0, 0.0, 0.0, 0.0, 0.0, -0.02, 0.0]))
    for word, state in (("engage", reading()), ("reset", creeping), ("reset", None), ("order", reading())):
        assert guard.step(situation(SLOW, operator=(word,), state=state)).latched, word
    almost = reading(joint_velocity_radps=np.full(7, 0.019))
    decision = guard.step(situation(SLOW, operator=("reset",), state=almost))
    assert not decision.latched
    assert decision.causes == ()


def test_comes_up_latched_where_so_configured():
    guard = ArmGuard(ArmGuardSettings(start_latched=True))
    assert guard.latched
    assert guard.step(situation(SLOW)).causes == ("emergency_stop",)
    guard.step(situation(operator=("reset",)))
    assert not guard.latched
    guard.reset()
    assert guard.latched
    assert not ArmGuard().latched


def test_disengaged_means_a_stop_until_engaged_again():
    guard = ArmGuard()
    guard.step(situation(SLOW, 0.0))
    decision = guard.step(situation(SLOW, 0.08, operator=("disengage",)))
    assert decision == ArmDecision(STILL, 0.0, ("disengaged",), False)
    assert guard.step(situation(SLOW)).causes == ("disengaged",)
    assert guard.step(situation(SLOW, operator=("engage",))).causes == ()


def test_reset_forgets_everything():
    guard = ArmGuard()
    pressing = reading(gripper_force_n=200.0)
    for _ in range(4):
        guard.step(situation(SLOW, 0.0, state=pressing, operator=("emergency_stop", "disengage")))
    guard.reset()
    assert guard.step(situation(None)) == ArmGuard().step(situation(None))
    guard.reset()
    assert guard.step(situation(SLOW, 0.0, state=pressing)) == ArmGuard().step(situation(SLOW, 0.0, state=pressing))


def test_a_disabled_guard_checks_only_that_commands_are_finite():
    guard = ArmGuard(ArmGuardSettings(enabled=False))
    wild = (9.0,) * 7
    assert guard.step(situation(wild, 0.5, perception_ok=False)) == ArmDecision(wild, 0.5, (), False)
    assert guard.step(situation((math.inf,) * 7)).causes == ("not_finite",)
    assert guard.step(situation(wild, operator=("emergency_stop",))).causes == ("emergency_stop",)


@pytest.mark.parametrize(
    ("width", "sent", "acts"),
    [(-0.01, 0.0, True), (0.081, 0.08, True), (0.0804, 0.08, False), (-0.0004, 0.0, False), (1e300, 0.08, True)],
)
def test_widths_are_those_of_the_gripper(width: float, sent: float, acts: bool):
    decision = ArmGuard().step(situation(SLOW, width))
    assert decision.gripper_width_m == sent
    assert decision.causes == (("limit_gripper",) if acts else ())


def test_fingers_that_press_too_hard_for_too_long_close_no_further():
    guard = ArmGuard()
    hard, soft = (reading(gripper_force_n=force) for force in (70.1, 70.0))
    for _ in range(3):
        assert guard.step(situation(STILL, 0.0, state=hard)).gripper_width_m == 0.0
    decision = guard.step(situation(STILL, 0.0, state=hard))
    assert (decision.gripper_width_m, decision.causes) == (0.05, ("limit_gripper",))
    assert guard.step(situation(STILL, 0.06, state=hard)).causes == ()  # opening helps
    assert guard.step(situation(STILL, 0.0, state=soft)).gripper_width_m == 0.0
    assert guard.step(situation(STILL, 0.0, state=hard)).gripper_width_m == 0.0
    wide = reading(gripper_force_n=99.0, gripper_width_m=0.2)
    for _ in range(4):
        decision = guard.step(situation(STILL, 0.0, state=wide))
    assert decision.gripper_width_m == LIMITS.gripper_width_m


def test_names_the_limit_that_the_way_to_rest_would_break():
    down = tool_twist(0.0, 0.0, -0.7, 0.0)
    guard = ArmGuard()
    position, sent, waiting, causes = REST, np.zeros(7), np.zeros(7), []
    for _ in range(12):
        state = reading(joint_position_rad=position, joint_velocity_radps=sent)
        decision = guard.step(situation(down, state=state))
        new = np.array(decision.joint_velocity_radps)
        position, sent = position + 0.5 * CONTROL_PERIOD_S * (waiting + sent), waiting
        waiting = new
        causes += decision.causes
    assert "limit_workspace" in causes
    assert "collision_belt" in causes
    assert 0.01 <= forward(position[None]).position_m[0, 2] < 0.03
    assert abs(jacobian(position[None])[0, 2] @ sent) < 0.1  # it slides on along the border


def test_longer_steps_may_change_more():
    wanted = (1.0, *STILL[1:6], -3.0)
    short, long = (ArmGuard().step(situation(wanted, dt_s=dt)).joint_velocity_radps[0] for dt in (0.1, 0.2))
    assert 0.0 < short < long


@pytest.mark.parametrize("name", ["heartbeat_s", "standstill_radps"])
def test_settings_that_must_be_positive(name: str):
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"expected {name} > 0, got {bad}"):
            ArmGuardSettings(**{name: bad})


@pytest.mark.parametrize("name", ["tool_tolerance", "overload_s", "speed_noise_radps", "width_noise_m"])
def test_settings_that_must_not_be_negative(name: str):
    ArmGuardSettings(**{name: 0.0})
    for bad in (-1e-6, math.nan):
        with pytest.raises(ValueError, match=f"expected {name} >= 0, got {bad}"):
            ArmGuardSettings(**{name: bad})
