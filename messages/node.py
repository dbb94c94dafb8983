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
    """The newest message of one input as a step sees it; ``message`` is None before the first one."""

    message: Message | None = None
    updated: bool = False  # arrived since the last step
    alive: bool = False  # younger than the service's max_age_s
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

    def all_ok(self, *services: str) -> bool:
        """Whether every named input (all, when none is named) is alive, at rate and valid."""
        return all(self[name].ok for name in (services or self.keys()))


class Node(Protocol):
    """A part of the graph. ``step`` returns the messages to publish by service; the loop stamps their headers."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    period_s: float | None  # realtime: step on a timer instead of on the trigger input

    def warm_up(self) -> None:
        """Load and run everything once, so that the first step is as fast as the rest."""

    def reset(self, episode: Episode) -> None:
        """Forget everything of the last episode."""

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One tick."""
        ...

    def close(self) -> None:
        """Release devices and threads."""
