"""A table that a node writes for months: bounded in size, and never the end of a run."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

LOG_BYTES_MAX = 32 << 20  # of commands at 10 Hz two thirds of a day


class CsvLog:
    """Rows as they come. A file of ``limit_bytes`` becomes ``<name>.1.csv`` in place of the one before.

    A disk that takes no more ends the log: ``note`` says why, and rows are given up.
    """

    def __init__(self, path: Path, columns: Sequence[str], limit_bytes: int = LOG_BYTES_MAX) -> None:
        self.note = ""
        self._path = path
        self._columns = columns
        self._limit_bytes = limit_bytes
        self._file: TextIO | None = None
        self._begin()

    def write(self, row: Sequence[object]) -> None:
        """One row."""
        if self._file is None:
            return
        try:
            csv.writer(self._file).writerow(row)
            if self._file.tell() >= self._limit_bytes:
                self._file.close()
                self._path.replace(self._path.with_suffix(".1.csv"))
                self._begin()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of bytes that the disk did not take; it is closed all the same
                self._file.close()
            self._file = None

    def _begin(self) -> None:
        try:
            self._file = self._path.open("w", newline="", buffering=1)
            csv.writer(self._file).writerow(self._columns)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.note = f"log stopped: {self._path}: {error.strerror}; what was written before is kept"
        self.close()
