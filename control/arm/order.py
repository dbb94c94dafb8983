"""The text of an order, such as "red cube, 2 blue cylinders", as counts and bins per class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from visuomotor.control.arm.config import CELL, CLASS_NAMES

ALL = 1000  # what a line without a count asks for: every part of the class that comes
COUNT_MAX = 99
_LINE = re.compile(r"(?:(?P<count>[+-]?\d+)\s+)?(?P<name>\D.*)")


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    """So many parts of one class into one bin."""

    class_id: int
    count: int
    bin_index: int


def parse_order(
    text: str, class_names: Sequence[str] = CLASS_NAMES, bins: int = len(CELL.bin_centre_m)
) -> tuple[OrderLine, ...]:
    """Lines of an order: classes by name (singular or plural), each with an optional count, separated by commas.

    A line without a count asks for ``ALL``. Lines take the bins by turns, in the order in which they are written.
    Raises ValueError that quotes the line: nothing ordered, an unknown class, one named twice, a count out of range.
    """
    lines: list[OrderLine] = []
    for index, (count, name) in enumerate(_split(text)):
        class_id = _find_class(name, class_names)
        if any(line.class_id == class_id for line in lines):
            raise ValueError(f"order: {class_names[class_id]!r} is named twice; write one line with the sum")
        lines.append(OrderLine(class_id=class_id, count=count, bin_index=index % bins))
    return tuple(lines)


def to_arrays(lines: Sequence[OrderLine], classes: int = len(CLASS_NAMES)) -> tuple[np.ndarray, np.ndarray]:
    """``wanted`` and ``bin_index`` as in ``messages.schema.Order``, int32 [C]; bin -1 for what is not ordered."""
    wanted, bin_index = np.zeros(classes, np.int32), np.full(classes, -1, np.int32)
    for line in lines:
        wanted[line.class_id], bin_index[line.class_id] = line.count, line.bin_index
    return wanted, bin_index


def format_order(lines: Sequence[OrderLine], class_names: Sequence[str] = CLASS_NAMES) -> str:
    """The text of an order; ``parse_order`` gives the same lines back when they take the bins by turns."""
    return ", ".join((f"{line.count} " if line.count < ALL else "") + class_names[line.class_id] for line in lines)


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Count and name of each line as written."""
    for part in text.split(","):
        words = " ".join(part.split())
        found = _LINE.fullmatch(words)
        if found is None:
            raise ValueError(f"order: expected 'CLASS' or 'COUNT CLASS' separated by commas, got {words!r} in {text!r}")
        count = int(found["count"]) if found["count"] is not None else ALL
        if found["count"] is not None and not 1 <= count <= COUNT_MAX:
            raise ValueError(f"order: {words!r}: expected a count of 1 to {COUNT_MAX}, got {count}")
        yield count, found["name"]


def _find_class(name: str, class_names: Sequence[str]) -> int:
    word = name.casefold()
    for class_id, known in enumerate(class_names):
        if word in (known.casefold(), known.casefold() + "s"):
            return class_id
    raise ValueError(f"order: unknown part {name!r}; expected one of {', '.join(class_names)}")
