"""What every guard and every watchdog has, whatever the robot: the operator's latch, a heartbeat, a time to hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec

ROUNDING_S = 1e-9  # ages are sums of control periods

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class OperatorLatch:
    """The operator's word: an emergency stop latches, and only a reset at standstill opens it."""

    def __init__(self, start_latched: bool) -> None:
        self._start_latched = start_latched
        self.reset()

    def reset(self) -> None:
        """Begin anew: latched if so configured, otherwise engaged."""
        self.latched = self._start_latched
        self.engaged = True

    def obey(self, words: Iterable[str], standing: bool) -> None:
        """Take the operator's messages of one step by their kinds, oldest first."""
        for kind in words:
            match kind:
                case "emergency_stop":
                    self.latched = True
                case "reset" if standing:
                    self.latched = False
                case "disengage":
                    self.engaged = False
                case "engage":
                    self.engaged = True


class Heartbeat(Generic[T]):
    """The policy's newest good command, kept for as long as it may be held."""

    def __init__(self, heartbeat_s: float) -> None:
        self._heartbeat_s = heartbeat_s
        self.reset()

    def reset(self) -> None:
        """Forget the last command."""
        self._good: tuple[T, float] | None = None  # and the seconds since its capture

    def pick(self, command: T | None, valid: bool, age_s: float, dt_s: float) -> tuple[T | None, bool]:
        """The command to go by, None when there is none left, and whether it is an old one that is held."""
        if command is not None and valid and age_s <= self._heartbeat_s:
            self._good = (command, age_s)
            return command, False
        if self._good is None:
            return None, False
        held, age_s = self._good[0], self._good[1] + dt_s
        self._good = (held, age_s)
        return (held, True) if age_s <= self._heartbeat_s + ROUNDING_S else (None, False)


class HoldTimer:
    """How long the last command may stand. Time is the caller's (simulation or monotonic), in seconds."""

    def __init__(self, hold_s: float) -> None:
        if not hold_s >= 0.0:
            raise ValueError(f"expected hold_s >= 0, got {hold_s}")
        self.hold_s = hold_s
        self.reset(0.0)

    def reset(self, now_s: float) -> None:
        """The hold time starts now."""
        self._since_s = now_s
        self.tripped = False

    def step(self, now_s: float, fresh: bool) -> bool:
        """Whether the hold time is over, given whether a good command has come."""
        # a clock that was set back must not lengthen the hold
        self._since_s = now_s if fresh else min(self._since_s, now_s)
        self.tripped = now_s - self._since_s > self.hold_s + ROUNDING_S
        return self.tripped


class StepTimer:
    """Seconds between a guard's steps, from one control period (before the second step, too) to two."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self.reset()

    def reset(self) -> None:
        """The next step is the first."""
        self._last_t_ns: int | None = None

    def step(self, t_ns: int) -> float:
        """Time since the last step."""
        elapsed = self._period_s if self._last_t_ns is None else (t_ns - self._last_t_ns) * 1e-9
        self._last_t_ns = t_ns
        return min(max(elapsed, self._period_s), 2.0 * self._period_s)


def read_guard_settings(config: dict[str, Any], kind: type[S]) -> S:
    """Settings of a guard from a node's configuration. Raises ValueError that names a wrong key."""
    unknown = set(config) - set(kind.__struct_fields__)
    if unknown:
        raise ValueError(f"guard: unknown key {sorted(unknown)[0]!r}; expected {', '.join(kind.__struct_fields__)}")
    try:
        return msgspec.convert(config, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"guard: {error}") from error
