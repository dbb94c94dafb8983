"""Protobuf descriptors of everything that a recording holds, derived from ``messages.schema``.

Images are ``foxglove.RawImage`` or ``foxglove.CompressedImage`` with our header as a further field, so that public
viewers show them; every other message is ``visuomotor.<Type>`` with the fields of its struct. A recording carries these
descriptors, so that it can be read without this package.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from visuomotor.messages.schema import Header
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wire import array_annotation

PACKAGE = "visuomotor"
RAW_IMAGE, COMPRESSED_IMAGE = "foxglove.RawImage", "foxglove.CompressedImage"
HEADER_FIELD, WIRE_FIELD, FIRST_FIELD = 1, 2, 3
IMAGE_HEADER_FIELD, IMAGE_WIRE_FIELD = 100, 101  # far from what the makers of the image schemas may add
ROW_FIELDS = {"stages": ("name", "t_start_ns", "t_end_ns")}  # what the items of a tuple in a tuple are called

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: dict[Any, int] = {
    str: _Field.TYPE_STRING,
    bool: _Field.TYPE_BOOL,
    int: _Field.TYPE_INT64,
    float: _Field.TYPE_DOUBLE,
}
_ARRAYS = {"float32": _Field.TYPE_FLOAT, "int32": _Field.TYPE_INT32}
# of https://github.com/foxglove/foxglove-sdk, schemas/proto/foxglove: name, number, type
_IMAGES: dict[str, tuple[tuple[str, int, int], ...]] = {
    "RawImage": (
        ("width", 2, _Field.TYPE_FIXED32),
        ("height", 3, _Field.TYPE_FIXED32),
        ("encoding", 4, _Field.TYPE_STRING),
        ("step", 5, _Field.TYPE_FIXED32),
        ("data", 6, _Field.TYPE_BYTES),
        ("frame_id", 7, _Field.TYPE_STRING),
    ),
    "CompressedImage": (
        ("data", 2, _Field.TYPE_BYTES),
        ("format", 3, _Field.TYPE_STRING),
        ("frame_id", 4, _Field.TYPE_STRING),
    ),
}


def _add(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: int, type_name: str = "", many: bool = False
) -> None:
    field = message.field.add(name=name, number=number)
    field.type = kind
    field.label = _Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
    if type_name:
        field.type_name = f".{type_name}"


def _scalar(annotation: Any) -> int:
    if get_origin(annotation) is Literal:
        annotation = type(get_args(annotation)[0])
    if annotation not in _SCALARS:
        raise TypeError(f"no public form for {annotation!r}")
    return _SCALARS[annotation]


def _nest(outer: descriptor_pb2.DescriptorProto, field: str, parts: dict[str, Any]) -> str:
    """A message inside ``outer`` for the items of ``field``; returns its full name."""
    name = "".join(word.capitalize() for word in field.split("_")) + "Item"
    inner = outer.nested_type.add(name=name)
    for number, (part, annotation) in enumerate(parts.items(), start=1):
        _add(inner, part, number, _scalar(annotation))
    return f"{PACKAGE}.{outer.name}.{name}"


def needs_shape(shape: tuple[int | str, ...]) -> bool:
    """Whether the shape of an array does not follow from its length: more than one extent is open."""
    return sum(isinstance(extent, str) for extent in shape) > 1


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, annotation: Any) -> int:
    """Add what holds one field of a struct; returns the next free number."""
    declared = array_annotation(annotation)
    if declared is not None:
        dtype, shape = declared
        _add(message, name, number, _ARRAYS[dtype], many=True)
        if needs_shape(shape):
            _add(message, f"{name}_shape", number + 1, _Field.TYPE_INT64, many=True)
            return number + 2
        return number + 1
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        entry = _nest(message, name, {"key": arguments[0], "value": arguments[1]})
        _add(message, name, number, _Field.TYPE_MESSAGE, entry, many=True)
    elif origin is tuple and get_origin(arguments[0]) is tuple:
        row = _nest(message, name, dict(zip(ROW_FIELDS[name], get_args(arguments[0]), strict=True)))
        _add(message, name, number, _Field.TYPE_MESSAGE, row, many=True)
    elif origin is tuple:
        _add(message, name, number, _scalar(arguments[0]), many=True)
    elif origin in (Union, types.UnionType):
        raise TypeError(f"{name}: no public form for {annotation!r}")
    else:
        _add(message, name, number, _scalar(annotation))
    return number + 1


def _messages_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="visuomotor/messages.proto", package=PACKAGE, syntax="proto3")
    header = file.message_type.add(name="Header")
    number = 1
    for field in msgspec.structs.fields(Header):
        number = _add_field(header, field.name, number, field.type)
    for kind in dict.fromkeys(row.type for row in SERVICES.values() if not row.name.startswith("camera_")):
        message = file.message_type.add(name=kind.__name__)
        _add(message, "header", HEADER_FIELD, _Field.TYPE_MESSAGE, f"{PACKAGE}.Header")
        _add(message, "wire", WIRE_FIELD, _Field.TYPE_BYTES)
        number = FIRST_FIELD
        for field in msgspec.structs.fields(kind):
            if field.name != "header":
                number = _add_field(message, field.name, number, field.type)
    return file


def _image_file(name: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"foxglove/{name}.proto", package="foxglove", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "visuomotor/messages.proto"])
    message = file.message_type.add(name=name)
    _add(message, "timestamp", 1, _Field.TYPE_MESSAGE, "google.protobuf.Timestamp")
    for field, number, kind in _IMAGES[name]:
        _add(message, field, number, kind)
    _add(message, "header", IMAGE_HEADER_FIELD, _Field.TYPE_MESSAGE, f"{PACKAGE}.Header")
    _add(message, "wire", IMAGE_WIRE_FIELD, _Field.TYPE_BYTES)
    return file


@cache
def _files() -> tuple[descriptor_pb2.FileDescriptorProto, ...]:
    timestamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    return (timestamp, _messages_file(), *(_image_file(name) for name in _IMAGES))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in _files():
        pool.Add(file)
    return pool


def schema_name(service: str, lossy: bool = False) -> str:
    """Full name of the protobuf message that holds a service's messages."""
    if service.startswith("camera_"):
        return COMPRESSED_IMAGE if lossy else RAW_IMAGE
    return f"{PACKAGE}.{SERVICES[service].type.__name__}"


@cache
def message_class(name: str) -> Any:
    """Protobuf class of a full name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def schema_data(name: str) -> bytes:
    """Serialized ``FileDescriptorSet`` of a message and what it needs, as MCAP wants it."""
    files = {file.name: file for file in _files()}
    wanted: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def need(file: str) -> None:
        for dependency in files[file].dependency:
            need(dependency)
        wanted[file] = files[file]

    need(_pool().FindMessageTypeByName(name).file.name)
    return descriptor_pb2.FileDescriptorSet(file=wanted.values()).SerializeToString(deterministic=True)
