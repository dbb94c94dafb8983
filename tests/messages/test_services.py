"""The service table, row by row: names, rates, limits, and a round trip of every message type, also with N = 0."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import numpy as np
import pytest

from visuomotor.messages import wire
from visuomotor.messages.node import Input
from visuomotor.messages.schema import Header, Message
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wiring import MAX_SOCKET_NAME, NODE_NAME, RunPlace


def make_message(service: str, count: int, rng: np.random.Generator) -> Message:
    """A message with arbitrary contents: N, K, T, P and the like are ``count``, H and W are at least 1."""
    kind = SERVICES[service].type
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        declared = wire.array_annotation(field.type)
        if declared is not None:
            dtype, shape = declared
            sizes = [s if isinstance(s, int) else max(count, 1) if s in "HW" else count for s in shape]
            values[field.name] = (rng.normal(size=sizes) * 100).astype(dtype)
        elif field.name != "header":
            values[field.name] = make_value(field.type, count, rng)
    header = Header(tick=4, seq=5, t_capture_ns=2**62, parents={"tracks": 3}, valid=True)
    return kind(header=header, **values)


def make_value(kind: Any, count: int, rng: np.random.Generator) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return make_value(arguments[0], count, rng)
    if origin is Literal:
        return arguments[-1]
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(make_value(arguments[0], count, rng) for _ in range(count))
        return tuple(make_value(a, count, rng) for a in arguments)
    if origin is dict:
        return {f"k{i}": make_value(arguments[1], count, rng) for i in range(count)}
    made = {float: rng.normal(), int: int(rng.integers(-(2**60), 2**60)), bool: True, str: "Grüße"}
    return float(made[kind]) if kind is float else made[kind]


def assert_equal(sent: Message, got: Message) -> None:
    assert type(sent) is type(got)
    for field in msgspec.structs.fields(type(sent)):
        a, b = getattr(sent, field.name), getattr(got, field.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b
            assert type(a) is type(b)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_type_round_trips(service: str, count: int) -> None:
    message = make_message(service, count, np.random.default_rng(count))
    body = wire.encode(service, message)
    assert_equal(message, wire.decode(service, body))
    assert wire.encode(service, wire.decode(service, body)) == body


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_row_is_sound(service: Any) -> None:
    assert SERVICES[service.name] is service
    assert NODE_NAME.fullmatch(service.name), "service names are parts of file names"
    assert len(service.name) <= MAX_SOCKET_NAME - 33
    assert service.rate_hz > 0 or service.queue == "all", "what comes on event must not be overwritten"
    assert service.max_age_s > 0
    if service.rate_hz > 0:
        assert service.max_age_s > 1 / service.rate_hz, "a service must not expire between two messages"
    assert 1024 <= service.max_bytes <= 64 << 20
    assert Input(service.name).service == service.name


@pytest.mark.parametrize("clock", ["lockstep", "realtime"])
def test_endpoints_of_one_queue_policy_are_apart(clock: Any) -> None:
    place = RunPlace("/tmp/x", "run", clock)
    newest = [s for s in SERVICES.values() if s.queue == "newest" and clock == "realtime"]
    endpoints = {place.endpoint("world", s.name) for s in newest}
    assert len(endpoints) == len(newest)
    assert place.endpoint("world", "truth") not in endpoints
    assert place.endpoint("world", "truth") != place.endpoint("guard", "truth")


def test_schema_hashes_differ_between_services() -> None:
    assert len({wire.schema_hash(name) for name in SERVICES}) == len(SERVICES)
    assert all(len(wire.schema_hash(name)) == 16 for name in SERVICES)
