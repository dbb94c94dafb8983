"""What a run tells the service manager that started it: systemd's notification protocol, see sd_notify(3).

Datagrams of ``KEY=value`` lines to the socket that ``NOTIFY_SOCKET`` names; without one nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

SHARE_OF_LIMIT = 0.4  # sd_watchdog_enabled(3) asks for at least two words within the limit
STATUS_PERIOD_S = 5.0


class ServiceManager:
    """The service manager's ear. A word that it does not take is lost, never waited for and never an error.

    ``watchdog_s`` is how long it waits for a word before it takes the run for hung; 0 where it does not watch.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0, now_s: Callable[[], float] = time.monotonic) -> None:
        self.watchdog_s = watchdog_s
        self._now_s = now_s
        self._alive_due_s = 0.0
        self._status_due_s = 0.0
        self._stopping = False
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """All nodes are warmed up."""
        self._send("READY=1", f"STATUS={status}")

    def alive(self) -> None:
        """Everything is well at this moment. Call it as often as one likes, and only then."""
        if self.watchdog_s > 0.0 and not self._stopping and self._now_s() >= self._alive_due_s:
            self._alive_due_s = self._now_s() + SHARE_OF_LIMIT * self.watchdog_s
            self._send("WATCHDOG=1")

    def status(self, text: Callable[[], str]) -> None:
        """What ``systemctl status`` shows; asked for and sent every few seconds, however often this is called."""
        if self._socket is not None and not self._stopping and self._now_s() >= self._status_due_s:
            self._status_due_s = self._now_s() + STATUS_PERIOD_S
            self._send(f"STATUS={text()}")

    def stopping(self, status: str) -> None:
        """The run comes to its end, which has a limit of its own there; only the first call says so."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1", f"STATUS={status}")

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            data = "\n".join(" ".join(line.split("\n")) for line in lines).encode()
            with contextlib.suppress(OSError):
                self._socket.sendto(data, self._address)


def find_service_manager(environment: MutableMapping[str, str] | None = None) -> ServiceManager:
    """The one that ``environment`` (default: this process's) names.

    Its variables are taken out of the environment: the nodes shall not speak for the run.
    """
    env = os.environ if environment is None else environment
    address = env.pop("NOTIFY_SOCKET", "")
    limit_us = env.pop("WATCHDOG_USEC", "")
    meant_for = env.pop("WATCHDOG_PID", str(os.getpid()))
    watched = limit_us.isdecimal() and meant_for == str(os.getpid())
    return ServiceManager(address if address[:1] in ("/", "@") else "", int(limit_us) * 1e-6 if watched else 0.0)
