from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Input, Inputs, Sample, Tick
from visuomotor.messages.schema import Command, Episode, Header, Truth
from visuomotor.messages.services import SERVICES
from visuomotor.sim.drive import DT_S
from visuomotor.sim.node import WorldNode, create

PROFILE = Path(__file__).parents[2] / "launch" / "profiles" / "drive"
CAMERAS = [str(PROFILE / f"camera_{name}.yaml") for name in ("front", "left", "right")]


class Driver:
    """Sends a fixed command for each tick."""

    name = "guard"
    inputs = (Input("vehicle_state"),)
    outputs = ("command",)
    period_s = None

    def __init__(self, acceleration_mps2):
        self.acceleration_mps2 = acceleration_mps2

    def warm_up(self):
        pass

    def reset(self, episode):
        pass

    def step(self, tick, inputs):
        return {"command": Command(header=Header(valid=True), acceleration_mps2=self.acceleration_mps2(tick.tick))}

    def close(self):
        pass


def episode(seed, index=0, **more):
    return Episode(phase="reset", index=index, seed=seed, **more)


def run(graph, seed, ticks, index=0):
    graph.reset(episode(seed, index))
    sent = [graph.tick() for _ in range(ticks)]
    return sent, graph.digest()


@pytest.fixture(scope="module")
def blind():
    node = create({"suite": "drive-v1", "split": "evaluation", "cameras": CAMERAS, "render": False})
    yield node
    node.close()


@pytest.fixture(scope="module")
def seeing():
    node = create({"suite": "drive-v1", "split": "evaluation", "cameras": CAMERAS, "render": True})
    node.warm_up()
    yield node
    node.close()


def test_outputs_are_services_front_frame_last_and_none_without_rendering(seeing, blind):
    assert seeing.outputs == ("vehicle_state", "route", "truth", "camera_left", "camera_right", "camera_front")
    assert blind.outputs == ("vehicle_state", "route", "truth")
    assert set(seeing.outputs) <= set(SERVICES)


def test_frames_and_state_of_the_first_tick(seeing):
    graph = Graph([seeing, Driver(lambda tick: 0.0)])
    graph.reset(episode(7))
    sent = graph.tick()
    assert sent["camera_front"].image.shape == (224, 384, 3)
    assert sent["camera_left"].image.shape == sent["camera_right"].image.shape == (96, 320, 3)
    state, truth, route = sent["vehicle_state"], sent["truth"], sent["route"]
    assert all(m.header.valid for m in sent.values() if m is not sent["command"])
    assert (state.odom_x_m, state.odom_y_m, state.odom_yaw_rad) == (0.0, 0.0, 0.0)
    assert truth.odom_ego_pose == (0.0, 0.0, 0.0)
    assert abs(state.speed_mps - truth.speed_mps) < 0.3
    assert truth.progress_m == 0.0
    assert truth.end == ""
    assert len(truth.manoeuvre) == len(truth.agent_id) == len(truth.size_m) > 0
    lane = truth.lane_position_m  # the reference line runs that far to the right of the car
    beside = route.odom_reference_m[np.argmin(np.abs(route.odom_reference_m[:, 0]))]
    assert beside[1] == pytest.approx(-lane, abs=0.6)


def test_stage_timings_name_physics_and_every_camera(seeing):
    graph = Graph([seeing, Driver(lambda tick: 0.0)])
    graph.reset(episode(7))
    graph.tick()
    graph.tick()
    assert [name for name, _, _ in seeing.stages] == ["physics", "render_left", "render_right", "render_front"]
    assert all(end >= start for _, start, end in seeing.stages)


def test_frames_carry_the_simulation_time_of_their_tick(seeing):
    graph = Graph([seeing, Driver(lambda tick: 0.0)])
    graph.reset(episode(3))
    sent = [graph.tick() for _ in range(3)]
    assert [s["camera_front"].header.t_capture_ns for s in sent] == [0, 100_000_000, 200_000_000]
    assert sent[2]["vehicle_state"].header.t_capture_ns == 200_000_000


def test_a_command_from_tick_k_acts_from_tick_k_plus_1_on(blind):
    """Only the command of tick 3 brakes; the step from tick 4 to tick 5 must be the first that slows the car."""
    braking, _ = run(Graph([blind, Driver(lambda tick: -3.5 if tick >= 3 else 0.0)]), 5, 8)
    rolling, _ = run(Graph([blind, Driver(lambda tick: 0.0)]), 5, 8)
    difference = [r["truth"].speed_mps - b["truth"].speed_mps for r, b in zip(rolling, braking, strict=True)]
    assert np.allclose(difference[:5], 0.0, atol=1e-12)
    assert difference[5] > 1e-4
    assert difference[7] > difference[6] > difference[5]


def test_same_seed_same_bytes_also_as_a_later_episode(seeing):
    graph = Graph([seeing, Driver(lambda tick: 0.5)])
    _, alone = run(graph, 7, 6)
    _, other = run(graph, 8, 6, index=1)
    _, again = run(graph, 7, 6, index=2)
    assert alone == again
    assert other != alone


def test_without_commands_the_watchdog_brakes_to_a_standstill(blind):
    blind.reset(episode(11))
    speeds = []
    for k in range(120):
        out = blind.step(Tick(0, k, round(k * DT_S * 1e9), "lockstep"), Inputs(command=Sample()))
        speeds.append(out["truth"].speed_mps)
        if out["truth"].end:
            break
    assert speeds[3] > 0.9 * speeds[0]  # held at first
    assert speeds[-1] < 0.1
    assert blind.watchdog.tripped


def test_the_state_is_frozen_after_the_end(blind):
    blind.reset(episode(2))
    hard_left = Command(header=Header(valid=True), acceleration_mps2=1.0, steering_angle_rad=0.4)
    after: list[Truth] = []
    for k in range(80):
        sample = Sample(message=hard_left, updated=True)
        truth = blind.step(Tick(0, k, round(k * DT_S * 1e9), "lockstep"), Inputs(command=sample))["truth"]
        if truth.end:
            after.append(truth)
    assert after[0].end in ("offroad", "collision")
    assert len(after) > 3
    assert {t.map_ego_pose for t in after} == {after[0].map_ego_pose}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"suite": "drive-v0"}, "suite: expected one of drive-v1, got 'drive-v0'"),
        ({"split": "test"}, "split: expected one of train, tune, evaluation, got 'test'"),
        ({"cameras": "camera_front.yaml"}, "cameras: expected a list of calibration files"),
        ({"cameras": ["/nowhere/camera.yaml"]}, "/nowhere/camera.yaml: calibration cannot be read"),
    ],
)
def test_bad_configuration_is_named(config, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        create(config)


def test_unknown_suite_of_an_episode_is_refused(blind):
    with pytest.raises(ValueError, match="drive-v9"):
        blind.reset(episode(0, suite="drive-v9"))


def test_node_satisfies_the_protocol(blind):
    assert isinstance(blind, WorldNode)
    assert blind.period_s == DT_S
    assert blind.inputs == (Input("command", lag=2),)
