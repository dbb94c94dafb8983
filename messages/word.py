"""A person's word to a run that is going on, from a process that is no part of it.

It goes to the supervisor's rendezvous, which publishes it as ``operator`` in its turn; only this host is listened to,
where the folder of the sockets is its owner's alone.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import zmq

from visuomotor.messages.bus import Subscriber
from visuomotor.messages.schema import Message, OperatorKind
from visuomotor.messages.wiring import RunPlace

POLL_S = 0.05
MAX_BYTES = 1 << 16


class WordError(RuntimeError):
    """A word that was not heard, and why."""


class Word(msgspec.Struct, tag=True):
    """What is said."""

    kind: OperatorKind
    text: str = ""


class Published(msgspec.Struct, tag=True):
    """The supervisor has published it, with this sequence number in this episode; ``refused`` says why it has not."""

    episode: int = -1
    seq: int = -1
    refused: str = ""


def say(place: RunPlace, word: Word, *, answer: str, node: str, timeout_s: float) -> Message:
    """Say a word to a run on this host; returns the first message of service ``answer`` that ``node`` made with it.

    Raises WordError when the run refuses it, does not answer, or no such message comes in time.
    """
    deadline = time.monotonic() + timeout_s
    context: zmq.Context[Any] = zmq.Context()
    subscriber = Subscriber(context, place, {answer: [node]})
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
    try:
        while subscriber.unheard:  # or the answer could come before it would be heard
            _check(deadline, timeout_s, f"{node} says no {answer}: is the run still going on?")
            subscriber.poll(POLL_S)
        socket.connect(place.rendezvous)
        socket.send(msgspec.msgpack.encode(word))
        while not socket.poll(int(POLL_S * 1e3)):
            _check(deadline, timeout_s, "the supervisor does not answer")
            subscriber.poll(0.0)
        published = msgspec.msgpack.decode(socket.recv(), type=Published)
        if published.refused:
            raise WordError(published.refused)
        while True:
            for received in subscriber.poll(POLL_S):
                message = received.message
                if message is None or received.episode != published.episode:
                    continue
                if message.header.parents.get("operator", -1) >= published.seq:
                    return message
            _check(deadline, timeout_s, f"{node} has not heard the word")
    finally:
        socket.close()
        subscriber.close()
        context.term()


def _check(deadline: float, timeout_s: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise WordError(f"{what} (waited {timeout_s:.0f} s)")
