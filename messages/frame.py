"""What goes over a socket: one part, the msgpack pair of a head of fixed size and the body of a message.

The head begins with the schema hash of the service, which is also the subscription prefix, so that a reader never gets
bytes of another schema; then the run, so that it never takes those of another run.
"""

from __future__ import annotations

import hashlib
import struct
from functools import cache

import msgspec

from visuomotor.messages.wire import Buffer, schema_hash

HEAD = struct.Struct("<8s8sqiiB")  # schema, run, publish time ns, episode, tick, kind
MARK = bytes((0x92, 0xC4, HEAD.size))  # msgpack: a pair, of which the first is so many bytes
BODY_START = len(MARK) + HEAD.size
PREFIX_SIZE = len(MARK) + 8
EMPTY_BODY = b"\xc0"
DATA, PROBE, ABSENT = range(3)  # a message; is anybody there?; nothing at this tick


class Head(msgspec.Struct, frozen=True):
    """Decoded head of a frame."""

    t_publish_ns: int
    episode: int
    tick: int
    kind: int


@cache
def prefix(service: str) -> bytes:
    """First bytes of every frame of a service."""
    return MARK + bytes.fromhex(schema_hash(service))


@cache
def run_tag(run_id: str) -> bytes:
    """8 bytes that stand for a run."""
    return hashlib.sha256(run_id.encode()).digest()[:8]


def pack_head(service: str, run_id: str, head: Head) -> bytes:
    """Bytes of a head."""
    return HEAD.pack(
        prefix(service)[len(MARK) :], run_tag(run_id), head.t_publish_ns, head.episode, head.tick, head.kind
    )


def unpack_head(run_id: str, frame: Buffer) -> Head | None:
    """Head of a frame whose prefix is known to be right; None when it is too short or of another run."""
    if len(frame) < BODY_START:
        return None
    _, run, t_publish_ns, episode, tick, kind = HEAD.unpack_from(frame, len(MARK))
    if run != run_tag(run_id) or kind not in (DATA, PROBE, ABSENT):
        return None
    return Head(t_publish_ns, episode, tick, kind)
