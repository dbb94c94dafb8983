"""Nodes in one process: order, lags, headers, digests, chains."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from visuomotor.messages.graph import Chain, Graph, GraphError, step_order
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.schema import Command, Episode, Message, Operator, VehicleState
from visuomotor.messages.wire import WireError

NAMES = ("guard", "driver", "eye", "world")


def run(graph: Graph, seed: int, index: int = 0, engage: bool = True) -> list[dict[str, Message]]:
    graph.reset(Episode(phase="reset", index=index, seed=seed))
    if engage:
        graph.post("operator", Operator(kind="engage"))
    ticks = []
    while sent := graph.tick():
        ticks.append(sent)
    return ticks


def test_ticks_run_in_order_whatever_the_order_given(toys: ModuleType) -> None:
    graph = Graph([toys.make(name) for name in NAMES])
    assert [node.name for node in graph.nodes] == ["world", "eye", "driver", "guard"]
    ticks = run(graph, 7)
    assert len(ticks) == 20
    assert set(ticks[0]) == {"camera_front", "vehicle_state", "truth", "detections", "policy_command", "command"}
    world = graph.nodes[0]
    assert world.seen == [(k, k - 2 if k >= 2 else None) for k in range(20)]  # type: ignore[attr-defined]


def test_headers(toys: ModuleType) -> None:
    ticks = run(Graph([toys.make(name) for name in NAMES], run_id="r"), 7, index=3)
    header = ticks[5]["command"].header
    assert (header.run_id, header.episode, header.tick, header.seq) == ("r", 3, 5, 5)
    assert header.t_capture_ns == 500_000_000
    assert header.parents == {"policy_command": 5, "vehicle_state": 5}
    assert ticks[0]["command"].header.parents == {"policy_command": 0, "vehicle_state": 0, "operator": 0}
    assert ticks[5]["vehicle_state"].header.parents == {"command": 3}
    assert ticks[5]["detections"].header.valid
    assert not ticks[5]["command"].header.valid


def test_same_seed_same_digest_alone_and_as_the_third_of_five(toys: ModuleType) -> None:
    alone = Graph([toys.make(name) for name in NAMES], run_id="a")
    run(alone, 7)
    many = Graph([toys.make(name) for name in NAMES], run_id="b")
    digests = []
    for index, seed in enumerate((3, 4, 7, 8, 7)):
        run(many, seed, index)
        digests.append(many.digest())
    assert digests[2] == digests[4] == alone.digest()
    assert len(set(digests)) == 4
    assert set(many.topic_digests()) == {
        "camera_front",
        "command",
        "detections",
        "operator",
        "policy_command",
        "truth",
        "vehicle_state",
    }


def test_digest_sees_one_bit(toys: ModuleType) -> None:
    first, second = (Graph([toys.make(name) for name in NAMES]) for _ in range(2))
    run(first, 7)
    run(second, 7, engage=False)
    assert first.topic_digests()["command"] != second.topic_digests()["command"]
    # the commands act from tick 2 on, the first frames are the same
    assert first.topic_digests()["vehicle_state"] != second.topic_digests()["vehicle_state"]
    assert first.topic_digests()["camera_front"] == second.topic_digests()["camera_front"]


def test_chain_gives_the_same_commands(toys: ModuleType) -> None:
    apart = Graph([toys.make(name) for name in NAMES])
    chain = Chain("mind", [toys.make("driver"), toys.make("eye")])
    assert [i.service for i in chain.inputs] == ["camera_front", "vehicle_state"]
    assert [i.trigger for i in chain.inputs] == [True, False]
    assert chain.outputs == ("detections", "policy_command")
    assert chain.provider == "ToyProvider"
    together = Graph([toys.make("guard"), chain, toys.make("world")])
    run(apart, 7)
    run(together, 7)
    assert together.digest() == apart.digest()
    assert [name for name, _, _ in chain.stages] == ["eye", "eye.look", "driver"]


class Echo:
    """Reads one service, writes another."""

    period_s = None

    def __init__(self, name: str, source: Input, output: str) -> None:
        self.name, self.inputs, self.outputs = name, (source,), (output,)
        self.samples: list[Any] = []
        self.reply: dict[str, Message] | None = None

    def warm_up(self) -> None: ...

    def reset(self, episode: Episode) -> None: ...

    def close(self) -> None:
        if self.name == "broken":
            raise OSError("device is gone")

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        self.samples.append(inputs[self.inputs[0].service])
        return {self.outputs[0]: Command()} if self.reply is None else self.reply


def test_a_loop_without_lag_is_refused_by_name() -> None:
    a, b = Echo("a", Input("command"), "policy_command"), Echo("b", Input("policy_command"), "command")
    with pytest.raises(GraphError, match="a, b: each waits"):
        step_order([a, b])


def test_two_publishers_are_refused_by_name() -> None:
    with pytest.raises(GraphError, match="command: published by both a and b"):
        Graph([Echo("a", Input("tracks"), "command"), Echo("b", Input("tracks"), "command")])


def test_missing_input_names_node_service_and_tick() -> None:
    graph = Graph([Echo("a", Input("vehicle_state"), "command")])
    with pytest.raises(GraphError, match="tick before reset"):
        graph.tick()
    graph.reset(Episode(phase="reset"))
    graph.post("vehicle_state", VehicleState())
    assert set(graph.tick()) == {"command"}
    with pytest.raises(GraphError, match="a: nobody sent vehicle_state for tick 1"):
        graph.tick()


def test_output_that_was_not_declared_is_refused() -> None:
    echo = Echo("a", Input("vehicle_state"), "command")
    echo.reply = {"policy_command": Command()}
    graph = Graph([echo])
    graph.reset(Episode(phase="reset"))
    graph.post("vehicle_state", VehicleState())
    with pytest.raises(WireError, match="a: published policy_command, which is not among its outputs"):
        graph.tick()


def test_silence_is_none_for_the_reader_at_that_tick() -> None:
    silent, reader = Echo("a", Input("vehicle_state"), "command"), Echo("b", Input("command"), "policy_command")
    reader.reply = {}
    graph = Graph([reader, silent])
    graph.reset(Episode(phase="reset"))
    for reply in (None, {}, None):
        silent.reply = reply
        graph.post("vehicle_state", VehicleState())
        graph.tick()
    assert [sample.message is None for sample in reader.samples] == [False, True, False]
    assert [sample.updated for sample in reader.samples] == [True, False, True]
    assert [sample.alive for sample in reader.samples] == [True, False, True]


def test_readers_cannot_change_what_others_read(toys: ModuleType) -> None:
    sent = run(Graph([toys.make(name) for name in NAMES]), 7)[0]
    image = sent["camera_front"].image  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0
    assert isinstance(image, np.ndarray)


def test_close_closes_all_and_tells_of_the_broken_one(toys: ModuleType) -> None:
    world = toys.make("world")
    graph = Graph([world, Echo("broken", Input("command"), "policy_command")])
    with pytest.raises(OSError, match="device is gone"):
        graph.close()
    assert world.closed
