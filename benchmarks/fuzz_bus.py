"""What the fuzzer sends to the bus: bytes to the reader itself, and parts through real sockets."""

from __future__ import annotations

import re
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import numpy as np
import zmq
from fuzz_mutation import (
    NUMBERS,
    TEXTS,
    anything,
    hostile_msgpack,
    mutate_bytes,
    mutate_token,
    mutate_tree,
    paths_of,
    pick,
    splice,
    tokens_of,
)

from visuomotor.messages import bus, frame, rendezvous, wire
from visuomotor.messages.node import Input
from visuomotor.messages.schema import Message
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wiring import RunPlace, WiringError, wire_up

RUN = "fuzz"
ERROR_EVERY = 8  # of refused frames, one is decoded again for the words of its refusal
HEARD_S = 20.0


class RefusedError(ValueError):
    """What a target raises for an input that the code under test counted and dropped."""


def make_value(rng: np.random.Generator, annotation: Any) -> Any:
    """A valid value of a field that is no array."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return pick(rng, arguments)
    if origin in (Union, types.UnionType):
        return make_value(rng, pick(rng, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(make_value(rng, arguments[0]) for _ in range(int(rng.integers(0, 5))))
    if origin is tuple:
        return tuple(make_value(rng, kind) for kind in arguments)
    if origin is dict:
        return {f"k{i}": make_value(rng, arguments[1]) for i in range(int(rng.integers(0, 5)))}
    makers: dict[Any, Callable[[], Any]] = {
        str: lambda: pick(rng, TEXTS),
        bool: lambda: bool(rng.integers(2)),
        int: lambda: int(rng.integers(-(2**40), 2**40)),
        float: lambda: float(rng.normal()),
    }
    return makers[annotation]()


def make_message(rng: np.random.Generator, service: str) -> Message:
    """A valid message of any size."""
    sizes: dict[str, int] = {}
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(SERVICES[service].type):
        if field.name == "header":
            continue
        declared = wire.array_annotation(field.type)
        if declared is None:
            values[field.name] = make_value(rng, field.type)
            continue
        shape = [sizes.setdefault(s, int(rng.integers(0, 9))) if isinstance(s, str) else s for s in declared[1]]
        values[field.name] = rng.integers(0, 100, shape).astype(declared[0])
    message = SERVICES[service].type(**values)
    header = message.header
    header.tick, header.seq, header.t_capture_ns = (int(v) for v in rng.integers(0, 2**31, 3))
    header.parents = {str(pick(rng, list(SERVICES))): int(rng.integers(1000)) for _ in range(3)}
    return message


class _Body(msgspec.Struct):
    service: str
    data: bytes
    tree: Any
    paths: list[tuple[Any, ...]]
    tokens: list[int]


def make_bodies(rng: np.random.Generator, services: tuple[str, ...] = tuple(SERVICES)) -> list[_Body]:
    """Valid bodies by the real encoder, a dozen of each service."""
    bodies = []
    for service in services:
        for _ in range(12):
            data = wire.encode(service, make_message(rng, service))
            tree = msgspec.msgpack.decode(data)
            bodies.append(_Body(service, data, tree, paths_of(tree), tokens_of(data)))
    return bodies


def _mutate_array(rng: np.random.Generator, body: _Body) -> bytes:
    """One declared array with another type, shape or amount of data."""
    lineage, plain, arrays = body.tree
    if not arrays:
        return msgspec.msgpack.encode([mutate_tree(rng, lineage, paths_of(lineage), True), plain, arrays])
    at = int(rng.integers(len(arrays)))
    dtype, shape, data = arrays[at]
    kind = int(rng.integers(5))
    if kind == 0:
        dtype = pick(rng, ("float32", "int32", "uint8", "object", ">f4", "float64", "", "S10", None, 7))
    elif kind == 1:
        data = data[: int(rng.integers(len(data) + 1))] + rng.bytes(int(rng.integers(0, 9)))
    elif kind == 2:
        shape = [*shape, pick(rng, NUMBERS)]
    elif shape:
        shape = list(shape)
        shape[int(rng.integers(len(shape)))] = pick(rng, (0, 1, 2, 2**20, 2**31, 2**62, 2**63 - 1, 2**64 - 1, -1, 1.0))
    changed = list(arrays)
    changed[at] = (dtype, shape, data)
    return msgspec.msgpack.encode((lineage, plain, changed))


def mutate_body(rng: np.random.Generator, body: _Body, other: _Body) -> bytes:
    """Another body, near the first one."""
    kind = int(rng.integers(10))
    if kind < 3:
        return msgspec.msgpack.encode(mutate_tree(rng, body.tree, body.paths, of_bytes=True))
    if kind == 3:
        return _mutate_array(rng, body)
    if kind < 6:
        return mutate_token(rng, body.data, body.tokens)
    if kind == 6:
        return splice(rng, body.data, other.data)
    if kind == 7:
        at = pick(rng, body.tokens)
        return body.data[:at] + hostile_msgpack(rng)
    return mutate_bytes(rng, body.data)


def make_frame(rng: np.random.Generator, bodies: list[_Body]) -> bytes:
    """What a hostile publisher sends: nearly always with a right head, so that it gets past it."""
    body, other = pick(rng, bodies), pick(rng, bodies)
    kind = int(rng.integers(40))
    if kind == 0:
        return rng.bytes(int(rng.integers(0, 200)))
    tick, episode, now = int(rng.integers(100)), int(rng.integers(3)), 0
    if kind == 1:
        tick, episode, now = (
            pick(rng, (-1, 2**31 - 1, -(2**31))),
            pick(rng, (-1, 2**31 - 1)),
            pick(rng, (-1, 2**63 - 1)),
        )
    run = "another" if kind == 2 else RUN
    what = int(rng.integers(256)) if kind == 3 else frame.DATA
    head = frame.MARK + frame.pack_head(body.service, run, frame.Head(now, episode, tick, what))
    if kind == 4:
        return mutate_bytes(rng, head + body.data)
    if kind == 5:
        return head + other.data  # a good body of another service
    if kind == 6:
        return head + body.data
    return head + mutate_body(rng, body, other)


class Wire:
    """``Subscriber._read``: every service of the table, from bytes as they come off a socket."""

    name = "wire"
    share = 900_000
    refusals = (RefusedError,)
    memory_mb = 64
    readers = (bus.Subscriber._read, frame.unpack_head, wire.decode, wire._array, wire.check_shape, wire.lookup)

    def __init__(self, rng: np.random.Generator) -> None:
        self._bodies = make_bodies(rng)
        self._subscriber = bus.Subscriber(zmq.Context.instance(), RunPlace("/nowhere", RUN), {})
        prefixes = {frame.prefix(service): service for service in SERVICES}
        self._source = bus._Source("hostile", "", None, prefixes, 1, float("inf"))  # type: ignore[arg-type]
        self._refused = 0

    def make(self, rng: np.random.Generator) -> bytes:
        return make_frame(rng, self._bodies)

    def read(self, data: bytes) -> bool:
        received: list[bus.Received] = []
        dropped = self._subscriber.dropped
        before = dropped["foreign"], dropped["malformed"]
        self._subscriber._read(self._source, memoryview(data), received)
        if received:
            message = received[0].message
            if message is not None:
                wire.encode(received[0].service, message)
            return True
        if dropped["foreign"] > before[0]:
            raise RefusedError("foreign")
        if dropped["malformed"] > before[1]:
            self._refused += 1
            if self._refused % ERROR_EVERY:
                raise RefusedError("")
            service = self._source.services[data[: frame.PREFIX_SIZE]]
            try:
                wire.decode(service, memoryview(data)[frame.BODY_START :])
            except wire.WireError as error:
                raise RefusedError(str(error)) from None
            raise AssertionError("counted as malformed, but decodes")
        return True  # a probe

    def is_past_header(self, message: str) -> bool:
        return message != "foreign"

    def close(self) -> None:
        self._subscriber.close()


class Sockets:
    """A hostile publisher on the ipc path of a run; after each input the reader has still to hear a good message."""

    name = "sockets"
    share = 30_000
    refusals = (RefusedError,)
    memory_mb = 128
    readers = (bus.Subscriber.poll, bus.Subscriber._read, bus.Subscriber.watch)
    services = ("command", "tracks", "operator", "node_health")

    def __init__(self, rng: np.random.Generator) -> None:
        self._bodies = make_bodies(rng, self.services)
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/tmp")
        self._context: zmq.Context[Any] = zmq.Context()
        place = RunPlace(self._folder.name, RUN)
        self._hostile = self._context.socket(zmq.PUB)
        self._hostile.setsockopt(zmq.SNDHWM, 0)
        self._hostile.setsockopt(zmq.LINGER, 0)
        self._hostile.bind(place.endpoint("hostile", "command"))
        self._subscriber = bus.Subscriber(self._context, place, {s: ["hostile"] for s in self.services})
        self._good = wire.encode("command", make_message(rng, "command"))
        self._count = 0
        self._mark()

    def make(self, rng: np.random.Generator) -> bytes:
        parts = [make_frame(rng, self._bodies)]
        kind = int(rng.integers(100))
        if kind < 10:
            parts += [rng.bytes(int(rng.integers(0, 50))) for _ in range(int(rng.integers(1, 6)))]
        elif kind == 10:
            parts += [make_frame(rng, self._bodies)] * 20
        elif kind == 11 and rng.integers(10) == 0:
            parts[0] = frame.prefix("command") + bytes(max(SERVICES[s].max_bytes for s in self.services) + 100)
        return msgspec.msgpack.encode(parts)

    def read(self, data: bytes) -> bool:
        before = sum(self._subscriber.dropped.values())
        self._hostile.send_multipart(msgspec.msgpack.decode(data, type=list[bytes]))
        self._mark()
        if sum(self._subscriber.dropped.values()) > before:
            raise RefusedError(", ".join(sorted(self._subscriber.dropped)))
        return True

    def _mark(self) -> None:
        """Send a good command until it is heard; a reader that was cut off has to join again."""
        self._count += 1
        head = frame.Head(time.monotonic_ns(), 0, self._count, frame.DATA)
        good = frame.MARK + frame.pack_head("command", RUN, head) + self._good
        deadline = time.monotonic() + HEARD_S
        while time.monotonic() < deadline:
            self._hostile.send(good)
            if any(r.tick == self._count and r.service == "command" for r in self._subscriber.poll(0.1)):
                return
            self._subscriber.watch()
        raise AssertionError("the reader hears no more")

    def is_past_header(self, message: str) -> bool:
        return True

    def close(self) -> None:
        self._subscriber.close()
        self._hostile.close()
        self._context.destroy()
        self._folder.cleanup()


class Rendezvous:
    """A hostile process at the supervisor's door; after each input it has still to answer."""

    name = "rendezvous"
    share = 20_000
    refusals = (RefusedError, WiringError)
    memory_mb = 64
    readers = (rendezvous.Rendezvous.poll, rendezvous.Rendezvous._greet)
    nodes = ("world", "guard")

    def __init__(self, rng: np.random.Generator) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/tmp")
        self._context: zmq.Context[Any] = zmq.Context()
        self._place = RunPlace(self._folder.name, RUN)
        hellos: list[Any] = [
            rendezvous._Hello(wire_up("world", (Input("command", lag=1),), ("vehicle_state", "route"))),
            rendezvous._Hello(wire_up("guard", (Input("vehicle_state"), Input("route")), ("command",))),
            rendezvous._Connected("world"),
            rendezvous._Connected("guard"),
        ]
        self._stranger = msgspec.msgpack.encode(rendezvous._Connected("stranger"))
        self._valid = [msgspec.msgpack.encode(hello) for hello in hellos]
        self._trees = [msgspec.msgpack.decode(data) for data in self._valid]
        self._open()

    def _open(self) -> None:
        own = wire_up("supervisor", (), ("episode", "operator", "node_health"))
        self._door = rendezvous.Rendezvous(self._context, self._place, own, self.nodes)
        self._hostile = self._context.socket(zmq.DEALER)
        self._hostile.setsockopt(zmq.LINGER, 0)
        self._hostile.connect(self._place.rendezvous)

    def make(self, rng: np.random.Generator) -> bytes:
        at = int(rng.integers(len(self._valid)))
        data, tree = self._valid[at], self._trees[at]
        kind = int(rng.integers(8))
        parts = [
            data
            if kind == 0
            else msgspec.msgpack.encode(mutate_tree(rng, tree, paths_of(tree), True))
            if kind < 4
            else mutate_token(rng, data, tokens_of(data))
            if kind < 6
            else hostile_msgpack(rng)
            if kind == 6
            else mutate_bytes(rng, data)
        ]
        if rng.integers(10) == 0:
            parts = [rng.bytes(3), b"", *parts, msgspec.msgpack.encode(anything(rng, True))][int(rng.integers(3)) :]
        return msgspec.msgpack.encode(parts)

    def read(self, data: bytes) -> bool:
        self._hostile.send_multipart(msgspec.msgpack.decode(data, type=list[bytes]))
        self._hostile.send(self._stranger)
        try:
            deadline = time.monotonic() + HEARD_S
            answers: list[bytes] = []
            while not any(b"stranger" in answer for answer in answers):
                if time.monotonic() > deadline:
                    raise AssertionError("the supervisor answers no more")
                self._door.poll(0.02)
                while self._hostile.poll(1):
                    answers.append(self._hostile.recv())
        except WiringError:
            self._reopen()
            raise
        if not self._door.missing():
            self._door.go()  # two good connections: the run would start
            self._reopen()
            return True
        if len(answers) == 1 and b"Connected" not in data:
            raise RefusedError("not one of ours")
        return True

    def _reopen(self) -> None:
        self._hostile.close()
        self._door.close()
        self._open()

    def is_past_header(self, message: str) -> bool:
        return message != "not one of ours"

    def close(self) -> None:
        self._hostile.close()
        self._door.close()
        self._context.destroy()
        self._folder.cleanup()


def normalise(message: str) -> str:
    """A refusal without its numbers and quoted values, to count kinds of them."""
    message = re.sub(r"\S*/fuzz-[^/]+/", "", message)  # the folder of one run
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+|\[[^\]]*\]", "#", message)[:120]
