"""Publisher and Subscriber: messages over ZeroMQ sockets, in either clock.

Realtime, services with queue ``newest``: both ends keep one message, so a slow or stopped reader neither sees an old
frame nor slows a publisher nor grows a queue. Services with queue ``all``: bounded, what does not fit is lost at the
reader that is too slow. Lockstep: unbounded and lossless, the graph's own waiting keeps queues short.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import msgspec
import zmq
import zmq.utils.monitor
from zmq.utils.garbage import gc as lent  # buffers of ours that libzmq may still read

from visuomotor.messages import frame, wire
from visuomotor.messages.curve import CALLS, WORDS_BYTES, Caller, Doorkeeper, prepare_call
from visuomotor.messages.digest import TopicDigests
from visuomotor.messages.run_clock import RunClock
from visuomotor.messages.schema import Message
from visuomotor.messages.services import SERVICES
from visuomotor.messages.wiring import RunPlace, newest_only

EVENT_QUEUE = 1000  # messages kept for a reader of a queue='all' service in realtime
RECONNECT_MS = 100  # how often a reader looks for a publisher that is gone
LINGER_MS = 300  # how long a closing publisher tries to get its last words out
MONITORED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECTED
READ_AT_ONCE = 10_000  # messages taken from one socket before the others get their turn
LENT_MAX = 16  # buffers; a publisher that never rests is ahead of the thread that takes them back, and copies instead


class Received(msgspec.Struct, frozen=True):
    """One message from one publisher; ``message`` is None where the publisher had nothing for this tick.

    ``body`` are the bytes that it came as.
    """

    service: str
    node: str
    episode: int
    tick: int
    t_publish_ns: int
    message: Message | None
    body: wire.Buffer = b""


class _Source(msgspec.Struct):
    """One socket of a subscriber."""

    node: str
    endpoint: str
    monitor: zmq.Socket[bytes]
    services: dict[bytes, str]  # prefix -> service
    at_once: int  # messages to take before the other sockets get their turn
    stale_ns: float
    caller: Caller | None = None  # of a publisher on another host
    cut: bool = False  # the last thing that happened to the connection is that it ended


class Publisher:
    """Everything one node publishes."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], place: RunPlace, node: str, services: Iterable[str]
    ) -> None:
        self.place = place
        self.node = node
        self.episode = -1
        self.digests = TopicDigests()
        self.clock = RunClock(place.clock_file)
        self.doorkeeper = None if place.network is None else Doorkeeper(context, place.network)
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._services: dict[str, zmq.Socket[bytes]] = {}
        try:
            for service in dict.fromkeys(services):
                name = place.socket_name(node, service)
                if name not in self._sockets:
                    self._sockets[name] = self._open(context, name, service)
                self._services[service] = self._sockets[name]
        except BaseException:
            self.close()  # or the context would wait for what is open
            raise

    def _open(self, context: zmq.Context[zmq.Socket[bytes]], name: str, service: str) -> zmq.Socket[bytes]:
        """Socket ``name``, bound for readers of this host and, where there are any, for those of others."""
        place = self.place
        socket = context.socket(zmq.PUB)
        newest = newest_only(service, place.clock)
        if newest:
            socket.setsockopt(zmq.CONFLATE, 1)
        else:
            socket.setsockopt(zmq.SNDHWM, 0 if place.clock == "lockstep" else EVENT_QUEUE)
        socket.setsockopt(zmq.LINGER, 0 if newest else LINGER_MS)
        try:
            socket.bind(place.endpoint(self.node, service))
            if self.doorkeeper is not None and place.network is not None and name in place.network.doors:
                socket.setsockopt(zmq.MAXMSGSIZE, WORDS_BYTES)
                self.doorkeeper.bind(socket, name)
        except BaseException:
            socket.close(linger=0)
            raise
        return socket

    def begin_episode(self, episode: int) -> None:
        """Start the digests afresh."""
        self.episode = episode
        self.digests.clear()

    def publish(self, service: str, message: Message) -> None:
        """Send one message; its header must be complete. Raises WireError when it does not fit the schema."""
        head = self._head(service, message.header.episode, message.header.tick, frame.DATA)
        data = wire.encode_frame(service, message, head)
        if self.place.clock == "lockstep":
            with memoryview(data) as view:
                self.digests.add(service, view[frame.BODY_START :])
        self._send(service, data)

    def absent(self, service: str, tick: int) -> None:
        """Tell readers in lockstep that there is no message at this tick."""
        head = self._head(service, self.episode, tick, frame.ABSENT)
        self._send(service, frame.MARK + head + frame.EMPTY_BODY)

    def probe(self) -> None:
        """Send on every service what tells a subscriber that it is connected."""
        for service in self._services:
            self._send(service, frame.MARK + self._head(service, -1, -1, frame.PROBE) + frame.EMPTY_BODY)

    def _head(self, service: str, episode: int, tick: int, kind: int) -> bytes:
        return frame.pack_head(service, self.place.run_id, frame.Head(self.clock.now_ns(), episode, tick, kind))

    def _send(self, service: str, data: bytes | memoryview) -> None:
        copy = len(lent.refs) >= LENT_MAX
        with contextlib.suppress(zmq.Again):  # a PUB socket drops, it never waits
            self._services[service].send(data, zmq.NOBLOCK, copy=copy)

    def watch(self) -> dict[str, int]:
        """Cause -> who was not let in from the network since the start; look about once a second."""
        return {} if self.doorkeeper is None else self.doorkeeper.watch()

    def close(self) -> None:
        """Close the sockets."""
        for socket in self._sockets.values():
            socket.close()
        if self.doorkeeper is not None:
            self.doorkeeper.close()


class Subscriber:
    """Everything one process reads. ``dropped`` counts by cause what was refused:

    malformed (does not fit the schema), foreign (another run or no frame of ours), stale (newest-only and older than
    the service's ``max_age_s`` when read, e.g. after the reader was stopped), oversized (over the service's
    ``max_bytes``; the transport cuts such a publisher off and joins it again), refused (a handshake with a
    publisher on another host failed: it does not take our key, or has not the one that its host should have).
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        place: RunPlace,
        sources: Mapping[str, Iterable[str]],  # service -> nodes that publish it
    ) -> None:
        self.place = place
        self.dropped: Counter[str] = Counter()
        self.unheard: set[tuple[str, str]] = set()  # (service, node) from which nothing has come yet
        self._clock = RunClock(place.clock_file)
        self._poller = zmq.Poller()
        self._sources: dict[zmq.Socket[bytes], _Source] = {}
        by_socket: dict[str, tuple[str, list[str]]] = {}
        for service, nodes in sources.items():
            for node in nodes:
                by_socket.setdefault(place.socket_name(node, service), (node, []))[1].append(service)
                self.unheard.add((service, node))
        for name, (node, services) in by_socket.items():
            socket = context.socket(zmq.SUB)
            newest = newest_only(services[0], place.clock)
            if newest:
                socket.setsockopt(zmq.CONFLATE, 1)  # before connect, or it does nothing
            else:
                socket.setsockopt(zmq.RCVHWM, 0 if place.clock == "lockstep" else EVENT_QUEUE)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.setsockopt(zmq.MAXMSGSIZE, max(SERVICES[s].max_bytes for s in services) + frame.BODY_START)
            for service in services:
                socket.setsockopt(zmq.SUBSCRIBE, frame.prefix(service))
            endpoint, caller = place.endpoint(node, services[0]), None
            monitor = socket.get_monitor_socket(MONITORED | CALLS)
            if place.network is not None and (host := place.other_host(node)):
                endpoint, caller = place.network.endpoint(host, name), Caller()
                prepare_call(socket, place.network, host)
            socket.connect(endpoint)
            at_once = 1 if newest else READ_AT_ONCE  # a conflating socket holds one message
            stale_ns = SERVICES[services[0]].max_age_s * 1e9 if newest else math.inf
            prefixes = {frame.prefix(s): s for s in services}
            self._sources[socket] = _Source(node, endpoint, monitor, prefixes, at_once, stale_ns, caller)
            self._poller.register(socket, zmq.POLLIN)

    def poll(self, timeout_s: float) -> list[Received]:
        """Wait up to ``timeout_s`` for anything to come and return all that is there, in order for each publisher."""
        received: list[Received] = []
        for socket, _ in self._poller.poll(max(0, int(timeout_s * 1e3))):
            source = self._sources[socket]
            for _ in range(source.at_once):
                try:
                    part = socket.recv(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                if part.more:  # ours have one part; take the rest off the socket
                    while socket.getsockopt(zmq.RCVMORE):
                        socket.recv(zmq.NOBLOCK, copy=False)
                    self.dropped["foreign"] += 1
                    continue
                self._read(source, part.buffer, received)
        return received

    def _read(self, source: _Source, data: memoryview, received: list[Received]) -> None:
        service = source.services.get(bytes(data[: frame.PREFIX_SIZE]))
        head = None if service is None else frame.unpack_head(self.place.run_id, data)
        if service is None or head is None:
            self.dropped["foreign"] += 1
            return
        if self.unheard:
            self.unheard.discard((service, source.node))
        if head.kind == frame.PROBE:
            return
        if self._clock.now_ns() - head.t_publish_ns > source.stale_ns:
            self.dropped["stale"] += 1
            return
        message: Message | None = None
        body = data[frame.BODY_START :]
        if head.kind == frame.DATA:
            try:
                message = wire.decode(service, body)
            except wire.WireError:
                self.dropped["malformed"] += 1
                return
            message.header.run_id, message.header.episode = self.place.run_id, head.episode
        received.append(Received(service, source.node, head.episode, head.tick, head.t_publish_ns, message, body))

    def doubt(self, node: str) -> None:
        """Count a node's services as unheard again: it was restarted, and the transport has still to find it."""
        for source in self._sources.values():
            if source.node == node:
                self.unheard.update((service, node) for service in source.services.values())

    def waits_for(self, dead: Collection[str] = ()) -> list[str]:
        """Nodes, but the dead, of which some service is unheard."""
        return sorted({node for _, node in self.unheard}.difference(dead))

    def watch(self) -> dict[str, int]:
        """Look at the connections, about once a second, and return the counts of what was dropped.

        A publisher that dies is looked for again by the transport. One that broke the rules, by sending more than
        ``MAXMSGSIZE``, is not: that is how the two are told apart, and such a one is joined again here.
        """
        for socket, source in self._sources.items():
            suspected = source.cut
            while source.monitor.poll(0):
                event = zmq.utils.monitor.recv_monitor_message(source.monitor)["event"]
                if source.caller is not None and source.caller.note(event):
                    self.dropped["refused"] += 1
                source.cut = event == zmq.EVENT_DISCONNECTED
            if suspected and source.cut:  # nothing has followed since the last look
                source.cut = False
                self.dropped["oversized"] += 1
                with contextlib.suppress(zmq.ZMQError):  # the transport may have forgotten the address already
                    socket.disconnect(source.endpoint)
                socket.connect(source.endpoint)
        return dict(self.dropped)

    def close(self) -> None:
        """Close the sockets."""
        for socket, source in self._sources.items():
            socket.disable_monitor()
            source.monitor.close()  # disable_monitor only forgets it; open, it keeps the context from ending
            socket.close()
