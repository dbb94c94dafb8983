"""Messages between the bus and a slow disk: a queue that is bounded in bytes."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """First in, first out, for one producer and one consumer; holds at most ``limit_bytes``, and one item always."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._held_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T, size_bytes: int, *, wait: bool) -> bool:
        """Add an item; False when there is no room and ``wait`` is not set, or when the backlog is closed."""
        with self._changed:
            while not self._closed and self._items and self._held_bytes + size_bytes > self._limit_bytes:
                if not wait:
                    return False
                self._changed.wait()
            if self._closed:
                return False
            self._items.append((item, size_bytes))
            self._held_bytes += size_bytes
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float) -> T | None:
        """The oldest item; None when nothing came in time, or when the backlog is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            if not self._items:
                return None
            item, size_bytes = self._items.popleft()
            self._held_bytes -= size_bytes
            self._changed.notify_all()
            return item

    @property
    def ended(self) -> bool:
        """Closed and empty."""
        with self._changed:
            return self._closed and not self._items

    def close(self, *, discard: bool = False) -> None:
        """Take nothing more; with ``discard`` give up what waits."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
                self._held_bytes = 0
            self._changed.notify_all()
