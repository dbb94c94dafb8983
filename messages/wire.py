"""Bytes of a message: msgspec msgpack, arrays as (dtype, shape, bin), checked against the schema on both ends.

The body of a message holds its header without ``run_id`` and ``episode`` (they travel in the frame, see
``messages.frame``), so that equal episodes of different runs have equal bytes. What does not fit the schema raises
WireError; what decodes is complete, of the declared types, and shares memory with its buffer only where copying would
be slow (images).
"""

from __future__ import annotations

import hashlib
import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import numpy as np

from visuomotor.messages.schema import CameraFrame, Header, Message
from visuomotor.messages.services import SERVICES, Service

WIRE_VERSION = 1
HEAD_ROOM = 1024  # bytes before an image of ``new_image``
NO_COPY_BYTES = 1 << 14  # larger arrays of bytes stay views of the received buffer

Buffer = bytes | bytearray | memoryview
Shape = tuple[int | str, ...]


class WireError(ValueError):
    """Bytes or a message that do not fit the schema of their service."""


class _Room(bytearray):
    """Memory of one image and, before it, of what precedes it on the wire."""

    used = False


def new_image(height: int, width: int) -> np.ndarray:
    """Black image, uint8 [H, W, 3], that a publisher sends without copying it.

    Write to it before it is published; from then on it is read-only, because the socket still reads it.
    """
    room = _Room(HEAD_ROOM + height * width * 3)
    return np.frombuffer(room, np.uint8, offset=HEAD_ROOM).reshape(height, width, 3)


class _WireHeader(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    tick: int
    seq: int
    t_capture_ns: int
    parents: dict[str, int]
    valid: bool


class _ArrayField(msgspec.Struct, frozen=True):
    name: str
    dtype: np.dtype[Any]
    shape: Shape


class _Plan(msgspec.Struct, frozen=True):
    """What is needed to encode and decode one message type."""

    kind: type[Message]
    arrays: tuple[_ArrayField, ...]
    plain: tuple[str, ...]
    plain_type: Any
    encoder: msgspec.msgpack.Encoder
    decoder: msgspec.msgpack.Decoder[Any]


def lookup(service: str) -> Service:
    """The row of the service table; WireError with the known names when there is none."""
    row = SERVICES.get(service)
    if row is None:
        raise WireError(f"{service!r} is not a service; expected one of {', '.join(SERVICES)}")
    return row


def array_annotation(annotation: Any) -> tuple[str, Shape] | None:
    """Dtype and shape of a field declared with ``schema.array``, None for any other field."""
    if get_origin(annotation) is not Annotated:
        return None
    for meta in get_args(annotation)[1:]:
        if isinstance(meta, msgspec.Meta) and meta.extra and "dtype" in meta.extra:
            return str(meta.extra["dtype"]), tuple(meta.extra["shape"])
    return None


@cache
def _plan(kind: type[Message]) -> _Plan:
    arrays: list[_ArrayField] = []
    plain: list[str] = []
    plain_types: list[Any] = []
    for field in msgspec.structs.fields(kind):
        if field.name == "header":
            continue
        declared = array_annotation(field.type)
        if declared is None:
            plain.append(field.name)
            plain_types.append(field.type)
        else:
            arrays.append(_ArrayField(field.name, np.dtype(declared[0]), declared[1]))
    plain_type = tuple[*plain_types] if plain_types else tuple[()]  # type: ignore[valid-type]
    array_types: list[Any] = [
        tuple[str, tuple[*([Annotated[int, msgspec.Meta(ge=0)]] * len(a.shape))], memoryview]  # type: ignore[misc]
        for a in arrays
    ]
    array_type = tuple[*array_types] if array_types else tuple[()]  # type: ignore[valid-type]
    body: Any = tuple[_WireHeader, plain_type, array_type]  # type: ignore[valid-type]
    decoder = msgspec.msgpack.Decoder(body)
    return _Plan(kind, tuple(arrays), tuple(plain), plain_type, msgspec.msgpack.Encoder(), decoder)


def check_array(
    service: str, field: str, value: Any, dtype: np.dtype[Any], shape: Shape, sizes: dict[str, int]
) -> None:
    """Raise WireError unless ``value`` is an array of this dtype and shape; ``sizes`` collects what N, K, ... are."""
    expected = f"{dtype.name} [{', '.join(str(s) for s in shape)}]"
    if not isinstance(value, np.ndarray):
        raise WireError(f"{service}.{field}: expected an array {expected}, got {type(value).__name__}")
    if value.dtype != dtype or value.ndim != len(shape):
        raise WireError(f"{service}.{field}: expected {expected}, got {value.dtype.name} {list(value.shape)}")
    check_shape(service, field, value.shape, dtype, shape, sizes)


def check_shape(
    service: str, field: str, got: tuple[int, ...], dtype: np.dtype[Any], shape: Shape, sizes: dict[str, int]
) -> None:
    """Raise WireError unless ``got`` fits ``shape``, symbols such as N being equal across the fields of one message."""
    for size, wanted in zip(got, shape, strict=True):
        if (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size)) != size:
            declared = ", ".join(str(s) for s in shape)
            where = f" with {wanted} = {sizes[wanted]}" if isinstance(wanted, str) else ""
            raise WireError(f"{service}.{field}: expected {dtype.name} [{declared}]{where}, got {list(got)}")


def _without_numpy_scalars(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(_without_numpy_scalars(v) for v in value)
    return value


def _checked_plain(service: str, plan: _Plan, message: Message) -> Any:
    values = tuple(getattr(message, name) for name in plan.plain)
    try:
        return msgspec.convert(values, plan.plain_type)
    except msgspec.ValidationError:
        values = _without_numpy_scalars(values)
    for name, value, kind in zip(plan.plain, values, get_args(plan.plain_type), strict=True):
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise WireError(f"{service}.{name}: {error} (got {value!r})") from error
    return msgspec.convert(values, plan.plain_type)


def encode(service: str, message: Message, head: bytes | None = None) -> bytes:
    """Body of ``message``; with ``head`` the msgpack pair of both, made in one go to save a copy of large images.

    Raises WireError that names the service, the field, what was expected and what was there.
    """
    row = lookup(service)
    if type(message) is not row.type:
        raise WireError(f"{service}: expected a {row.type.__name__}, got {type(message).__name__}")
    plan = _plan(row.type)
    sizes: dict[str, int] = {}
    arrays = []
    for field in plan.arrays:
        value = getattr(message, field.name)
        check_array(service, field.name, value, field.dtype, field.shape, sizes)
        # flattened: memoryview cannot cast an array with a zero in its shape
        arrays.append((field.dtype.name, value.shape, np.ascontiguousarray(value).reshape(-1).view(np.uint8).data))
    header = message.header
    lineage = _WireHeader(header.tick, header.seq, header.t_capture_ns, header.parents, header.valid)
    body = (lineage, _checked_plain(service, plan, message), arrays)
    try:
        encoded = plan.encoder.encode(body if head is None else (head, body))
    except (TypeError, OverflowError, msgspec.MsgspecError) as error:
        raise WireError(f"{service}: cannot be encoded: {error}") from error
    size = len(encoded) - (0 if head is None else len(head))
    if size > row.max_bytes:
        raise WireError(f"{service}: expected at most {row.max_bytes} bytes, got {size}")
    return encoded


def encode_frame(service: str, message: Message, head: bytes) -> bytes | memoryview:
    """The msgpack pair of head and body as ``encode`` makes it; of an image from ``new_image`` without a copy.

    Raises WireError as ``encode`` does.
    """
    image = getattr(message, "image", None)
    base = getattr(getattr(image, "base", None), "base", None)
    room = base.obj if isinstance(base, memoryview) else base
    if (
        not isinstance(message, CameraFrame)
        or not isinstance(image, np.ndarray)
        or not isinstance(room, _Room)
        or room.used
        or image.nbytes != len(room) - HEAD_ROOM
        or image.nbytes < 1 << 16  # msgpack has shorter forms for these
        or image.strides != (image.shape[1] * 3, 3, 1)
        or image.nbytes + HEAD_ROOM > lookup(service).max_bytes
    ):
        return encode(service, message, head)
    # the same frame without pixels: its last two bytes say that none follow
    blank = CameraFrame(header=message.header, image=image[:0])
    before = bytearray(encode(service, blank, head))
    shape_at = before.rindex(msgspec.msgpack.encode(blank.image.shape))
    before[shape_at:] = msgspec.msgpack.encode(image.shape) + b"\xc6" + image.nbytes.to_bytes(4, "big")
    if len(before) > HEAD_ROOM:
        return encode(service, message, head)
    start = HEAD_ROOM - len(before)
    room[start:HEAD_ROOM] = before
    room.used = True
    image.flags.writeable = False
    return memoryview(room)[start:]


def decode(service: str, buffer: Buffer) -> Message:
    """Message from its body; arrays are read-only. Raises WireError on anything but what is declared."""
    row = lookup(service)
    size = buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
    if size > row.max_bytes:
        raise WireError(f"{service}: expected at most {row.max_bytes} bytes, got {size}")
    plan = _plan(row.type)
    try:
        lineage, plain, arrays = plan.decoder.decode(buffer)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"{service}: not a {row.type.__name__}: {error}") from error
    sizes: dict[str, int] = {}
    values: dict[str, Any] = dict(zip(plan.plain, plain, strict=True))
    for field, (dtype, shape, data) in zip(plan.arrays, arrays, strict=True):
        values[field.name] = _array(service, field, dtype, shape, data, sizes)
    header = Header(
        tick=lineage.tick,
        seq=lineage.seq,
        t_capture_ns=lineage.t_capture_ns,
        parents=lineage.parents,
        valid=lineage.valid,
    )
    return plan.kind(header=header, **values)


def _array(
    service: str, field: _ArrayField, dtype: str, shape: tuple[int, ...], data: memoryview, sizes: dict[str, int]
) -> np.ndarray:
    if dtype != field.dtype.name:
        raise WireError(f"{service}.{field.name}: expected {field.dtype.name}, got {dtype!r}")
    check_shape(service, field.name, shape, field.dtype, field.shape, sizes)
    count = 1
    for extent in shape:  # Python integers: a hostile shape cannot overflow
        count *= extent
    if count * field.dtype.itemsize != data.nbytes:
        raise WireError(f"{service}.{field.name}: {list(shape)} does not fit {data.nbytes} bytes")
    try:
        value = np.frombuffer(data, field.dtype).reshape(shape)
    except ValueError as error:  # e.g. [0, 2**62, 2**62]: empty, yet beyond what an index can hold
        raise WireError(f"{service}.{field.name}: {error}") from error
    if data.nbytes < NO_COPY_BYTES or not value.flags.aligned:
        value = value.copy()
        value.flags.writeable = False
    return value


def roundtrip(service: str, message: Message) -> Message:
    """The message as a reader in another process would have it."""
    copy = decode(service, encode(service, message))
    copy.header.run_id, copy.header.episode = message.header.run_id, message.header.episode
    return copy


@cache
def schema_hash(service: str) -> str:
    """16 hex digits that change with anything that changes the bytes of ``service``: names, types, order, shapes."""
    row = lookup(service)
    text = f"{WIRE_VERSION} {row.name} {_describe(row.type)} {_describe(_WireHeader)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(annotation: Any) -> str:
    """A type as text that is the same in every Python version."""
    declared = array_annotation(annotation)
    if declared is not None:
        return f"array({declared[0]} {declared[1]})"
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        fields = (f for f in msgspec.structs.fields(annotation) if f.name != "header")
        return f"{annotation.__name__}({', '.join(f'{f.name}: {_describe(f.type)}' for f in fields)})"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"Literal{list(arguments)!r}"
    if origin in (Union, types.UnionType):
        return " | ".join(_describe(a) for a in arguments)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_describe(a) for a in arguments)}]"
    if annotation is Ellipsis:
        return "..."
    return annotation.__name__ if isinstance(annotation, type) else repr(annotation)
