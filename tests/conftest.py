"""What tests of several folders need."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence

import psutil
import pytest

Outlast = Callable[[Sequence[psutil.Process]], list[psutil.Process]]


@pytest.fixture
def outlast() -> Outlast:
    """Waits for processes to end; returns those that still run after a minute.

    An orphan that has ended is a zombie until PID 1 waits for it, which may take that one minutes: it has ended.
    """

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def wait(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
        deadline = time.monotonic() + 60.0
        while (left := [p for p in processes if runs(p)]) and time.monotonic() < deadline:
            select.select([], [], [], 0.02)  # leaves the cores to them
        return left

    return wait
