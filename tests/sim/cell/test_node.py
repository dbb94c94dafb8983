"""The world node of picking in a graph: messages, repeating, orders, watchdog, configuration."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet")

from visuomotor.control.arm.config import CELL, CLASS_NAMES, JOINTS, REST_RAD
from visuomotor.control.arm.kinematics import forward
from visuomotor.messages.graph import Graph
from visuomotor.messages.node import Input, Inputs, Sample, Tick
from visuomotor.messages.schema import Command, Episode, Header, Operator
from visuomotor.messages.services import SERVICES
from visuomotor.sim.cell.cell import MANOEUVRES
from visuomotor.sim.cell.node import create
from visuomotor.sim.cell.scenario import cell_case

TOP = str(Path(__file__).parents[3] / "launch" / "profiles" / "pick" / "camera_top.yaml")


class Mover:
    """Sends a fixed command for each tick."""

    name = "guard"
    inputs = (Input("arm_state"),)
    outputs = ("command",)
    period_s = None

    def __init__(self, speed):
        self.speed = speed

    def warm_up(self):
        pass

    def reset(self, episode):
        pass

    def step(self, tick, inputs):
        velocity = (self.speed(tick.tick),) * JOINTS
        header = Header(valid=True)
        return {"command": Command(header=header, joint_velocity_radps=velocity, gripper_width_m=0.05)}

    def close(self):
        pass


class Person:
    """Says things at their ticks."""

    name = "operator"
    inputs = ()
    outputs = ("operator",)
    period_s = 0.1

    def __init__(self, words):
        self.words = words

    def warm_up(self):
        pass

    def reset(self, episode):
        pass

    def step(self, tick, inputs):
        said = self.words.get(tick.tick)
        return {} if said is None else {"operator": Operator(header=Header(valid=True), kind=said[0], text=said[1])}

    def close(self):
        pass


def episode(seed, index=0):
    return Episode(phase="reset", index=index, seed=seed, task="pick", suite="pick-v1")


def run(graph, seed, ticks, index=0):
    graph.reset(episode(seed, index))
    sent = [graph.tick() for _ in range(ticks)]
    return sent, graph.digest()


@pytest.fixture(scope="module")
def blind():
    node = create({"suite": "pick-v1", "split": "evaluation", "cameras": [TOP], "render": False})
    yield node
    node.close()


def test_outputs_are_services_and_the_frame_comes_with_a_camera(blind):
    assert blind.outputs == ("arm_state", "order", "truth")
    seeing = create({"cameras": [TOP], "render": True})
    assert seeing.outputs == ("arm_state", "order", "truth", "camera_top")
    assert set(seeing.outputs) <= set(SERVICES)
    seeing.warm_up()
    sent, digest = run(Graph([seeing, Mover(lambda tick: 0.1)]), 7, 3)
    image = sent[-1]["camera_top"].image
    assert image.shape == (224, 384, 3)
    assert image.std() > 10.0
    assert run(Graph([seeing, Mover(lambda tick: 0.1)]), 7, 3)[1] == digest
    assert {name for name, _, _ in seeing.stages} == {"physics", "render_top"}
    seeing.close()


def test_state_order_and_truth_of_the_first_tick(blind):
    sent, _ = run(Graph([blind, Mover(lambda tick: 0.0)]), 7, 1)
    state, order, truth = sent[0]["arm_state"], sent[0]["order"], sent[0]["truth"]
    case = cell_case("pick-v1", "evaluation", 7)
    np.testing.assert_allclose(state.joint_position_rad, REST_RAD, atol=1e-3)
    np.testing.assert_allclose(state.base_link_points_m[0], 0.0)
    np.testing.assert_allclose(
        state.base_link_points_m[-1], forward(np.asarray(state.joint_position_rad)[None]).position_m[0], atol=1e-5
    )
    assert tuple(order.wanted) == case.orders[0].total
    assert all(case.bin_index[i] == b for i, b in enumerate(order.bin_index) if b >= 0)
    np.testing.assert_allclose(order.base_bin_m[:, :2], CELL.bin_centre_m, atol=1e-6)
    assert order.bin_size_m == CELL.bin_size_m[:2]
    assert order.refused == ""
    assert state.header.valid
    assert order.header.valid
    assert truth.header.valid
    there = [a for a in case.arrivals if a.start_y_m <= 1.2]
    assert truth.agent_id.tolist() == list(range(len(there)))
    assert truth.class_id.tolist() == [a.part.class_id for a in there]
    assert truth.kinds == tuple(a.kind for a in there)
    assert set(truth.manoeuvre) <= set(MANOEUVRES)
    np.testing.assert_allclose(truth.map_position_m[:, 0], [a.x_m for a in there], atol=1e-4)
    np.testing.assert_allclose(truth.height_m, [0.5 * a.part.size_m[2] for a in there], atol=1e-4)
    assert truth.events == case.events
    assert len(truth.size_m) == len(truth.map_velocity_mps) == len(there)


def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(blind):
    graph = Graph([blind, Mover(lambda tick: 0.1)])
    alone = run(graph, 7, 12)[1]
    run(graph, 3, 5)
    run(graph, 4, 5)
    assert run(graph, 7, 12)[1] == alone
    assert run(graph, 8, 12)[1] != alone


def test_a_command_of_tick_k_acts_from_tick_k_plus_one(blind):
    sent, _ = run(Graph([blind, Mover(lambda tick: 0.2 if tick >= 3 else 0.0)]), 7, 8)
    speed = [float(np.abs(out["arm_state"].joint_velocity_radps[:3]).mean()) for out in sent]
    assert max(speed[:5]) < 0.02
    assert min(speed[5:]) > 0.15


def test_without_commands_the_arm_stands_still_after_the_hold_time(blind):
    blind.reset(episode(7))
    for tick in range(14):
        sample = Sample()
        if tick == 1:
            message = Command(header=Header(valid=True), joint_velocity_radps=(0.3,) * JOINTS, gripper_width_m=0.03)
            sample = Sample(message=message, messages=(message,), updated=True)
        inputs = Inputs(command=sample, operator=Sample())
        out = blind.step(Tick(episode=0, tick=tick, t_ns=tick * 100_000_000, clock="lockstep"), inputs)
        speed = float(np.abs(out["arm_state"].joint_velocity_radps).max())
        if tick in (2, 3):
            assert speed > 0.25
    assert speed < 0.02
    assert abs(out["arm_state"].gripper_width_m - 0.03) < 0.003


def test_the_operators_order_is_taken_and_a_bad_one_refused_with_its_reason(blind):
    words = {2: ("order", "red cube, 2 ducks"), 4: ("order", "3 unicorns"), 6: ("engage", ""), 8: ("order", "brick")}
    sent, _ = run(Graph([Person(words), blind, Mover(lambda tick: 0.0)]), 7, 11)
    orders = [out["order"] for out in sent]
    told = next(o for o in orders if o.wanted[4] == 2)
    assert told.wanted[0] >= 1
    assert told.bin_index[0] == 0
    assert told.bin_index[4] == 1
    assert told.refused == ""
    refused = next(o for o in orders if o.refused)
    assert "unicorns" in refused.refused
    assert "red cube" in refused.refused  # what is known
    assert refused.wanted[4] == 2
    assert orders[-1].refused == ""
    assert np.flatnonzero(orders[-1].wanted).tolist() == [CLASS_NAMES.index("brick")]


def test_the_profiles_order_replaces_the_cases_and_changes_at_its_times():
    node = create({"order": "2 yellow balls", "order_changes": [{"at_s": 0.4, "text": "duck, 3 bricks"}]})
    sent, _ = run(Graph([node, Mover(lambda tick: 0.0)]), 7, 6)
    wanted = [out["order"].wanted.tolist() for out in sent]
    assert wanted[0] == wanted[3] == [0, 0, 0, 2, 0, 0]
    assert wanted[4][3] == 0
    assert wanted[4][5] == 3
    again, _ = run(Graph([node, Mover(lambda tick: 0.0)]), 7, 1)
    assert again[0]["order"].wanted.tolist() == wanted[0]
    node.close()


def test_a_longest_duration_ends_the_shift():
    node = create({"max_duration_s": 0.3})
    sent, _ = run(Graph([node, Mover(lambda tick: 0.0)]), 7, 5)
    assert [out["truth"].end for out in sent if out] == ["", "", "", "timeout"]
    node.close()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"suite": "drive-v1"}, "suite: expected one of pick-v1"),
        ({"split": "test"}, "split: expected one of"),
        ({"order": "unicorn"}, "order: unknown part 'unicorn'"),
        ({"order": 3}, "order: expected text"),
        ({"order_changes": ["duck"]}, "order_changes: expected entries"),
        ({"order_changes": [{"at_s": 1.0}]}, "order_changes: expected entries"),
        ({"order_changes": [{"at_s": -1.0, "text": "duck"}]}, "at_s: expected at least 0 s"),
        ({"order_changes": [{"at_s": 1.0, "text": "unicorn"}]}, "unknown part 'unicorn'"),
        ({"cameras": "camera_top.yaml"}, "cameras: expected a list"),
    ],
)
def test_a_bad_configuration_names_its_key(config, words):
    with pytest.raises(ValueError, match=words):
        create(config)
