import math
from collections.abc import Iterator

import numpy as np
import pytest

from visuomotor.control.config import VEHICLE
from visuomotor.sim.car import ROLL_RAD_PER_MPS2, STEERING_RATE_RADPS, Car, CarState, attitude


@pytest.fixture(scope="module")
def car() -> Iterator[Car]:
    car = Car()
    yield car
    car.close()


def drive(car: Car, acceleration: float, angle: float, seconds: float) -> list[CarState]:
    return [car.step(acceleration, angle) for _ in range(round(seconds * 10))]


def test_stands_still(car: Car) -> None:
    car.reset(3.0, -2.0, 0.7, 0.0)
    state = drive(car, 0.0, 0.0, 10.0)[-1]
    assert math.hypot(state.x_m - 3.0, state.y_m + 2.0) < 0.01
    assert abs(state.yaw_rad - 0.7) < 1e-4
    assert abs(state.speed_mps) < 1e-3


def test_realises_the_commanded_acceleration_after_the_lag(car: Car) -> None:
    for wanted in (0.5, 2.0, -1.0, -3.5):
        car.reset(0.0, 0.0, 0.0, 14.0)
        states = drive(car, wanted, 0.0, 2.0)
        assert states[0].acceleration_mps2 == pytest.approx(wanted * 0.28, rel=0.15)  # first order, 0.15 s
        assert np.allclose([s.acceleration_mps2 for s in states[8:]], wanted, atol=0.03)


def test_holds_speed_and_line_at_15_mps(car: Car) -> None:
    car.reset(0.0, 0.0, 0.0, 15.0)
    states = drive(car, 0.0, 0.0, 20.0)
    assert states[-1].speed_mps == pytest.approx(15.0, abs=0.02)
    assert abs(states[-1].y_m) < 0.3
    assert abs(states[-1].yaw_rad) < 0.003
    assert max(abs(s.yaw_rate_radps) for s in states) < 1e-3


def test_brakes_at_8_mps2_straight_and_stays(car: Car) -> None:
    car.reset(0.0, 0.0, 0.0, 15.0)
    states = drive(car, -8.0, 0.0, 4.0)
    assert min(s.acceleration_mps2 for s in states) == pytest.approx(-8.0, abs=0.2)
    stop = next(s for s in states if s.speed_mps < 0.02)
    assert 15.0**2 / 16.0 < stop.x_m < 15.0**2 / 16.0 + 15.0 * 0.3
    assert states[-1].x_m - stop.x_m < 0.02
    assert abs(stop.y_m) < 0.05
    assert min(s.speed_mps for s in states) > -0.02  # brakes don't push it backwards


def test_cannot_brake_harder_than_the_tyres(car: Car) -> None:
    car.reset(0.0, 0.0, 0.0, 15.0)
    hardest = min(s.acceleration_mps2 for s in drive(car, -11.0, 0.0, 1.2))
    assert -10.2 < hardest < -8.5  # friction 1 times gravity


@pytest.mark.parametrize("lateral", [0.5, 1.5, 3.0, -3.0])
@pytest.mark.parametrize("speed", [5.0, 10.0, 15.0])
def test_corners_as_the_bicycle_model(car: Car, lateral: float, speed: float) -> None:
    angle = math.atan(VEHICLE.wheelbase_m * lateral / speed**2)
    car.reset(0.0, 0.0, 0.0, speed)
    states = drive(car, 0.0, angle, 4.0)
    last = states[-1]
    assert last.steering_angle_rad == pytest.approx(angle, rel=0.03, abs=5e-4)
    assert last.yaw_rate_radps == pytest.approx(last.speed_mps * math.tan(last.steering_angle_rad) / 2.7, rel=0.05)
    assert last.lateral_acceleration_mps2 == pytest.approx(lateral, rel=0.08)
    slip = math.atan2(last.lateral_speed_mps, last.speed_mps)
    assert slip == pytest.approx(math.atan(0.5 * math.tan(last.steering_angle_rad)), abs=0.02)
    assert last.speed_mps == pytest.approx(speed, rel=0.01)  # cornering costs no speed that is not asked for


def test_neither_tips_nor_hops_at_the_tyres_limit(car: Car) -> None:
    car.reset(0.0, 0.0, 0.0, 14.0)
    for angle in (0.2, -0.2, 0.2, -0.2):
        for state in drive(car, 0.0, angle, 1.5):
            (_, _, height), attitude_q = car._client.getBasePositionAndOrientation(car._body)
            roll, pitch, _ = car._client.getEulerFromQuaternion(attitude_q)
            assert abs(roll) < 0.03
            assert abs(pitch) < 0.03
            assert 0.5 < height < 0.6
            assert abs(state.lateral_acceleration_mps2) < 11.5


def test_understeers_beyond_the_grip(car: Car) -> None:
    car.reset(0.0, 0.0, 0.0, 14.0)
    last = drive(car, 0.0, 0.25, 3.0)[-1]
    assert last.yaw_rate_radps < 0.8 * last.speed_mps * math.tan(last.steering_angle_rad) / VEHICLE.wheelbase_m


def test_steering_is_rate_limited_and_bounded(car: Car) -> None:
    car.reset(0.0, 0.0, 0.0, 3.0)
    angles = [0.0] + [s.steering_angle_rad for s in drive(car, 0.0, 2.0, 3.0)]
    assert max(np.diff(angles)) <= STEERING_RATE_RADPS * 0.1 * 1.1
    assert angles[-1] == pytest.approx(VEHICLE.max_steering_angle_rad, rel=0.05)


def test_starts_from_any_pose_at_speed(car: Car) -> None:
    car.reset(100.0, -40.0, 2.0, 8.0)
    state = drive(car, 0.0, 0.0, 1.0)[-1]
    assert state.x_m == pytest.approx(100.0 + 8.0 * math.cos(2.0), abs=0.05)
    assert state.y_m == pytest.approx(-40.0 + 8.0 * math.sin(2.0), abs=0.05)


def test_a_reset_forgets_everything(car: Car) -> None:
    def run() -> list[CarState]:
        car.reset(0.0, 0.0, 0.1, 9.0)
        return [car.step(1.5 * math.sin(k), 0.1 * math.cos(0.3 * k)) for k in range(40)]

    first = run()
    car.reset(50.0, 50.0, -1.0, 15.0)
    drive(car, -8.0, 0.4, 2.0)
    assert run() == first  # bit for bit
    other = Car()
    other.reset(0.0, 0.0, 0.1, 9.0)
    assert [other.step(1.5 * math.sin(k), 0.1 * math.cos(0.3 * k)) for k in range(40)] == first
    other.close()


def test_attitude_leans_out_and_dives() -> None:
    roll = pitch = np.zeros(2)
    for _ in range(20):
        roll, pitch = attitude(roll, pitch, np.array([-3.0, 0.0]), np.array([0.0, 2.0]))
    assert pitch[0] > 0.01  # nose down when braking
    assert roll[1] == pytest.approx(2.0 * ROLL_RAD_PER_MPS2, rel=1e-3)  # right side down when turning left
    assert roll[0] == pitch[1] == 0.0


def test_connecting_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Car().close()
    assert capfd.readouterr().out == ""
