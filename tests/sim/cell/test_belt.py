"""The belt's programme."""

import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.sim.cell.belt import BeltProgram

STOP_AND_GO = BeltProgram(time_s=(0.0, 2.0, 2.5, 4.0, 4.5), speed_mps=(0.25, 0.25, 0.0, 0.0, 0.1))


def test_speed_is_linear_between_the_instants_and_constant_outside():
    np.testing.assert_allclose(STOP_AND_GO.speed(np.array([0.0, 1.0, 2.25, 3.0, 4.25, 9.0])),
                               [0.25, 0.25, 0.125, 0.0, 0.05, 0.1])  # fmt: skip
    assert STOP_AND_GO.varies
    assert not BeltProgram(speed_mps=(0.3,)).varies


@pytest.mark.parametrize("program", [STOP_AND_GO, BeltProgram(), BeltProgram(speed_mps=(0.3,))])
def test_travel_is_the_integral_of_speed(program):
    fine = np.linspace(0.0, 8.0, 80001)
    speed = program.speed(fine)
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * np.diff(fine))])
    np.testing.assert_allclose(program.travel(fine[::1000]), integral[::1000], atol=1e-6)


@pytest.mark.parametrize(
    ("time_s", "speed_mps", "words"),
    [
        ((0.0, 1.0), (0.1,), "as many speeds as instants, got 1 and 2"),
        ((1.0, 1.0), (0.1, 0.2), "ascending instants"),
        ((0.0,), (0.31,), "expected 0..0.3"),
        ((0.0,), (float("nan"),), "expected 0..0.3"),
        ((0.0,), (-0.01,), "expected 0..0.3"),
    ],
)
def test_a_programme_that_no_belt_can_run_is_refused(time_s, speed_mps, words):
    with pytest.raises(ValueError, match=words):
        BeltProgram(time_s=time_s, speed_mps=speed_mps)
