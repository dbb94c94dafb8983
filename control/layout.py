"""What a policy sees, as a table: names, units, ranges and order of an observation's numbers, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Feature:
    """One number of the observation."""

    name: str
    unit: str
    low: float
    high: float


def make_features(prefix: str, *rows: tuple[str, str, float, float]) -> Iterator[Feature]:
    """Features from name (after the prefix), unit and range."""
    for name, unit, low, high in rows:
        yield Feature(prefix + name, unit, low, high)


@dataclass(frozen=True)
class ObservationLayout:
    """Names, units and ranges of an observation, in order.

    ``version`` is raised when the meaning of a feature changes without its name or range.
    """

    features: tuple[Feature, ...]
    version: int

    @property
    def size(self) -> int:
        """D, the number of features."""
        return len(self.features)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each feature; a lateral quantity is left positive."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """SI unit of each feature, empty for a share or a flag."""
        return tuple(feature.unit for feature in self.features)

    @cached_property
    def low(self) -> np.ndarray:
        """Least value, float32 [D]."""
        return np.array([feature.low for feature in self.features], np.float32)

    @cached_property
    def high(self) -> np.ndarray:
        """Greatest value, float32 [D]."""
        return np.array([feature.high for feature in self.features], np.float32)

    @cached_property
    def hash(self) -> str:
        """Hex digest of version, names, order, units and ranges."""
        rows = [f"{f.name}|{f.unit}|{f.low!r}|{f.high!r}" for f in self.features]
        return hashlib.sha256("\n".join([f"version {self.version}", *rows]).encode()).hexdigest()

    def index(self, name: str) -> int:
        """Column of a feature."""
        return self.names.index(name)
