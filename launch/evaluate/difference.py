"""What differs between two messages of one type, field by field, and summed up over the ticks of a topic."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from visuomotor.messages.schema import Message

SHOWN_CHARACTERS = 60
IGNORED = ("run_id", "episode")  # which run it was, not what was said in it


class FieldDifference(msgspec.Struct, frozen=True):
    """One field that differs, with its values ``at`` the first place of an array where they do.

    ``largest`` is the largest absolute difference of its numbers, None where it has none.
    """

    field: str
    recorded: str
    replayed: str
    largest: float | None = None
    at: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.describe("recorded", "replayed")

    def describe(self, one: str, other: str) -> str:
        """A sentence in which the two values are called ``one`` and ``other``."""
        place = str(list(self.at)) if self.at else ""
        text = f"{self.field}{place}: {one} {self.recorded}, {other} {self.replayed}"
        return text if self.largest is None else f"{text} (largest difference {self.largest:.3g})"


class TopicDifference(msgspec.Struct, kw_only=True):
    """One topic over the ticks that were compared."""

    service: str
    recorded_digest: str = ""
    replayed_digest: str = ""
    ticks: int = 0
    changed: int = 0  # ticks on which the bytes differ
    first_episode: int = -1
    first_tick: int = -1
    first_fields: list[FieldDifference] = []
    largest: dict[str, float] = {}  # field -> largest difference over all ticks

    def add(self, episode: int, tick: int, fields: list[FieldDifference]) -> None:
        """Take in the differences of one tick."""
        self.changed += 1
        if self.first_tick < 0:
            self.first_episode, self.first_tick, self.first_fields = episode, tick, fields
        for field in fields:
            if field.largest is not None:
                self.largest[field.field] = max(self.largest.get(field.field, 0.0), field.largest)


def compare(recorded: Message | None, replayed: Message | None) -> list[FieldDifference]:
    """Fields in which two messages differ, header included; a missing message is one difference."""
    if recorded is None or replayed is None:
        one, other = ("nothing" if m is None else "a message" for m in (recorded, replayed))
        return [] if one == other else [FieldDifference("message", one, other)]
    return _compare_structs("", recorded, replayed)


def _compare_structs(prefix: str, a: msgspec.Struct, b: msgspec.Struct) -> list[FieldDifference]:
    found: list[FieldDifference] = []
    for name in a.__struct_fields__:
        if name in IGNORED:
            continue
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, msgspec.Struct):
            found += _compare_structs(f"{prefix}{name}.", x, y)
        elif isinstance(x, np.ndarray):
            if x.shape != y.shape:
                found.append(FieldDifference(f"{prefix}{name}", f"shape {list(x.shape)}", f"shape {list(y.shape)}"))
            elif x.tobytes() != y.tobytes():
                found.append(_compare_arrays(f"{prefix}{name}", x, y))
        elif repr(x) != repr(y):
            numbers = isinstance(x, (int, float)) and isinstance(y, (int, float))
            largest = abs(float(x) - float(y)) if numbers and not isinstance(x, bool) else None
            found.append(FieldDifference(f"{prefix}{name}", _short(x), _short(y), largest))
    return found


def _compare_arrays(name: str, x: np.ndarray, y: np.ndarray) -> FieldDifference:
    differs = x != y
    at = np.argwhere(differs | (np.isnan(x) != np.isnan(y)) if x.dtype.kind == "f" else differs)
    first = tuple(int(i) for i in at[0]) if len(at) else (0,) * x.ndim
    gap = np.abs(x.astype(np.float64) - y.astype(np.float64))
    largest = float(np.nanmax(gap)) if np.isfinite(gap).any() else None
    return FieldDifference(name, _short(x[first]), _short(y[first]), largest, first)


def _short(value: Any) -> str:
    text = repr(value.item()) if isinstance(value, np.generic) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
