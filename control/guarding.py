"""What every guard's node does, whatever the robot: one command per policy command, and one when none comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from visuomotor.control.action import CONTROL_PERIOD_S
from visuomotor.control.supervision import StepTimer
from visuomotor.messages.node import Inputs, M, Tick
from visuomotor.messages.schema import Command, Episode, Header, Message


class Core(Protocol):
    """The guard itself, which knows no messages."""

    settings: Any

    def reset(self) -> None:
        """Forget the last episode."""

    def step(self, situation: Any) -> Any:
        """What the robot may do now, with ``causes`` and ``latched``."""


G = TypeVar("G", bound=Core)


class GuardingNode(ABC, Generic[G]):
    """Runs a guard once per policy command; in realtime also when none came for 1.5 periods."""

    name = "guard"
    outputs = ("command",)
    period_s: float | None = 1.5 * CONTROL_PERIOD_S

    def __init__(self, guard: G) -> None:
        self._guard = guard
        self._timer = StepTimer(CONTROL_PERIOD_S)

    @abstractmethod
    def _situation(self, inputs: Inputs, dt_s: float) -> Any:
        """What the guard judges, from the messages and the time since its last step."""

    @abstractmethod
    def _move(self, decision: Any) -> Mapping[str, Any]:
        """The movement that a decision allows: fields of ``Command``."""

    @property
    def guard(self) -> G:
        """The core."""
        return self._guard

    def warm_up(self) -> None:
        """Nothing to load: the first step is as fast as the rest."""

    def reset(self, episode: Episode) -> None:
        """Forget the last episode; the guard is engaged or latched as configured."""
        self._guard.reset()
        self._timer.reset()

    def step(self, tick: Tick, inputs: Inputs) -> Mapping[str, Message]:
        """One command, always: a guard that does not know what to do stops the robot."""
        decision = self._guard.step(self._situation(inputs, self._timer.step(tick.t_ns)))
        movement = self._move(decision)
        header = Header(valid=True)
        return {"command": Command(header=header, causes=decision.causes, latched=decision.latched, **movement)}

    def _is_fresh(self, inputs: Inputs, service: str) -> bool:
        return bool(inputs[service].valid and inputs[service].age_s <= self._guard.settings.heartbeat_s)

    def _get_fresh(self, inputs: Inputs, service: str, kind: type[M]) -> M | None:
        return inputs.get_message(service, kind) if self._is_fresh(inputs, service) else None

    def close(self) -> None:
        """Nothing to release."""
