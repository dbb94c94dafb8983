"""What a policy's observation and action arrays must look like, and the check of a user's array against it."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np

SpaceKind = Literal["box", "discrete", "multi_discrete", "multi_binary"]


class SpaceError(ValueError):
    """An observation that is not what the policy was made for; names the entry, what was found and expected."""


class ArraySpec(msgspec.Struct, frozen=True, kw_only=True):
    """One array of an observation, or the action: without its batch dimension.

    ``array`` is its name in the graph, ``key`` that in the user's dict (None: the observation is this one array).
    ``names`` and ``units`` name every number in row-major order; an image has one for all its pixels. ``low`` and
    ``high`` (None: unbounded) have the length of ``names``; ``choices`` is the number of values of each integer.
    """

    array: str
    key: str | None = None
    kind: SpaceKind = "box"
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    image: bool = False
    choices: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    def to_batch(self, value: Any) -> tuple[np.ndarray, bool]:
        """``value`` as [B, *shape] in the graph's dtype, and whether it came with the batch dimension.

        An image may come channels-last; it is transposed where its shape says so. Raises SpaceError on another shape,
        on a dtype that would lose its meaning, on a value that is not finite and on an integer out of its range.
        """
        found = np.asarray(value)
        batched = self._batch(found)
        if batched is None and self.image and found.ndim >= 3:
            batched = self._batch(np.moveaxis(found, -1, -3))
        if batched is None:
            many = f"({', '.join(['batch', *map(str, self.shape)])})"
            raise SpaceError(f"{self.array}: expected shape {self.shape} or {many}, got {found.shape}")
        rows, single = batched
        if len(rows) == 0:
            raise SpaceError(f"{self.array}: expected at least one row, got shape {found.shape}")
        return self._check_values(self._cast(rows)), not single

    def find_name(self, index: tuple[int, ...]) -> str:
        """Name of the number at ``index`` (without batch dimension)."""
        if len(self.names) <= 1:
            return self.names[0] if self.names else self.array
        return self.names[int(np.ravel_multi_index(index, self.shape))]

    def _batch(self, found: np.ndarray) -> tuple[np.ndarray, bool] | None:
        if found.shape == self.shape:
            return found[None], True
        return (found, False) if found.ndim > 0 and found.shape[1:] == self.shape else None

    def _cast(self, rows: np.ndarray) -> np.ndarray:
        wanted = np.dtype(self.dtype)
        if rows.dtype.kind not in "fiub" or (wanted.kind in "iub" and rows.dtype.kind == "f"):
            raise SpaceError(f"{self.array}: expected dtype {self.dtype}, got {rows.dtype}")
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(rows.astype(wanted))
        if wanted.kind in "iub" and not np.array_equal(cast, rows):
            raise SpaceError(f"{self.array}: expected values of dtype {self.dtype}, got {rows.min()} to {rows.max()}")
        return cast

    def _check_values(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(rows))[0])
            raise SpaceError(f"{self.array}: {self.find_name(at[1:])}: expected a finite number, got {rows[at]}")
        if self.kind != "box":
            limit = np.array(self.choices or (2,)).reshape(self.shape if self.kind == "multi_discrete" else ())
            wrong = (rows < 0) | (rows >= limit)
            if wrong.any():
                at = tuple(int(i) for i in np.argwhere(wrong)[0])
                most = int(np.broadcast_to(limit, rows.shape)[at]) - 1
                raise SpaceError(f"{self.array}: {self.find_name(at[1:])}: expected 0 to {most}, got {rows[at]}")
        return rows


def to_bound(value: float) -> float | None:
    """A bound as JSON can hold it: None where it is infinite."""
    return float(value) if math.isfinite(value) else None
