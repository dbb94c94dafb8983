"""Doors between hosts: tcp sockets that only those open who hold a key on the list, and how they are told apart.

Every door is a CURVE server (RFC 26) with a ZAP domain of its own (RFC 27). ``Doorkeeper`` answers for all doors of a
process; without one a door lets nobody in. What fails the handshake never sees a byte of a message: it is counted by
cause, and named once in the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.utils.monitor
from zmq.utils import z85

from visuomotor.messages.keys import load_pair, load_public
from visuomotor.messages.network import CURVE, Network, NetworkError

ZAP_ADDRESS = "inproc://zeromq.zap.01"
# Of the transport: a connection that says nothing is ended and made anew. Late enough for a busy machine, because in
# lockstep what is on the way then is lost; that a host is gone is known sooner, see ``host_link``.
HEARTBEAT_MS, SILENCE_MS = 1000, 15_000
CONNECT_MS = 1000  # a connection to a host that does not answer is tried anew, not waited for
HANDSHAKE_MS = 10_000  # who does not finish the handshake is shown out
WORDS_BYTES = 4096  # most that a stranger can make a publisher keep; a subscription has some ten bytes
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL

log = logging.getLogger("visuomotor.messages")


class Doorkeeper:
    """Answers for the doors of one process, in a thread: which keys of which hosts may connect where.

    ``refused`` counts: ``unknown_key`` (a key that is not of this run), ``not_a_reader`` (a host of this run that has
    nothing to read there), ``no_key`` (no handshake at all, or one for another server).
    """

    def __init__(self, context: zmq.Context[Any], network: Network) -> None:
        self.refused: Counter[str] = Counter()
        self._network = network
        self._named: set[tuple[str, str, str]] = set()
        self._watched: list[tuple[str, zmq.Socket[bytes]]] = []
        self._thread: threading.Thread | None = None
        if network.encryption != CURVE:
            return
        folder = Path(network.keys)
        self._hosts = {load_public(folder, host): host for host in network.addresses}
        self._questions = context.socket(zmq.REP)
        self._questions.bind(ZAP_ADDRESS)
        self._stop = context.socket(zmq.PAIR)
        self._stopped = context.socket(zmq.PAIR)
        self._stopped.bind(f"inproc://doorkeeper-{id(self)}")
        self._stop.connect(f"inproc://doorkeeper-{id(self)}")
        self._thread = threading.Thread(target=self._answer_all, name="doorkeeper", daemon=True)
        self._thread.start()

    def bind(self, socket: zmq.Socket[bytes], name: str) -> None:
        """Open the door ``name`` for a socket, beside what it is bound to already."""
        network = self._network
        if network.encryption == CURVE:
            pair = load_pair(Path(network.keys), network.own)
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
            socket.setsockopt(zmq.ZAP_DOMAIN, name.encode())
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # no doorkeeper, no entry
        _keep_alive(socket)
        monitor = socket.get_monitor_socket(REFUSED)
        self._watched.append((name, monitor))
        endpoint = network.endpoint(network.own, name)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise NetworkError(
                f"{network.own}: {endpoint} cannot be bound ({os.strerror(error.errno or 0)})"
            ) from error

    def watch(self) -> dict[str, int]:
        """Counts of who was refused since the start; call about once a second."""
        for name, monitor in self._watched:
            while monitor.poll(0):
                zmq.utils.monitor.recv_monitor_message(monitor)
                self._refuse(name, "somebody", "no_key")
        return dict(self.refused)

    def close(self) -> None:
        """End the thread; the doors are closed by whoever opened them."""
        for _, monitor in self._watched:
            monitor.close()
        if self._thread is not None:
            self._stop.send(b"")
            self._thread.join()
            for socket in (self._stop, self._stopped, self._questions):
                socket.close()

    def _answer_all(self) -> None:
        poller = zmq.Poller()
        for socket in (self._questions, self._stopped):
            poller.register(socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stopped in ready:
                return
            version, request, domain, address, _, mechanism, *credentials = self._questions.recv_multipart()
            host = self._hosts.get(z85.encode(credentials[0])) if mechanism == b"CURVE" and credentials else None
            name = domain.decode(errors="replace")
            door = self._network.doors.get(name)
            if host is not None and door is not None and host in door.hosts:
                verdict = [b"200", b"OK", host.encode(), b""]
            else:
                self._refuse(name, address.decode(errors="replace"), "unknown_key" if host is None else "not_a_reader")
                verdict = [b"400", b"refused", b"", b""]
            self._questions.send_multipart([version, request, *verdict])

    def _refuse(self, name: str, who: str, cause: str) -> None:
        self.refused[cause] += 1
        if (name, who, cause) not in self._named and len(self._named) < 100:
            self._named.add((name, who, cause))
            log.warning("%s: refused %s (%s); more of the same are only counted", name, who, cause)


class Caller(msgspec.Struct):
    """What is known of one connection to a door: whether we are refused there, or do not believe who answers."""

    connected: bool = False  # but not let in yet

    def note(self, event: int) -> bool:
        """Take in an event of the monitor; True when it says that the handshake failed."""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.connected = False
            return True
        failed = self.connected and event == zmq.EVENT_DISCONNECTED
        if event in (zmq.EVENT_CONNECTED, zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED):
            self.connected = event == zmq.EVENT_CONNECTED
        return failed


CALLS = (
    zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
)  # what a monitor of a Caller has to report


def prepare_call(socket: zmq.Socket[bytes], network: Network, host: str) -> None:
    """Set up a socket for ``connect`` to a door of ``host``, whose key it must prove to have."""
    if network.encryption == CURVE:
        folder = Path(network.keys)
        pair = load_pair(folder, network.own)
        socket.setsockopt(zmq.CURVE_SERVERKEY, load_public(folder, host))
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    _keep_alive(socket)


def caller_of(part: zmq.Frame) -> str | None:
    """Host whose key a message came under; None for one of this host, or where there are no keys."""
    with contextlib.suppress(zmq.ZMQError, UnicodeDecodeError):
        return str(part.get("User-Id")) or None
    return None


def _keep_alive(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, SILENCE_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
