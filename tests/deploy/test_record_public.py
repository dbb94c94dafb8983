"""The public form of messages: every one comes back byte for byte, hostile bytes are refused."""

from __future__ import annotations

import contextlib
from typing import Any, Literal, get_args, get_origin

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from visuomotor.deploy.record.public import PublicFormError, from_public, to_public, wire_body
from visuomotor.messages import wire
from visuomotor.messages.schema import Command, Header, Message
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wire import array_annotation

SIZES = {"N": st.integers(0, 4), "K": st.integers(0, 3), "T": st.integers(0, 3), "P": st.integers(0, 5)}
EXTENT = st.integers(0, 6)
INTEGER = st.integers(-(2**63), 2**64 - 1)
TEXT = st.text(max_size=8)


def _plain(annotation: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.dictionaries(_plain(arguments[0]), _plain(arguments[1]), max_size=3)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(_plain(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(_plain(a) for a in arguments))
    return {bool: st.booleans(), int: INTEGER, float: st.floats(width=64), str: TEXT}[annotation]


def headers() -> st.SearchStrategy[Header]:
    """Headers with any numbers."""
    return st.builds(
        Header,
        run_id=TEXT,
        episode=st.integers(0, 2**31 - 1),
        tick=INTEGER,
        seq=INTEGER,
        t_capture_ns=INTEGER,
        parents=st.dictionaries(TEXT, INTEGER, max_size=3),
        valid=st.booleans(),
    )


@st.composite
def messages(draw: st.DrawFn, service: str) -> Message:
    """Any message of a service, also with NaN, infinities, empty arrays and numbers beyond 63 bits."""
    kind = SERVICES[service].type
    sizes: dict[str, int] = {}
    values: dict[str, Any] = {"header": draw(headers())}
    for field in msgspec.structs.fields(kind):
        if field.name == "header":
            continue
        declared = array_annotation(field.type)
        if declared is None:
            values[field.name] = draw(_plain(field.type))
            continue
        dtype, shape = declared
        for extent in shape:
            if isinstance(extent, str) and extent not in sizes:
                sizes[extent] = draw(SIZES.get(extent, EXTENT))
        extents = tuple(sizes[extent] if isinstance(extent, str) else extent for extent in shape)
        values[field.name] = draw(hnp.arrays(np.dtype(dtype), extents))
    return kind(**values)


ONE_PER_TYPE = sorted({row.type.__name__: name for name, row in SERVICES.items()}.values())


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, msgspec.Struct):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    return repr(a) == repr(b)


@pytest.mark.parametrize("service", ONE_PER_TYPE)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_message_comes_back_byte_for_byte(service: str, data: st.DataObject) -> None:
    sent = data.draw(messages(service))
    try:
        body = wire.encode(service, sent)
    except wire.WireError:
        return  # beyond what the bus carries
    received = wire.decode(service, body)
    received.header.run_id, received.header.episode = sent.header.run_id, sent.header.episode
    public = to_public(service, received, body)
    assert wire_body(service, public) == body
    assert same(from_public(service, public), received)


def test_bytes_of_another_encoder_are_kept_too() -> None:
    body = wire.encode("command", Command(acceleration_mps2=1.0))
    other = body.replace(bytes.fromhex("cb3ff0000000000000"), bytes.fromhex("ca3f800000"))
    assert other != body
    received = wire.decode("command", other)
    assert wire.encode("command", received) == body  # what the message alone would give
    assert wire_body("command", to_public("command", received, other)) == other


@given(st.binary(max_size=200), st.sampled_from(ONE_PER_TYPE))
@settings(max_examples=300, deadline=None)
def test_hostile_public_forms_are_refused(data: bytes, service: str) -> None:
    for read in (from_public, wire_body):
        with contextlib.suppress(PublicFormError):
            read(service, data)
