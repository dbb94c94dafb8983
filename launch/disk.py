"""A disk that is full or nearly so: seen while a run goes on, said once, and told from other failures."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path

LOOK_S = 10.0
LOW_BYTES = 50 * 10**6
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskWatch:
    """Looks at the disk of a run folder every few seconds."""

    def __init__(
        self,
        folder: Path,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._free_bytes = free_bytes
        self._now_s = now_s
        self._due_s = now_s()
        self.low = False

    def look(self) -> str:
        """What there is to say: something each time the disk has become nearly full, or is no more; mostly nothing."""
        if self._now_s() < self._due_s:
            return ""
        self._due_s = self._now_s() + LOOK_S
        try:
            free = self._free_bytes(self._folder)
        except OSError:
            return ""
        before, self.low = self.low, free < LOW_BYTES
        if self.low == before:
            return ""
        if self.low:
            return (
                f"{self._folder}: {free / 1e6:.0f} MB free on its disk; logs and results may be lost, the run goes on"
            )
        return f"{self._folder}: {free / 1e6:.0f} MB free on its disk again"


def explain_disk_error(error: BaseException) -> str:
    """What is wrong with the disk where that is why ``error`` (or what caused it) was raised; empty otherwise."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            said = f"{cause.filename or 'output'}: {cause.strerror}" if cause is error else str(error)
            return f"{said}; free some room and start again (visuomotor doctor says how much there is)"
        cause = cause.__cause__
    return ""
