from __future__ import annotations

import math

import pytest

from visuomotor.control.supervision import ROUNDING_S, Heartbeat, HoldTimer, OperatorLatch, StepTimer


def test_a_latch_opens_by_a_reset_at_standstill_alone():
    latch = OperatorLatch(False)
    assert (latch.latched, latch.engaged) == (False, True)
    latch.obey(["emergency_stop"], standing=True)
    for word in ("engage", "disengage", "order", "engage"):
        latch.obey([word], standing=True)
        assert latch.latched
    latch.obey(["reset"], standing=False)
    assert latch.latched
    latch.obey(["reset"], standing=True)
    assert not latch.latched


def test_of_the_words_of_one_step_the_last_counts():
    latch = OperatorLatch(False)
    latch.obey(["reset", "emergency_stop", "engage", "disengage"], standing=True)
    assert (latch.latched, latch.engaged) == (True, False)
    latch.obey(["emergency_stop", "reset", "disengage", "engage"], standing=True)
    assert (latch.latched, latch.engaged) == (False, True)


@pytest.mark.parametrize("start", [False, True])
def test_a_latch_begins_as_configured(start: bool):
    latch = OperatorLatch(start)
    assert latch.latched is start
    latch.obey(["reset", "disengage"] if start else ["emergency_stop", "disengage"], standing=True)
    assert latch.latched is not start
    latch.reset()
    assert (latch.latched, latch.engaged) == (start, True)


def test_a_command_is_held_for_a_heartbeat():
    beat: Heartbeat[str] = Heartbeat(0.5)
    assert beat.pick(None, True, 0.0, 0.1) == (None, False)
    assert beat.pick("first", False, 0.0, 0.1) == (None, False)
    assert beat.pick("first", True, 0.5, 0.1) == ("first", False)
    assert beat.pick("second", True, 0.51, 0.1) == (None, False)
    assert beat.pick("third", True, 0.2, 0.1) == ("third", False)
    for _ in range(3):
        assert beat.pick("fourth", False, 0.0, 0.1) == ("third", True)
    assert beat.pick(None, True, 0.0, 0.1) == (None, False)
    beat.pick("fifth", True, 0.0, 0.1)
    beat.reset()
    assert beat.pick(None, False, 0.0, 0.1) == (None, False)


def test_a_heartbeat_ends_just_past_its_rounding():
    for age, expected in ((ROUNDING_S, ("a", True)), (2.0 * ROUNDING_S, (None, False))):
        beat: Heartbeat[str] = Heartbeat(0.5)
        beat.pick("a", True, age, 0.1)
        assert beat.pick(None, False, math.inf, 0.5) == expected


def test_a_hold_time_begins_with_each_good_command():
    timer = HoldTimer(0.3)
    timer.reset(10.0)
    assert [timer.step(now, False) for now in (10.0, 10.3, 10.3 + 1e-6)] == [False, False, True]
    assert timer.tripped
    assert not timer.step(10.4, True)
    assert not timer.tripped
    assert not timer.step(4.0, False)  # the clock was set back
    assert timer.step(4.4, False)


def test_the_first_hold_time_begins_at_zero():
    assert [HoldTimer(1.0).step(now, False) for now in (0.5, 1.2)] == [False, True]


@pytest.mark.parametrize(("elapsed_s", "expected"), [(-1.0, 0.1), (0.05, 0.1), (0.15, 0.15), (0.2, 0.2), (9.0, 0.2)])
def test_a_step_takes_one_to_two_periods(elapsed_s: float, expected: float):
    timer = StepTimer(0.1)
    assert timer.step(10**9) == 0.1
    assert timer.step(10**9 + round(elapsed_s * 1e9)) == pytest.approx(expected)
    timer.reset()
    assert timer.step(5 * 10**9) == 0.1


@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_a_hold_time_is_no_less_than_zero(bad: float):
    with pytest.raises(ValueError, match=f"expected hold_s >= 0, got {bad}"):
        HoldTimer(bad)
