"""A person's word to a running run, over real sockets: heard, answered by the node that takes it, or refused."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from visuomotor.messages.coordinator import Coordinator
from visuomotor.messages.loop import run_node
from visuomotor.messages.network import PLAIN, RENDEZVOUS, Door, Network
from visuomotor.messages.node import Input, Inputs, Tick
from visuomotor.messages.run_directory import RunDirectory
from visuomotor.messages.schema import Episode, Header, Message, Operator, Order
from visuomotor.messages.wiring import RunPlace
from visuomotor.messages.word import Published, Word, WordError, say

TIMEOUT_S = 30.0


class Cell:
    """Says at each tick what was ordered last, as the refusal of an order."""

    name = "world"
    inputs = (Input("operator", optional=True),)
    outputs = ("order",)
    period_s: float | None = 0.02

    def warm_up(self) -> None: ...
    def close(self) -> None: ...

    def reset(self, episode: Episode) -> None:
        self.text = ""

    def step(self, tick: Tick, inputs: Inputs) -> dict[str, Message]:
        time.sleep(0.001)  # in lockstep nothing else holds it back
        for word in inputs.drain("operator", Operator):
            self.text = f"{word.kind}: {word.text}"
        none = np.zeros(0, np.int32)
        bins = np.zeros((0, 3), np.float32)
        return {
            "order": Order(
                header=Header(valid=True, t_capture_ns=tick.t_ns),
                wanted=none,
                bin_index=none,
                base_bin_m=bins,
                refused=self.text,
            )
        }


class Watch:
    """A supervisor with one node, which looks at what comes in a thread of its own, as a run does."""

    def __init__(self, place: RunPlace) -> None:
        self.place = place
        self.coordinator = Coordinator(place, ("world",), observe=("order",))
        self.stop = threading.Event()
        self.node = threading.Thread(target=run_node, args=(Cell(), place), kwargs={"stop": self.stop})
        self.node.start()
        self.coordinator.wait_ready(TIMEOUT_S)
        self._watcher = threading.Thread(target=self._watch)

    def begin(self) -> None:
        self.coordinator.reset(Episode(phase="reset", index=0), TIMEOUT_S)
        self.coordinator.start()

    def watch(self) -> None:
        self._watcher.start()

    def _watch(self) -> None:
        while not self.stop.is_set():
            self.coordinator.poll(0.05)

    def close(self) -> None:
        self.stop.set()
        self.node.join(TIMEOUT_S)
        if self._watcher.ident is not None:
            self._watcher.join(TIMEOUT_S)
        self.coordinator.close()


@pytest.fixture(params=["lockstep", "realtime"])
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watch]:
    with RunDirectory() as directory:
        made = Watch(RunPlace(str(directory.sockets), "run", request.param))
        try:
            yield made
        finally:
            made.close()


def test_a_word_reaches_the_node_and_the_answer_is_one_made_with_it(watch: Watch):
    watch.begin()
    watch.watch()
    for text in ("duck", "2 brick"):
        answer = say(watch.place, Word("order", text), answer="order", node="world", timeout_s=TIMEOUT_S)
        assert isinstance(answer, Order)
        assert answer.refused == f"order: {text}"
    assert answer.header.parents["operator"] == 1


def ask(place: RunPlace, coordinator: Coordinator) -> Published:
    """What the supervisor answers to a word, from one who does not wait for the node's."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as person:
        person.connect(place.rendezvous)
        person.send(msgspec.msgpack.encode(Word("order", "duck")))
        deadline = time.monotonic() + TIMEOUT_S
        while not person.poll(10):
            assert time.monotonic() < deadline
            coordinator.poll(0.0)
        return msgspec.msgpack.decode(person.recv(), type=Published)


def test_a_word_between_episodes_is_refused(watch: Watch):
    assert "no episode" in ask(watch.place, watch.coordinator).refused
    watch.begin()
    assert ask(watch.place, watch.coordinator) == Published(episode=0, seq=0)
    watch.coordinator.end("", -1, TIMEOUT_S)
    assert "no episode" in ask(watch.place, watch.coordinator).refused


def test_a_run_on_several_hosts_takes_no_word():
    hosts = {"car": "127.0.0.1", "box": "127.0.0.2"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        doors = {RENDEZVOUS: Door(free.getsockname()[1], ("box",))}
    network = Network(own="car", first="car", addresses=hosts, nodes={"world": "car"}, doors=doors, encryption=PLAIN)
    with RunDirectory() as directory:
        place = RunPlace(str(directory.sockets), "run", "realtime", network)
        coordinator = Coordinator(place, ("world",), observe=())
        try:
            assert "several hosts" in ask(place, coordinator).refused
        finally:
            coordinator.close()


def test_a_run_that_is_over_is_told_apart(tmp_path: Path):
    with RunDirectory() as directory:
        place = RunPlace(str(directory.sockets), "run", "lockstep")
        with pytest.raises(WordError, match="world says no order: is the run still going on"):
            say(place, Word("order", "duck"), answer="order", node="world", timeout_s=0.3)
