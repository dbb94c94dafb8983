"""Bytes of messages: what is refused, by whom and with which words; hostile bytes."""

from __future__ import annotations

import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.messages import frame, schema, wire
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wire import WireError, decode, encode, roundtrip


def tracks(count: int = 2, **changes: object) -> schema.Tracks:
    fields: dict[str, object] = {
        "track_id": np.arange(count, dtype=np.int32),
        "class_id": np.zeros(count, np.int32),
        "score": np.ones(count, np.float32),
        "odom_position_m": np.ones((count, 2), np.float32),
        "odom_velocity_mps": np.ones((count, 2), np.float32),
        "odom_heading_rad": np.zeros(count, np.float32),
        "size_m": np.ones((count, 2), np.float32),
        "covariance": np.zeros((count, 4, 4), np.float32),
        "age_s": np.zeros(count, np.float32),
        "unseen_s": np.zeros(count, np.float32),
    }
    return schema.Tracks(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"score": np.ones(2)}, r"tracks\.score: expected float32 \[N\], got float64 \[2\]"),
        ({"score": np.ones(3, np.float32)}, r"tracks\.score: expected float32 \[N\] with N = 2, got \[3\]"),
        ({"size_m": np.ones((2, 3), np.float32)}, r"tracks\.size_m: expected float32 \[N, 2\], got \[2, 3\]"),
        ({"size_m": np.ones(2, np.float32)}, r"tracks\.size_m: expected float32 \[N, 2\], got float32 \[2\]"),
        ({"age_s": [0.0, 0.0]}, r"tracks\.age_s: expected an array float32 \[N\], got list"),
        ({"cameras": (1, 2)}, r"tracks\.cameras: .*str.*"),
        ({"cameras": None}, r"tracks\.cameras: "),
    ],
)
def test_encode_names_service_field_expected_and_got(change: dict[str, object], text: str) -> None:
    with pytest.raises(WireError, match=text):
        encode("tracks", tracks(**change))  # type: ignore[arg-type]


def test_encode_refuses_wrong_type_and_unknown_service() -> None:
    with pytest.raises(WireError, match="command: expected a Command, got PolicyCommand"):
        encode("command", schema.PolicyCommand())
    with pytest.raises(WireError, match=r"'trakcs' is not a service; expected one of .*tracks"):
        encode("trakcs", tracks())


def test_encode_refuses_more_than_max_bytes() -> None:
    limit = SERVICES["route"].max_bytes
    fits = schema.Route(odom_reference_m=np.zeros((limit // 8 - 100, 2), np.float32))
    assert len(encode("route", fits)) <= limit
    with pytest.raises(WireError, match=f"route: expected at most {limit} bytes, got"):
        encode("route", schema.Route(odom_reference_m=np.zeros((limit // 8, 2), np.float32)))


def test_numpy_scalars_arrive_as_python_numbers() -> None:
    sent = schema.PolicyCommand(acceleration_mps2=np.float64(0.1), action_norm=(np.float32(0.5), np.float64(1)))  # type: ignore[arg-type]
    got = roundtrip("policy_command", sent)
    assert isinstance(got, schema.PolicyCommand)
    assert type(got.acceleration_mps2) is float
    assert got.acceleration_mps2 == 0.1
    assert [type(a) for a in got.action_norm] == [float, float]


def test_floats_keep_64_bits_and_not_a_number() -> None:
    got = roundtrip("vehicle_state", schema.VehicleState(speed_mps=1 / 3, yaw_rate_radps=float("nan")))
    assert isinstance(got, schema.VehicleState)
    assert got.speed_mps == 1 / 3
    assert np.isnan(got.yaw_rate_radps)


def test_non_contiguous_and_zero_sized_arrays() -> None:
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    for view in (image[::-1, ::2], image[:, :, ::-1], np.asfortranarray(image), image[:0], image[:, :0]):
        got = roundtrip("camera_front", schema.CameraFrame(image=view))
        assert isinstance(got, schema.CameraFrame)
        assert got.image.shape == view.shape
        np.testing.assert_array_equal(got.image, view)


def test_images_share_the_buffer_and_arrays_are_read_only() -> None:
    body = encode("camera_front", schema.CameraFrame(image=np.zeros((384, 640, 3), np.uint8)))
    got = decode("camera_front", body)
    assert isinstance(got, schema.CameraFrame)
    assert np.shares_memory(got.image, np.frombuffer(body, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        got.image[0, 0, 0] = 1
    small = decode("tracks", encode("tracks", tracks()))
    assert isinstance(small, schema.Tracks)
    assert small.score.flags.aligned
    assert not small.score.flags.writeable


def test_every_truncation_and_extension_is_refused() -> None:
    body = encode("tracks", tracks())
    for length in range(len(body)):
        with pytest.raises(WireError):
            decode("tracks", body[:length])
    with pytest.raises(WireError, match="tracks: not a Tracks"):
        decode("tracks", body + b"\0")


@pytest.mark.parametrize("size", [(384, 640), (96, 320), (8, 8), (1, 30_000)])
def test_new_image_goes_out_without_a_copy_and_with_the_same_bytes(size: tuple[int, int]) -> None:
    image = wire.new_image(*size)
    image[...] = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    message = schema.CameraFrame(header=schema.Header(tick=300, parents={"command": 70_000}, valid=True), image=image)
    head = bytes(frame.HEAD.size)
    copied = encode("camera_front", message, head)
    first = wire.encode_frame("camera_front", message, head)
    assert bytes(first) == copied
    if image.nbytes >= 1 << 16:
        assert np.shares_memory(np.frombuffer(first, np.uint8), image)
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0, 0] = 1
    message.header.seq = 9
    again = wire.encode_frame("camera_front", message, head)
    assert bytes(again) == encode("camera_front", message, head)
    assert bytes(first) == copied, "a frame on its way is not written to"


def test_parts_of_a_new_image_are_copied() -> None:
    head = bytes(frame.HEAD.size)
    for part in (np.s_[1:], np.s_[::-1], np.s_[:, ::2], np.s_[:, :, ::-1]):
        message = schema.CameraFrame(image=wire.new_image(384, 640)[part])
        assert wire.encode_frame("camera_front", message, head) == encode("camera_front", message, head)


def forged(dtype: str, shape: list[int], data: bytes) -> bytes:
    return msgspec.msgpack.encode(((0, 0, 0, {}, True), (-40.0, 2.0, 2, 3.5, 10.0, 5.0), [(dtype, shape, data)]))


def test_forged_route_is_the_real_layout() -> None:
    got = decode("route", forged("float32", [2, 2], b"\0" * 16))
    assert isinstance(got, schema.Route)
    assert got.speed_limit_mps == 10.0


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("float32", [2**62, 2], b""),
        ("float32", [2**63, 2], b""),
        ("float32", [2**64 - 1, 2], b"\0" * 16),
        ("float32", [-1, 2], b"\0" * 16),
        ("float32", [2, 3], b"\0" * 24),
        ("float32", [2], b"\0" * 8),
        ("float32", [3, 2], b"\0" * 16),
        ("float64", [1, 2], b"\0" * 16),
        ("object", [1, 2], b"\0" * 16),
        (">f4", [1, 2], b"\0" * 8),
    ],
)
def test_forged_arrays_are_refused(dtype: str, shape: list[int], data: bytes) -> None:
    with pytest.raises(WireError):
        decode("route", forged(dtype, shape, data))


@pytest.mark.parametrize(
    "hostile",
    [
        b"\x91" * 500_000,
        b"\x81" * 500_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"",
    ],
    ids=["deep array", "deep map", "huge array", "huge map", "huge bin", "empty"],
)
def test_hostile_bytes_cost_no_memory(hostile: bytes) -> None:
    inside = msgspec.msgpack.encode((0, 0, 0, {}, True))
    tracemalloc.start()
    try:
        for service in SERVICES:
            for data in (hostile, b"\x93" + inside + hostile, b"\x93\x95\0\0\0" + hostile):
                with pytest.raises(WireError):
                    decode(service, data)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_too_large_is_refused_before_decoding() -> None:
    limit = SERVICES["command"].max_bytes
    with pytest.raises(WireError, match=f"command: expected at most {limit} bytes, got {limit + 1}"):
        decode("command", bytes(limit + 1))


BODIES = {
    "tracks": encode("tracks", tracks()),
    "command": encode("command", schema.Command(causes=("speed",))),
    "route": encode("route", schema.Route(odom_reference_m=np.zeros((3, 2), np.float32))),
    "operator": encode("operator", schema.Operator(kind="engage")),
}


@settings(max_examples=400, deadline=None)
@given(service=st.sampled_from(sorted(SERVICES)), data=st.binary(max_size=200))
def test_random_bytes_decode_or_are_refused(service: str, data: bytes) -> None:
    try:
        message = decode(service, data)
    except WireError:
        return
    assert encode(service, message)


@settings(max_examples=600, deadline=None)
@given(
    service=st.sampled_from(sorted(BODIES)),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_flipped_bytes_decode_or_are_refused(service: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(BODIES[service])
    for position, value in flips:
        data[position % len(data)] = value
    try:
        message = decode(service, bytes(data))
    except WireError:
        return
    assert type(message) is SERVICES[service].type
    assert encode(service, message)


def test_frame_is_the_pair_of_head_and_body() -> None:
    head = frame.Head(123, 4, 5, frame.DATA)
    message = schema.Command(acceleration_mps2=1.5)
    packed = frame.pack_head("command", "run", head)
    data = encode("command", message, packed)
    assert data.startswith(frame.prefix("command"))
    assert data[frame.BODY_START :] == encode("command", message)
    assert frame.unpack_head("run", data) == head
    assert frame.unpack_head("another", data) is None
    assert frame.unpack_head("run", data[: frame.BODY_START - 1]) is None
    assert (frame.MARK + packed)[: frame.PREFIX_SIZE] == frame.prefix("command")


def test_schema_hash_follows_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    before = wire.schema_hash("command")

    class Command(schema.Message, kw_only=True):
        acceleration_mps2: float = 0.0

    row = msgspec.structs.replace(SERVICES["command"], type=Command)
    monkeypatch.setitem(SERVICES, "command", row)
    wire.schema_hash.cache_clear()
    try:
        assert wire.schema_hash("command") != before
    finally:
        monkeypatch.undo()
        wire.schema_hash.cache_clear()
    assert wire.schema_hash("command") == before
