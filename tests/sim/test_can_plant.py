"""The PyBullet car and the vehicle's node with a real CAN bus (UDP multicast) between them, stepped by hand."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("can")

from visuomotor.deploy.vehicle import can_node
from visuomotor.deploy.vehicle.can_codec import CanError
from visuomotor.messages.node import Inputs, Sample, Tick
from visuomotor.messages.schema import Command, Episode, Header, Operator, Truth, VehicleState
from visuomotor.sim import can_plant

EPISODE = Episode(phase="reset", suite="drive-v1", split="tune", seed=3)


class Loop:
    """One tick at a time: the plant drives 0.1 s, its frames arrive, the node sends the next command."""

    def __init__(self, *driver: dict[str, object], start_engaged: bool = False) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        options = {"port": port, "hop_limit": 0, "fd": False}
        can = {"interface": "udp_multicast", "channel": "239.74.163.2", "options": options}
        self.plant = can_plant.create({"split": "tune", "can": can, "driver": list(driver)})
        self.node = can_node.create({**can, "navigation": True, "start_engaged": start_engaged})
        self.plant.reset(EPISODE)
        self.node.reset(EPISODE)
        self.words: list[str] = []
        self.tick = 0

    def step(self, command: tuple[float, float] | None) -> tuple[Truth, VehicleState]:
        """Truth and the state that came over CAN at the same tick."""
        before = self.node.link.newest("DRIVER")
        outputs = self.plant.step(Tick(0, self.tick, self.tick * 10**8, "realtime"), Inputs())
        assert "vehicle_state" not in outputs
        until(lambda: self.node.link.newest("DRIVER") is not before)
        message = None
        if command is not None:
            message = Command(header=Header(valid=True), acceleration_mps2=command[0], steering_angle_rad=command[1])
        inputs = Inputs(
            {"command": Sample(message=message, updated=message is not None), "route": Sample(message=outputs["route"])}
        )
        heard = self.plant.link.newest("COMMAND")
        sent = self.node.step(Tick(0, self.tick, time.monotonic_ns(), "realtime"), inputs)
        until(lambda: self.plant.link.newest("COMMAND") is not heard)
        if isinstance(word := sent.get("operator"), Operator):
            self.words.append(word.kind)
        self.tick += 1
        truth, state = outputs["truth"], sent["vehicle_state"]
        assert isinstance(truth, Truth)
        assert isinstance(state, VehicleState)
        return truth, state

    def run(self, command: tuple[float, float] | None, ticks: int) -> np.ndarray:
        """Speeds after each of some ticks."""
        return np.array([self.step(command)[0].speed_mps for _ in range(ticks)])

    def close(self) -> None:
        self.node.close()
        self.plant.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        os.sched_yield()


@pytest.fixture
def loop() -> Iterator[Callable[..., Loop]]:
    made: list[Loop] = []

    def make(*driver: dict[str, object], **more: bool) -> Loop:
        made.append(Loop(*driver, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_state_that_comes_over_can_is_the_cars(loop: Callable[..., Loop]):
    car = loop(start_engaged=True)
    for _ in range(10):
        truth, state = car.step((0.5, 0.01))
    sensors = car.plant.sensors
    assert state.speed_mps == pytest.approx(float(sensors.speed_mps[0]), abs=0.001)
    assert state.steering_angle_rad == pytest.approx(float(sensors.steering_angle_rad[0]), abs=5e-5)
    assert (state.odom_x_m, state.odom_y_m) == pytest.approx(tuple(sensors.odom_pose[0, :2]), abs=0.002)
    assert state.speed_mps == pytest.approx(truth.speed_mps, abs=0.3)
    assert not car.node.link.faults
    assert not car.plant.link.faults


def test_the_car_obeys_only_while_engaged_and_the_driver_brakes_it(loop: Callable[..., Loop]):
    car = loop({"signal": "EngageButton", "at_s": 1.0}, {"signal": "BrakePedal", "at_s": 2.0, "for_s": 2.0})
    rolling = car.run((-3.5, 0.0), 10)
    assert rolling[-1] > rolling[0] - 0.5, "not engaged: the command to brake is not obeyed"
    driving = car.run((1.0, 0.0), 9)
    assert driving[-1] > driving[0] + 0.3
    braking = car.run((2.0, 0.0), 12)
    assert braking[-1] < driving[-1] - 2.0, "the driver wins over a command to go on"
    assert car.words == ["disengage", "engage", "disengage"]


def test_a_car_that_hears_nothing_stops(loop: Callable[..., Loop]):
    car = loop(start_engaged=True)
    speeds = car.run((1.0, 0.0), 10)
    car.node.close()
    stopped = []
    for _ in range(80):
        outputs = car.plant.step(Tick(0, car.tick, 0, "realtime"), Inputs())
        truth = outputs["truth"]
        assert isinstance(truth, Truth)
        stopped.append(truth.speed_mps)
        car.tick += 1
    assert speeds[-1] > 1.0
    assert stopped[-1] == pytest.approx(0.0, abs=0.1)


def test_a_press_of_a_button_that_is_not_there_is_named():
    can = {"interface": "udp_multicast", "channel": "239.74.163.2", "options": {"hop_limit": 0}}
    with pytest.raises(CanError, match="DRIVER has no signal Horn; expected one of BrakePedal"):
        can_plant.create({"can": can, "driver": [{"signal": "Horn", "at_s": 1.0}]})
