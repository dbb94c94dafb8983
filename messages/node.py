"""What a node is: typed inputs and outputs around a pure step. The loops that run one live in ``messages.loop``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeVar

import msgspec

from visuomotor.messages.schema import Episode, Message

M = TypeVar("M", bound=Message)
ClockName = Literal["lockstep", "realtime"]


class Input(msgspec.Struct, frozen=True):
    """A service that a node reads.

    In lockstep the step of tick k waits for the message of tick ``k - lag`` (none before tick 0). In realtime a message
    on the ``trigger`` input starts a step, the others are read newest-only. ``optional`` inputs never hold a step back.
    """

    service: str
    trigger: bool = False
    lag: int = 0
    optional: bool = False


class Sample(msgspec.Struct):
    """The newest message of one input as a step sees it.

    ``message`` is None before the first one, when it is older than the service's ``max_age_s`` (services on event do
    not age) or from the future, and in lockstep when its publisher has sent nothing at this tick. ``messages`` are all
    that arrived since the last step, oldest first: more than one for services whose queue is ``all``.
    """

    message: Message | None = None
    messages: tuple[Message, ...] = ()
    updated: bool = False  # arrived since the last step
    alive: bool = False  # younger than the service's max_age_s, and not from the future
    rate_ok: bool = False  # arrives at no less than half of the service's rate
    age_s: float = float("inf")  # since capture

    @property
    def valid(self) -> bool:
        """Whether there is a message and its publisher stands by it."""
        return self.message is not None and self.message.header.valid

    @property
    def ok(self) -> bool:
        """Alive, at rate and valid."""
        return self.alive and self.rate_ok and self.valid


class Tick(msgspec.Struct, frozen=True):
    """The time of one step."""

    episode: int
    tick: int
    t_ns: int  # simulation time in lockstep, monotonic clock in realtime
    clock: ClockName


class Inputs(dict[str, Sample]):
    """Service name -> sample, for every declared input."""

    def get_message(self, service: str, kind: type[M]) -> M | None:
        """The newest message of ``service``, or None when there is none yet."""
        message = self[service].message
        if message is None:
            return None
        if not isinstance(message, kind):
            raise TypeError(f"{service}: expected {kind.__name__}, got {type(message).__name__}")
        return message

    def drain(self, service: str, kind: type[M]) -> list[M]:
        """Every message of ``service`` that arrived since the last step, oldest first."""
        messages = self[service].messages
        for message in messages:
            if not isinstance(message, kind):
                raise TypeError(f"{service}: expected {kind.__name__}, got {type(message).__name__}")
        return list(messages)  # type: ignore[arg-type]

    def all_ok(self, *services: str) -> bool:
        """Whether every named input (all, when none is named) is alive, at rate and valid."""
        return all(self[name].ok for name in (services or self.keys()))


class Node(Protocol):
    """A part of the graph. ``step`` returns the messages to publish by service; the loop stamps their headers.

    Stamped are run, episode, tick, sequence, ``parents`` unless set, and ``t_capture_ns`` unless set: the capture
    time of the trigger, else of the first input that is neither lagged nor optional, else that of the step. ``valid``
    stays what the node made it. Arrays of received messages are read-only.

    More attributes are read where a node has them: ``provider: str`` and ``note: str``, published with its health;
    ``stages: list[tuple[str, int, int]]`` (name, start, end on ``time.monotonic_ns``), emptied before each step and
    published as its trace; ``hear(received)``, called with every message of its inputs as it comes, whatever its
    episode, the last time after the stop. A node that sends a ``truth`` with ``end`` set, or sets ``finished = True``,
    is stepped no more in this episode.
    """

    @property
    def name(self) -> str:
        """Unique in its graph."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What it reads."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Services that it publishes."""

    @property
    def period_s(self) -> float | None:
        """Realtime: step on a timer; with a trigger, too: on the trigger, and at the latest after this period."""

    def warm_up(self) -> None:
        """Load and run everything once, so that the first step is as fast as the rest."""

    def reset(self, episode: Episode) -> None:
        """Forget everything of the last episode."""

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One tick."""
        ...

    def close(self) -> None:
        """Release devices and threads."""
