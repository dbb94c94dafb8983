"""Messages in their public form and back: protobuf that Foxglove and Rerun show, from which the sent bytes come back.

The public form has every field of a message. Where it cannot give back the very bytes that were sent (a signalling
NaN, an integer beyond 63 bits, a publisher that encodes otherwise), those bytes are kept beside it in ``wire``; the
writer checks each message, so that a lossless recording is lossless whatever was sent.
"""

from __future__ import annotations

import math
import struct
from functools import cache
from typing import Any, get_args, get_origin

import cv2
import msgspec
import numpy as np

from visuomotor.deploy.record.descriptors import ROW_FIELDS, message_class, needs_shape, schema_name
from visuomotor.messages import wire
from visuomotor.messages.schema import CameraFrame, Header, Message
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wire import Buffer

JPEG_QUALITY = 90
ENCODING = "bgr8"
ROOM_BYTES = 8 << 20  # what the public form may have beyond the largest message: integers take up to ten bytes
JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # markers of ITU T.81 that a size follows


class PublicFormError(ValueError):
    """Bytes that are not the public form of their service."""


class _Field(msgspec.Struct, frozen=True):
    """How one field of a struct is held."""

    name: str
    kind: str  # plain, tuple, rows, dict, array
    dtype: str = ""
    shape: tuple[int | str, ...] = ()
    columns: tuple[str, ...] = ()


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[_Field, ...]:
    fields = []
    for field in msgspec.structs.fields(kind):
        if field.name == "header":
            continue
        declared = wire.array_annotation(field.type)
        if declared is not None:
            fields.append(_Field(field.name, "array", *declared))
        elif get_origin(field.type) is dict:
            fields.append(_Field(field.name, "dict", columns=("key", "value")))
        elif get_origin(field.type) is tuple and get_origin(get_args(field.type)[0]) is tuple:
            fields.append(_Field(field.name, "rows", columns=ROW_FIELDS[field.name]))
        elif get_origin(field.type) is tuple:
            fields.append(_Field(field.name, "tuple"))
        else:
            fields.append(_Field(field.name, "plain"))
    return tuple(fields)


def _fill(public: Any, struct: msgspec.Struct) -> None:
    for field in _fields(type(struct)):
        value = getattr(struct, field.name)
        if field.kind == "plain":
            setattr(public, field.name, value)
        elif field.kind == "tuple":
            getattr(public, field.name).extend(value)
        elif field.kind == "array":
            getattr(public, field.name).extend(value.ravel().tolist())
            if needs_shape(field.shape):
                getattr(public, f"{field.name}_shape").extend(value.shape)
        else:
            rows = value.items() if field.kind == "dict" else value
            target = getattr(public, field.name)
            for row in rows:
                target.add(**dict(zip(field.columns, row, strict=True)))


def _values(public: Any, kind: type[msgspec.Struct]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in _fields(kind):
        held = getattr(public, field.name)
        if field.kind == "plain":
            values[field.name] = held
        elif field.kind == "tuple":
            values[field.name] = tuple(held)
        elif field.kind == "array":
            shape = tuple(getattr(public, f"{field.name}_shape")) if needs_shape(field.shape) else field.shape
            values[field.name] = _array(field, held, shape)
        else:
            rows = [tuple(getattr(row, column) for column in field.columns) for row in held]
            values[field.name] = dict(rows) if field.kind == "dict" else tuple(rows)
    return values


def _array(field: _Field, held: Any, shape: tuple[int | str, ...]) -> np.ndarray:
    fixed = math.prod(extent for extent in shape if isinstance(extent, int))
    extents = [extent if isinstance(extent, int) else len(held) // max(fixed, 1) for extent in shape]
    if len(extents) != len(field.shape) or any(e < 0 for e in extents) or math.prod(extents) != len(held):
        raise PublicFormError(f"{field.name}: {len(held)} values do not fill {list(field.shape)}")
    return np.array(held, field.dtype).reshape(extents)


def _fill_image(public: Any, service: str, message: CameraFrame, lossy: bool, epoch_ns: int) -> None:
    public.timestamp.FromNanoseconds(message.header.t_capture_ns + epoch_ns)
    public.frame_id = service
    if lossy:
        done, data = cv2.imencode(".jpg", message.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise PublicFormError(f"{service}: image {list(message.image.shape)} cannot be made a JPEG")
        public.data, public.format = data.tobytes(), "jpeg"
        return
    public.height, public.width = message.image.shape[:2]
    public.step, public.encoding = 3 * message.image.shape[1], ENCODING
    public.data = message.image.tobytes()


def to_public(service: str, message: Message, body: Buffer, *, lossy: bool = False, epoch_ns: int = 0) -> bytes:
    """Public form of a message that came as ``body``. ``epoch_ns`` is added to the time stamp that viewers see."""
    public = message_class(schema_name(service, lossy))()
    image = isinstance(message, CameraFrame)
    try:
        _fill(public.header, message.header)
        if isinstance(message, CameraFrame):
            _fill_image(public, service, message, lossy, epoch_ns)
        else:
            _fill(public, message)
        exact = (image and lossy) or wire.encode(service, _from_parsed(service, public)) == body
    except (ValueError, TypeError, OverflowError):
        public.Clear()
        public.header.run_id, public.header.episode = message.header.run_id, message.header.episode
        exact = False
    if not exact:
        public.wire = bytes(body)
    data: bytes = public.SerializeToString()
    return data


def from_public(service: str, data: bytes, *, lossy: bool = False) -> Message:
    """Message from its public form; frames of a lossy recording are what the JPEG kept. Raises PublicFormError."""
    public = _parse(service, data, lossy)
    try:
        return _from_parsed(service, public)
    except (ValueError, TypeError, OverflowError, cv2.error) as error:
        raise PublicFormError(f"{service}: not a {SERVICES[service].type.__name__}: {error}") from error


def header_of(service: str, data: bytes, *, lossy: bool = False) -> Header:
    """The header alone, which spares decoding frames. Raises PublicFormError."""
    public = _parse(service, data, lossy)
    try:
        return _from_parsed(service, public).header if public.wire else Header(**_values(public.header, Header))
    except (ValueError, TypeError, OverflowError) as error:
        raise PublicFormError(f"{service}: not a {SERVICES[service].type.__name__}: {error}") from error


def wire_body(service: str, data: bytes) -> bytes:
    """The bytes that were sent, from the public form of a lossless recording. Raises PublicFormError."""
    public = _parse(service, data, lossy=False)
    if public.wire:
        return bytes(public.wire)
    try:
        return wire.encode(service, _from_parsed(service, public))
    except (ValueError, TypeError, OverflowError) as error:
        raise PublicFormError(f"{service}: not a {SERVICES[service].type.__name__}: {error}") from error


def _parse(service: str, data: bytes, lossy: bool) -> Any:
    if len(data) > SERVICES[service].max_bytes + ROOM_BYTES:
        raise PublicFormError(f"{service}: expected at most {SERVICES[service].max_bytes + ROOM_BYTES} bytes, got more")
    public = message_class(schema_name(service, lossy))()
    try:
        public.ParseFromString(data)
    except Exception as error:  # google.protobuf.message.DecodeError, whose base is Exception
        raise PublicFormError(f"{service}: not protobuf: {error}") from error
    return public


def _from_parsed(service: str, public: Any) -> Message:
    if public.wire:
        message = wire.decode(service, public.wire)
        message.header.run_id, message.header.episode = public.header.run_id, public.header.episode
        return message
    header = Header(**_values(public.header, Header))
    kind = SERVICES[service].type
    if kind is CameraFrame:
        return CameraFrame(header=header, image=_image(public))
    return kind(header=header, **_values(public, kind))


def _image(public: Any) -> np.ndarray:
    if hasattr(public, "format"):
        _check_jpeg(public.data)
        image = cv2.imdecode(np.frombuffer(public.data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise PublicFormError("the JPEG cannot be decoded")
        return np.asarray(image, np.uint8)
    if public.encoding != ENCODING:
        raise PublicFormError(f"encoding: expected {ENCODING}, got {public.encoding!r}")
    return np.frombuffer(public.data, np.uint8).reshape(public.height, public.width, 3)


def _check_jpeg(data: bytes) -> None:
    """PublicFormError unless this is a JPEG of a size that a frame can have; the decoder makes room for any it says."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            if height * width * 3 > max(row.max_bytes for row in SERVICES.values()):
                raise PublicFormError(f"a JPEG of {width}x{height}: larger than a frame may be")
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise PublicFormError("expected a JPEG, got something else")
