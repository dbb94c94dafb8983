"""Standard output of a run's processes, so that neither a full disk nor a flood of lines ends a run.

A node writes straight into its log file: what native code or a crash says arrives there too, and nobody's death or
hang blocks the writer. The node itself watches the size of its log and begins a new one when it is full.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

LOG_BYTES_MAX = 8 << 20  # then the log becomes the old one, and the old one before is given up: 16 MiB a node
LOOK_S = 0.2
TAIL_BYTES = 4000
_STDOUT, _STDERR = 1, 2


class LossyStream:
    """A text stream that gives up what it cannot write: a node must not fall over its own words."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream, without its errors."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream, without its errors."""
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """No word to standard output or error fails in here, whatever they are connected to."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = LossyStream(before[0]), LossyStream(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class LogRotation:
    """Keeps the log of this process, which is its standard output and error, below ``limit_bytes``; and one old one."""

    def __init__(self, path: Path, limit_bytes: int = LOG_BYTES_MAX) -> None:
        self._path = path
        self._limit_bytes = limit_bytes

    def start(self) -> None:
        """Look at it from a thread, which ends with the process."""
        threading.Thread(target=self._watch, name="log rotation", daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_S):
            self.rotate_if_full()

    def rotate_if_full(self) -> bool:
        """Begin a new log when this one is full. On a disk that has no room for another it is begun from nothing."""
        if os.fstat(_STDOUT).st_size < self._limit_bytes:
            return False
        fresh = self._path.with_suffix(".new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError:
            os.ftruncate(_STDOUT, 0)
            return True
        try:
            self._path.replace(old_log(self._path))
            fresh.replace(self._path)
            os.dup2(descriptor, _STDOUT)  # at once for every writer of this process, native code included
            os.dup2(descriptor, _STDERR)
        finally:
            os.close(descriptor)
        return True


def old_log(path: Path) -> Path:
    """Where the lines before those in the log ``path`` are."""
    return path.with_suffix(".log.1")


def last_line(path: Path) -> str:
    """The last line of a log; where it was begun anew just now, of the old one; empty where nothing was said."""
    for file in (path, old_log(path)):
        with contextlib.suppress(OSError), file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            if lines := log.read().decode(errors="replace").strip().splitlines():
                return lines[-1].strip()
    return ""
