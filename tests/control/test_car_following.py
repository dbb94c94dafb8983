from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.control.baselines import idm_acceleration, mobil_change, mobil_incentive, mobil_safe

PARAMETERS = {
    "max_acceleration_mps2": 1.5,
    "comfortable_deceleration_mps2": 2.0,
    "time_headway_s": 1.5,
    "min_gap_m": 2.0,
}


def idm(speed: float, gap: float, leader: float, desired: float = 30.0) -> float:
    return float(idm_acceleration(speed, desired, gap, leader, **PARAMETERS))


def test_free_road():
    assert idm(0.0, np.inf, 0.0) == 1.5
    assert idm(30.0, np.inf, 0.0) == pytest.approx(0.0)
    assert idm(15.0, np.inf, 99.0) == pytest.approx(1.5 * (1 - 0.5**4))
    assert idm(40.0, np.inf, 0.0) < -1.0


def test_equilibrium_gap_of_the_paper():
    """At equal speeds the gap is s* / sqrt(1 - (v / v0)^4), Treiber 2000, equation 6."""
    for speed in (5.0, 15.0, 25.0):
        gap = (2.0 + 1.5 * speed) / np.sqrt(1.0 - (speed / 30.0) ** 4)
        assert idm(speed, gap, speed) == pytest.approx(0.0, abs=1e-9)
        assert idm(speed, 0.9 * gap, speed) < 0.0 < idm(speed, 1.1 * gap, speed)


def test_standing_obstacle_is_approached_with_the_comfortable_deceleration():
    speed, gap, lowest = 14.0, 80.0, 0.0
    for _ in range(3000):
        a = idm(speed, gap, 0.0, desired=14.0)
        lowest = min(lowest, a)
        moved = max(speed + a * 0.01, 0.0)
        gap -= 0.5 * (speed + moved) * 0.01
        speed = moved
    assert -3.0 < lowest < -1.5
    assert 1.0 < gap < 3.0
    assert speed < 0.1


@given(st.floats(0, 50), st.floats(-10, 500), st.floats(0, 50), st.floats(0, 50))
def test_bounded_and_monotone_in_the_gap(speed: float, gap: float, leader: float, desired: float):
    a = idm(speed, gap, leader, desired)
    assert -9.0 <= a <= 1.5
    assert idm(speed, gap + 5.0, leader, desired) >= a
    assert idm(speed, gap, leader + 1.0, desired) >= a


def test_mobil_needs_incentive_and_safety():
    assert float(mobil_incentive(1.0, -0.5, 0.25, politeness=0.2)) == pytest.approx(0.95)
    np.testing.assert_array_equal(mobil_safe(np.array([-3.0, -3.01, 1.0])), [True, False, True])
    assert mobil_change(1.0, 0.0, 0.0, -1.0)
    assert not mobil_change(1.0, 0.0, 0.0, -3.5)
    assert not mobil_change(0.05, 0.0, 0.0, 0.0)
    assert mobil_change(0.05, 0.0, 0.0, 0.0, bias_mps2=0.2)
    assert not mobil_change(1.0, -8.0, 0.0, -2.0)  # polite: the other would lose too much
    assert mobil_change(1.0, -8.0, 0.0, -2.0, politeness=0.0)
