"""Signals that a stretch of the program takes in its own hands."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what asks a program to end


@contextlib.contextmanager
def handling(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """These signals go to ``handler`` meanwhile; in a thread beside the main one, which gets none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
