"""One clock for a run on several hosts: that of the first host, which the others follow by a measured offset.

CLOCK_MONOTONIC starts at the boot of each machine. A host that joins exchanges time stamps with the first (as NTP does,
RFC 5905 section 8), keeps the best exchange, and writes offset and bound into a file that its nodes read. So every
time on the bus is on one clock, ages and latencies are right wherever they are computed, and never nearer than bound.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import msgspec

DRIFT = 1e-4  # how far two clocks may drift apart, s per s; RFC 5905 takes 1.5e-5 for quartz, slewing adds to it
READ_PERIOD_NS = 500_000_000
_RECORD = struct.Struct("<qqq")


class Offset(msgspec.Struct, frozen=True):
    """``t_first = t_own + offset_ns``, give or take ``bound_ns``, measured at ``at_ns`` of the own clock."""

    offset_ns: int
    bound_ns: int
    at_ns: int

    def bound_at(self, now_ns: int) -> int:
        """The bound with what the clocks may have drifted since."""
        return self.bound_ns + round(DRIFT * max(0, now_ns - self.at_ns))


def measure_offset(sent_ns: int, received_ns: int, answered_ns: int, back_ns: int) -> Offset:
    """Offset from one exchange: sent and back on the own clock, received and answered on the first host's.

    The true offset is within half of the time on the way, however that is shared between the two directions.
    """
    on_the_way_ns = (back_ns - sent_ns) - (answered_ns - received_ns)
    offset_ns = ((received_ns - sent_ns) + (answered_ns - back_ns)) // 2
    return Offset(offset_ns, max(0, on_the_way_ns) // 2 + 1, back_ns)


def better_offset(known: Offset | None, new: Offset) -> Offset:
    """The one that is bounded more closely now."""
    return new if known is None or new.bound_ns <= known.bound_at(new.at_ns) else known


def write_offset(path: Path, offset: Offset) -> None:
    """Hand an offset to the nodes of this host, whole or not at all."""
    partial = path.with_suffix(".tmp")
    partial.write_bytes(_RECORD.pack(offset.offset_ns, offset.bound_ns, offset.at_ns))
    partial.replace(path)


class RunClock:
    """``now_ns`` of the run in this process. Without a file it is the machine's own clock."""

    def __init__(self, file: str = "") -> None:
        self._file = file
        self._read_due_ns = 0
        self._last_ns = 0
        self._offset_ns = 0

    def now_ns(self) -> int:
        """Time of the run; never goes back when a better offset becomes known."""
        now = self.convert(time.monotonic_ns())
        self._last_ns = max(self._last_ns, now)
        return self._last_ns

    def convert(self, own_ns: int) -> int:
        """Time of the run for one of this machine's clock."""
        if self._file and own_ns >= self._read_due_ns:
            self._read_due_ns = own_ns + READ_PERIOD_NS
            self._offset_ns = self._read()
        return own_ns + self._offset_ns

    def _read(self) -> int:
        try:
            offset_ns, _, _ = _RECORD.unpack(Path(self._file).read_bytes())
        except FileNotFoundError:
            if self._last_ns == 0:
                raise
            return self._offset_ns  # the run directory is being cleared: this process ends soon
        return int(offset_ns)
