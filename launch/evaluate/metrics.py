"""What the metrics of any robot are: fed with the messages that a run publishes, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import msgspec

from visuomotor.launch.tasks import load, parts_of
from visuomotor.messages.schema import Command, Message, Truth

DT_S = 0.1


class Column(msgspec.Struct, frozen=True):
    """One column of the table of results, beside seed, end, time and the guard's ticks."""

    title: str
    key: str
    digits: int = 0
    scale: float = 1.0
    of: str = ""  # key of the number of which this is a part


class Ratio(msgspec.Struct, frozen=True):
    """A share over all episodes together, such as of parts: sums of an episode's numbers over sums of others."""

    name: str
    above: tuple[str, ...]
    below: tuple[str, ...]


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """How the rows of one robot are summed up and shown."""

    shares: tuple[str, ...]  # true or false in each episode
    means: tuple[str, ...]
    ratios: tuple[Ratio, ...] = ()
    groups: dict[str, str] = {}  # key of a row, which holds group -> [above, below] -> name of the pooled share
    columns: tuple[Column, ...]


class Metrics(Protocol):
    """Accumulates one episode; feed every tick's messages, then read ``result``."""

    measures: ClassVar[Measures]

    def add(self, messages: Mapping[str, Message]) -> None:
        """Messages of one tick by service."""

    @property
    def end(self) -> str:
        """How the episode ended so far; empty while it runs."""

    @property
    def success(self) -> bool:
        """Whether it did what it should, so far."""

    def result(self, seed: int, end: str = "") -> dict[str, Any]:
        """The episode's row of ``score.json``. ``end`` overrides the world's word (a fault found by the supervisor)."""

    @staticmethod
    def progress(truth: Truth) -> tuple[str, float]:
        """In words and as a share, for who watches a run."""


def make_metrics(kind: str) -> Metrics:
    """Fresh metrics of a task, or of a profile's kind."""
    metrics: Metrics = load(parts_of(kind).metrics)()
    return metrics


def measures_of(kind: str) -> Measures:
    """How a task's rows are summed up."""
    found: Measures = load(parts_of(kind).metrics).measures
    return found


class GuardCount:
    """What the guard did in one episode."""

    def __init__(self) -> None:
        self._causes: Counter[str] = Counter()
        self._acted = 0
        self._commands = 0

    def add(self, messages: Mapping[str, Message]) -> None:
        """Messages of one tick; only ``command`` is read."""
        command = messages.get("command")
        if isinstance(command, Command):
            self._commands += 1
            self._acted += bool(command.causes)
            self._causes.update(command.causes)

    def result(self) -> dict[str, Any]:
        """Ticks in which it acted, of all, and by cause."""
        causes = dict(sorted(self._causes.items()))
        return {"guard_ticks": self._acted, "ticks": self._commands, "guard_interventions": causes}
