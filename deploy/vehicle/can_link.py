"""One CAN bus through python-can: frames out, and a thread that keeps what came in, with its age.

Any interface of python-can works: ``socketcan`` on a car, ``udp_multicast`` between processes of one host.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import can
import msgspec

from visuomotor.deploy.vehicle.can_codec import SHIPPED_DBC, CanCodec, CanError, Decoded

RECEIVE_S = 0.1  # how long the thread waits for a frame before it looks whether to stop
ERROR_BUS_OFF = 0x40  # class of an error frame, as Linux's can/error.h has it
UNREAD_MAX = 1000  # frames of each message kept for ``drain``; at 50 Hz the last twenty seconds


class Reading(msgspec.Struct, frozen=True):
    """The values of one frame and the monotonic time at which it was read."""

    values: dict[str, float]
    t_ns: int


class CanLink:
    """Sends some messages of a DBC and receives others.

    Frames of messages that are not in ``receive`` are passed over (some interfaces return what one sent oneself).
    ``faults`` counts frames that were not believed, by cause, ``lost`` those that the counters miss, ``overrun``
    readings that nobody drained, ``error frame`` and ``bus off`` what the controller reports, ``send`` and ``receive``
    errors of the interface by their class. An interface that is down is asked again and again: what was read grows old
    meanwhile, and readers treat it as lost.
    """

    def __init__(
        self,
        receive: Collection[str],
        *,
        interface: str,
        channel: str,
        dbc: Path = SHIPPED_DBC,
        **options: Any,
    ) -> None:
        self.name = f"{interface}:{channel}"
        self.codec = CanCodec(dbc)
        self.counts: Counter[str] = Counter()
        self._receive = {self.codec.message(name).frame_id: name for name in receive}
        self._newest: dict[str, Reading] = {}
        self._unread: dict[str, deque[Reading]] = {name: deque(maxlen=UNREAD_MAX) for name in receive}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self.down = ""  # why nothing comes, as far as the interface tells; empty from the next frame on
        try:
            self._bus = can.Bus(interface=interface, channel=channel, **options)
        except (can.CanError, OSError, ValueError, TypeError, ImportError, NotImplementedError) as error:
            raise CanError(f"CAN {self.name}: does not open: {error}; expected an interface of python-can") from error
        self.transmit: Callable[[can.Message], None] = partial(self._bus.send, timeout=0.0)
        self._thread = threading.Thread(target=self._read, name=f"CAN {self.name}", daemon=True)
        self._thread.start()

    def send(self, name: str, values: Mapping[str, float]) -> bool:
        """Send the next frame of a message; False when the interface did not take it, which is counted."""
        frame_id, data = self.codec.encode(name, values)
        extended = self.codec.message(name).is_extended_frame
        try:
            self.transmit(can.Message(arbitration_id=frame_id, data=data, is_extended_id=extended))
        except (can.CanError, OSError) as error:
            self._count(f"send {type(error).__name__}")
            return False
        return True

    def newest(self, name: str, max_age_s: float = float("inf")) -> Reading | None:
        """The newest good frame of a message, or None before the first and when it is older than ``max_age_s``."""
        self._check()
        with self._lock:
            reading = self._newest.get(name)
        if reading is None or (time.monotonic_ns() - reading.t_ns) * 1e-9 > max_age_s:
            return None
        return reading

    def drain(self, name: str) -> list[Reading]:
        """Every good frame of a message since the last call, oldest first."""
        self._check()
        with self._lock:
            readings, self._unread[name] = list(self._unread[name]), deque(maxlen=UNREAD_MAX)
        return readings

    @property
    def faults(self) -> dict[str, int]:
        """Everything that went wrong so far, by cause."""
        with self._lock:
            return dict(self.counts + self.codec.refused)

    def close(self) -> None:
        """Stop the thread and leave the bus."""
        self._stop.set()
        self._thread.join(10.0 * RECEIVE_S)
        self._bus.shutdown()

    def _check(self) -> None:
        if self._error is not None:
            raise CanError(f"CAN {self.name}: {self._error}")

    def _read(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    frame = self._bus.recv(RECEIVE_S)
                except (can.CanError, OSError) as error:
                    self.down = str(error)
                    self._count(f"receive {type(error).__name__}")
                    self._stop.wait(RECEIVE_S)
                    continue
                if frame is not None:
                    self._take(frame)
        except Exception as error:  # handed to whoever reads next
            self._error = error

    def _count(self, cause: str) -> None:
        with self._lock:
            self.counts[cause] += 1

    def _take(self, frame: can.Message) -> None:
        if frame.is_error_frame:
            off = bool(frame.arbitration_id & ERROR_BUS_OFF)
            self.down = "bus off" if off else self.down
            self._count("bus off" if off else "error frame")
            return
        if frame.is_remote_frame or frame.arbitration_id not in self._receive:
            return
        self.down = ""
        now_ns = time.monotonic_ns()
        with self._lock:
            decoded: Decoded | None = self.codec.decode(frame.arbitration_id, bytes(frame.data))
            if decoded is None:
                return
            self.counts["lost"] += decoded.lost
            unread = self._unread[decoded.message]
            self.counts["overrun"] += len(unread) == UNREAD_MAX
            reading = self._newest[decoded.message] = Reading(decoded.values, now_ns)
            unread.append(reading)


def open_link(receive: Collection[str], config: Mapping[str, Any]) -> CanLink:
    """Link from {interface, channel, and optionally dbc and options for python-can}; CanError names the bus."""
    dbc = Path(config["dbc"]) if config.get("dbc") else SHIPPED_DBC
    options = dict(config.get("options", {}))
    return CanLink(receive, interface=str(config["interface"]), channel=str(config["channel"]), dbc=dbc, **options)
